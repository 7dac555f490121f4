"""GGUF files: what one states about its model, held against the configuration that transformers makes of it.

Transformers reads a GGUF file's metadata by a list of keys and leaves out the others, and tensors that its model has no
place for. What is left out can change every number: the stretched rotary positions of Llama 3 are one such tensor. So
every key and every tensor is accounted for: what the converter copied out of the model's configuration is copied back,
what nothing is known of becomes a note, and the rest is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import isclose, sqrt
from pathlib import Path
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.model.files import first_line

_COPIED: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "vocab_size": ("vocab_size",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_shared_count": ("n_shared_experts",),
}
"""Keys that hold what one attribute of the configuration holds, under the first of these names that it has."""

_SETTABLE = {
    *("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.sliding_window"),
    *("attention.scale", "attn_logit_softcapping", "final_logit_softcapping"),
    *("embedding_scale", "residual_scale", "logit_scale", "use_parallel_residual"),
}
"""Of these, the ones that a model reads from its configuration as they stand; other differences are refused."""

_STRETCH = "rope_freqs.weight"
_OF_NO_EFFECT = {"context_length", "tensor_data_layout", "rope.scaling.finetuned", "pooling_type"}
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all Llama 3 models state beside their factor."""


@dataclass(frozen=True)
class Header:
    """What a GGUF file states.

    Attributes:
        name: how messages call the file.
        architecture: e.g. `"llama"`.
        settings: its metadata without the architecture in front, e.g. `"rope.freq_base"`.
        begins: whether it states that a text begins with a token of its own; None where it says nothing.
        splits: how it cuts texts into words before tokens, e.g. `"llama-bpe"`.
        tensors: the names of its tensors.
        stretch: by how much each frequency of the rotary positions is divided (`rope_freqs.weight`), or None.
    """

    name: str
    architecture: str
    settings: Mapping[str, Any]
    begins: bool | None
    splits: str | None
    tensors: tuple[str, ...]
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
        stated, tensors = read_gguf_metadata(str(path))
        table = GgufHeader.from_file(str(path))
        front = f"{stated['general.architecture']}."
        stretch = None
        if _STRETCH in tensors:
            stretch = load_gguf_state_dict(table)[_STRETCH][...].double()
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


def complete(config: Any, header: Header) -> tuple[str, ...]:
    """Copy into the configuration what the file states and transformers left out; notes on what nobody knows.

    Raises:
        UserError: the file states something that the configuration cannot hold.
    """
    _rotary(config, header)
    window = "attention.sliding_window"
    if window not in header.settings and not getattr(config, "layer_types", None):
        # The default of a class, which is one model's: a file without a window has none.
        _set(config, window, None)
    unknown = []
    for key, value in header.settings.items():
        if key in _OF_NO_EFFECT or key.startswith("rope.") or _is_off(value):
            continue
        ours = _COMPUTED.get(key, _copied(key))(config)
        if ours is None and key not in _COPIED and key not in _COMPUTED:
            unknown.append(f"{header.architecture}.{key} = {_short(value)}")
        elif not _same(ours, value) and (key not in _SETTABLE or not _set(config, key, value)):
            raise UserError(
                f"the GGUF file {header.name} states {key} = {_short(value)}, where transformers makes {_short(ours)} "
                "of it: the model would be another one. Load its original weights (safetensors)."
            )
    return (*_note_on_splits(header), *(_note_on(header, one) for one in unknown))


def check_tensors(header: Header, model: Any) -> None:
    """Refuse a file with tensors for which a model of its configuration (which may lie on `meta`) has no place.

    Raises:
        UserError: it names the first one.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == header.architecture), None)
    if kind is None:
        raise UserError(f"the GGUF architecture {header.architecture!r} is not known to the package gguf.")
    names = get_tensor_name_map(kind, model.config.get_text_config().num_hidden_layers)
    known = {names.get_name(key, try_suffixes=(".weight", ".bias")) for key in model.state_dict()}
    # Experts lie side by side in one tensor, which transformers names otherwise; lacking ones are found at loading.
    left = [one for one in header.tensors if one not in known and one != _STRETCH and "_exps." not in one]
    if left:
        raise UserError(
            f"the GGUF file {header.name} holds the tensor {left[0]!r}, which the {model.config.model_type} model of "
            "transformers would leave out: the model would be another one. Load its original weights (safetensors)."
        )


def _rotary(config: Any, header: Header) -> None:
    """Rotary positions: base, dimensions and stretching, as the file states them."""
    stated = {key.removeprefix("rope."): value for key, value in header.settings.items() if key.startswith("rope.")}
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        if stated.keys() - {"dimension_count", "scaling.finetuned"}:
            raise UserError(f"the GGUF file {header.name} states rotary positions, which {config.model_type} has not.")
        return
    kinds = {name: one for name, one in rope.items() if isinstance(one, dict)}
    whole = kinds.get("full_attention", rope)
    local = kinds.get("sliding_attention", whole)
    for kind, key in ((whole, "freq_base"), (local, "freq_base_swa")):
        if key in stated:
            kind["rope_theta"] = float(stated[key])
    width = stated.get("dimension_count")
    if width and not isclose(width, _head_dim(config) * whole.get("partial_rotary_factor", 1.0)):
        whole["partial_rotary_factor"] = width / _head_dim(config)
    kind, factor = stated.get("scaling.type", "none"), float(stated.get("scaling.factor") or 1.0)
    if kind == "linear" and factor != 1.0:
        whole |= {"rope_type": "linear", "factor": factor}
    elif kind not in ("none", "linear") and not _same(whole.get("rope_type"), kind):
        raise UserError(
            f"the GGUF file {header.name} stretches rotary positions by {kind!r}, which transformers does not read "
            "from GGUF: load the model's original weights (safetensors)."
        )
    if header.stretch is not None and not bool((header.stretch == 1).all()):
        _stretch(config, whole, header)
    for key in sorted(stated.keys() - _ROTARY_KEYS):
        if not _is_off(stated[key]):
            raise UserError(
                f"the GGUF file {header.name} states rope.{key} = {_short(stated[key])}, which transformers does not "
                "read from GGUF: load the model's original weights (safetensors)."
            )


_ROTARY_KEYS = {
    *("freq_base", "freq_base_swa", "dimension_count", "dimension_count_swa"),
    *("scaling.type", "scaling.factor", "scaling.finetuned", "scaling.original_context_length"),
}


def _stretch(config: Any, rope: dict[str, Any], header: Header) -> None:
    """Set Llama 3's rotary positions, if they give the very factors that the file holds for each frequency."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert header.stretch is not None
    before = dict(rope)
    factor = round(float(header.stretch.max()), 4)
    rope |= _LLAMA_3 | {"rope_type": "llama3", "factor": factor}
    frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double()
    width = 2 * len(frequencies)
    plain = float(rope["rope_theta"]) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if header.stretch.shape != plain.shape or not torch.allclose(plain / header.stretch, frequencies, rtol=1e-4):
        rope.clear()
        rope |= before
        raise UserError(
            f"the GGUF file {header.name} holds rope_freqs.weight, which stretches rotary positions in another way "
            "than Llama 3 does; transformers would leave it out: load the model's original weights (safetensors)."
        )


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _scale(config: Any) -> float:
    """The factor of the scores that a configuration means."""
    given = getattr(config, "attention_multiplier", None)
    return given or 1 / sqrt(getattr(config, "query_pre_attn_scalar", None) or _head_dim(config))


