"""GGUF files: what one states about its model, and its tensors checked against those of a model of transformers.

Transformers reads a GGUF file's metadata by a list of keys and leaves out the others, and tensors that its model has no
place for. What is left out can change every number: the stretched rotary positions of Llama 3 are one such tensor. So
every tensor is accounted for here, and every key in `gguf_settings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.model.files import first_line

STRETCH = "rope_freqs.weight"
"""The tensor by whose numbers the frequencies of rotary positions are divided."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file states.

    Attributes:
        name: how messages call the file.
        architecture: e.g. `"llama"`.
        settings: its metadata without the architecture in front, e.g. `"rope.freq_base"`.
        begins: whether it states that a text begins with a special token; None where it says nothing.
        splits: how it cuts texts into words before tokens, e.g. `"llama-bpe"`.
        tensors: the names of its tensors, each with how many numbers it holds.
        stretch: by how much each frequency of the rotary positions is divided (`rope_freqs.weight`), or None.
    """

    name: str
    architecture: str
    settings: Mapping[str, Any]
    begins: bool | None
    splits: str | None
    tensors: Mapping[str, int]
    stretch: torch.Tensor | None


def read_header(path: Path) -> Header:
    """Read what a GGUF file states.

    Raises:
        UserError: the packages that read it are missing, or the file is damaged.
    """
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        wanted = " and ".join(missing)
        raise UserError(f"a GGUF file needs the package {wanted}: `pip install 'iclens[gguf]'` brings it.")
    # The package's own reader takes seconds for the vocabulary, this one a tenth.
    from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict, read_gguf_metadata

    try:
        stated, _ = read_gguf_metadata(str(path))
        table = GgufHeader.from_file(str(path))
        tensors = {one.name: prod(one.shape) for one in table.tensors}
        front = f"{stated['general.architecture']}."
        stretch = None
        if STRETCH in tensors:
            stretch = load_gguf_state_dict(table)[STRETCH][...].double()
    except Exception as error:
        # The reader walks the file by the numbers that stand in it, and fails as these lead it.
        raise UserError(f"{path} is not a GGUF file that can be read: {first_line(error)}") from error
    size, needed = (
        path.stat().st_size,
        max((table.data_start + one.offset + one.nbytes for one in table.tensors), default=0),
    )
    if size < needed:
        raise UserError(f"{path} was cut short: it has {size} bytes, and its tensors need {needed}. Download it again.")
    settings = {key.removeprefix(front): value for key, value in stated.items() if key.startswith(front)}
    begins, splits = (stated.get(f"tokenizer.ggml.{key}") for key in ("add_bos_token", "pre"))
    return Header(path.name, front[:-1], settings, begins, splits, tensors, stretch)


def why_not(header: Header, error: Exception) -> str:
    """Why no configuration could be made of a file, in words for the user."""
    if "not supported" in str(error):
        return (
            f"the GGUF file {header.name} holds a model of the architecture {header.architecture!r}, which "
            "transformers does not read from GGUF: load its original weights (safetensors)."
        )
    return f"no configuration can be made of the GGUF file {header.name}: {first_line(error)}"


def check_tensors(header: Header, model: Any) -> None:
    """Hold a file's tensors against a model of its configuration, which may lie on `meta`: names and sizes.

    Experts lie side by side in one tensor, whose gates and up-projections transformers joins: where one of the two were
    missing, it would fill in zeros.

    Raises:
        UserError: it names the first tensor for which the model has no place, that has another size, or that lacks.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == header.architecture), None)
    if kind is None:
        raise UserError(f"the GGUF architecture {header.architecture!r} is not known to the package gguf.")
    names = get_tensor_name_map(kind, model.config.get_text_config().num_hidden_layers)
    sizes: dict[str | None, int] = {}
    for key, weight in model.state_dict().items():
        joined = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", key)
        if joined:
            parts = joined[2].split("_")
            sizes |= {f"blk.{joined[1]}.ffn_{part}_exps.weight": weight.numel() // len(parts) for part in parts}
        else:
            sizes[names.get_name(key, try_suffixes=(".weight", ".bias"))] = weight.numel()
    its_model = f"the {model.config.model_type} model of transformers"
    advice = "the model would be another one. Load its original weights (safetensors)."
    for name, size in header.tensors.items():
        if name not in sizes and name != STRETCH:
            raise UserError(
                f"the GGUF file {header.name} holds the tensor {name!r}, which {its_model} would leave out: {advice}"
            )
        if sizes.get(name, size) != size:
            raise UserError(
                f"the GGUF file {header.name} holds the tensor {name!r} with {size} numbers, where {its_model} has "
                f"{sizes[name]}: the file contradicts itself, or states what transformers does not read."
            )
    lost = [name for name in sizes if name is not None and "_exps." in name and name not in header.tensors]
    if lost:
        raise UserError(f"the GGUF file {header.name} lacks the tensor {lost[0]!r}, which would be zero: {advice}")


def note_on_begin(header: Header, tokenizer: Any) -> tuple[str, ...]:
    """A note where the tokenizer that transformers makes of a file begins a text otherwise than the file states."""
    if header.begins is None or (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) == header.begins:
        return ()
    stated, does = ("states", "does not") if header.begins else ("does not state", "does")
    return (
        f"The GGUF file {header.name} {stated} that a text begins with {tokenizer.bos_token!r}, but the tokenizer that "
        f"transformers makes of it {does}.",
    )


def note_on_splits(header: Header) -> tuple[str, ...]:
    """Return a note where transformers cuts words as GPT-2 does because it does not know the file's own way."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as of_tokenizers

    # Earlier versions know none.
    known = getattr(of_tokenizers, "GGUF_PRE_TOKENIZER_SPLITS", {})
    if header.splits in (None, "default", "gpt-2", "gpt2", "smollm", *known):
        return ()
    return (
        f"The GGUF file {header.name} cuts texts into words by {header.splits!r}, which transformers does not know: "
        "tokens may differ from those of the original tokenizer.",
    )