def _pattern(config: Any) -> list[bool] | None:
    """Which layers have a window."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds is None else [kind == "sliding_attention" for kind in kinds]


def _inner(config: Any) -> int:
    """The width of the MLPs; GPT-2's is four times the model's where none is stated."""
    named = (getattr(config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim"))
    return next((width for width in named if width is not None), 4 * config.hidden_size)


_COMPUTED: dict[str, Callable[[Any], Any]] = {
    "feed_forward_length": _inner,
    "attention.key_length": _head_dim,
    "attention.value_length": _head_dim,
    "attention.key_length_swa": _head_dim,
    "attention.value_length_swa": _head_dim,
    "attention.scale": _scale,
    "attention.sliding_window_pattern": _pattern,
    "attention.causal": lambda config: True,
}
"""Keys whose value follows from several attributes."""


def _copied(key: str) -> Callable[[Any], Any]:
    def read(config: Any) -> Any:
        return next(
            (value for name in _COPIED.get(key, ()) if (value := getattr(config, name, None)) is not None), None
        )

    return read


def _set(config: Any, key: str, value: Any) -> bool:
    """Set the attribute that a key is of; False where the configuration has none."""
    name = next((name for name in _COPIED[key] if hasattr(config, name)), None)
    if name is not None:
        setattr(config, name, value)
    return name is not None


def _same(ours: Any, value: Any) -> bool:
    """Whether a number of the configuration is the file's, which keeps single precision."""
    if isinstance(value, bool):
        return bool(ours) == value
    if isinstance(value, list):
        if isinstance(ours, list):
            return ours == value
        return all(_same(ours, one) for one in value)
    if isinstance(ours, list):
        # Every n-th layer sees everything.
        return isinstance(value, int) and ours == [(i + 1) % value != 0 for i in range(len(ours))]
    if isinstance(value, float) and isinstance(ours, int | float):
        return isclose(ours, value, rel_tol=1e-6)
    return bool(ours == value)


def _is_off(value: Any) -> bool:
    """Whether a key says that something is not done; a switch that is off may be one that the model has on."""
    return not isinstance(value, bool) and value in (0, "none", "", -1)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _note_on(header: Header, stated: str) -> str:
    return (
        f"The GGUF file {header.name} states {stated}, which neither transformers nor iclens reads from GGUF: "
        "the model may differ from the one that was packed."
    )


def note_on_begin(header: Header, tokenizer: Any) -> tuple[str, ...]:
    """A note where the tokenizer that transformers makes of a file begins a text otherwise than the file states."""
    if header.begins is None or (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]) == header.begins:
        return ()
    stated, does = ("states", "does not") if header.begins else ("does not state", "does")
    return (
        f"The GGUF file {header.name} {stated} that a text begins with {tokenizer.bos_token!r}, but the tokenizer that "
        f"transformers makes of it {does}.",
    )


def _note_on_splits(header: Header) -> tuple[str, ...]:
    """A note where transformers cuts words as GPT-2 does because it does not know the file's own way."""
    from transformers.integrations.gguf import gguf_tokenizer_mapping as of_tokenizers

    # Earlier versions know none.
    known = getattr(of_tokenizers, "GGUF_PRE_TOKENIZER_SPLITS", {})
    if header.splits in (None, "default", "gpt-2", "gpt2", "smollm", *known):
        return ()
    return (
        f"The GGUF file {header.name} cuts texts into words by {header.splits!r}, which transformers does not know: "
        "tokens may differ from those of the original tokenizer.",
    )
