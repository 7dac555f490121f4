"""Loading a model that the lens handles exactly, or a refusal by name before any forward pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError
from iclens.lens.anatomy import Anatomy, bind
from iclens.lens.families import FAMILIES, Family

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class LensModel:
    """A language model, or an encoder, that the lens can read.

    Attributes:
        model: the Hugging Face model, in evaluation mode.
        tokenizer: its fast tokenizer, or None when only token ids will be given.
        family: where its parts are.
        name: what the user asked for.
    """

    model: Any
    tokenizer: Any
    family: Family
    name: str

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any = None, name: str | None = None) -> LensModel:
        """A model and tokenizer that are loaded already.

        Args:
            model: a Hugging Face model of a supported family; causal ones with their language-modelling head.
            tokenizer: its fast tokenizer; None when only token ids will be given.
            name: what reports call it; by default the folder or hub name that it was loaded from.

        Raises:
            UserError: the family, its configuration or the tokenizer cannot be handled exactly.
        """
        config = getattr(model, "config", None)
        if not isinstance(model, nn.Module) or not hasattr(config, "model_type"):
            raise UserError(f"{type(model).__name__} is not a Hugging Face model: it has no configuration to go by.")
        family = family_of(config)
        if tokenizer is not None:
            check_tokenizer(tokenizer)
        wrapped = cls(model, tokenizer, family, name or getattr(model, "name_or_path", "") or type(model).__name__)
        _ = wrapped.anatomy
        return wrapped

    @cached_property
    def anatomy(self) -> Anatomy:
        """The modules that the lens reads."""
        return bind(self.model, self.family)

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
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def context_length(self) -> int | None:
        """Most tokens that fit, or None when the configuration sets no limit."""
        length = getattr(self.text_config, "max_position_embeddings", None)
        if length is None:
            return None
        rope = getattr(self.text_config, "rope_parameters", None) or {}
        # Only this kind of rotary positions stretches beyond the length that the configuration names.
        stretch = rope.get("factor", 1.0) if rope.get("rope_type") == "dynamic" else 1.0
        return int(length * stretch)

    def require_causal(self) -> None:
        """Raise `UserError` for an encoder: it has no next token to explain."""
        if not self.family.causal:
            raise UserError(
                f"{self.name} is of the family {self.family.name}, an encoder: its attention can be captured "
                "and verified, but it has no next token to explain."
            )


def supported() -> str:
    """The families, in words, for messages."""
    return ", ".join(FAMILIES)


def family_of(config: Any) -> Family:
    """The family of a configuration.

    Raises:
        UserError: the family is not supported, or this configuration of it is not.
    """
    if config.model_type not in FAMILIES:
        raise UserError(_unsupported(config.model_type))
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"this {config.model_type} model is quantised: its linear maps are not read exactly. "
            "Load unquantised weights."
        )
    if getattr(config, "output_attentions", False):
        raise UserError(
            "config.output_attentions=True forces the eager attention, so that it cannot be captured: set it to False."
        )
    family = FAMILIES[config.model_type](config)
    text = config.get_text_config()
    backwards = getattr(text, "use_bidirectional_attention", None) or getattr(text, "is_causal", True) is False
    if family.causal and backwards:
        raise UserError(
            f"this {config.model_type} model attends to later tokens (use_bidirectional_attention or is_causal=False): "
            "iclens explains only causal attention in this family."
        )
    return family


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say which characters a token covers.

    Raises:
        UserError: it is not a fast tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"the tokenizer {type(tokenizer).__name__} gives no offsets, so that tokens cannot be assigned "
            "to demonstrations: a fast tokenizer (tokenizer.json) is needed."
        )


def load(name: str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> LensModel:
    """Load a causal language model or an encoder.

    Only safetensors are loaded and no code from the checkpoint runs. Everything is refused before the weights
    are read where possible, and always before a forward pass.

    Args:
        name: a local folder, a hub name, or `"bundled"` for the model that ships with iclens.
        dtype: type of the weights; float32 by default, so that residuals are tight.
        device: where to put the model.

    Raises:
        UserError: an unknown model, an unsupported family or configuration, no safetensors weights, weights
            that do not fit, or a tokenizer without offsets.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    source = _source(name)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(_why_no_config(name, source, error)) from error
    family = family_of(config)
    if Path(source).is_dir():
        _check_weights(Path(source))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        # Tokenizer classes raise whatever their missing or broken files lead to.
        raise UserError(f"the tokenizer of {name} could not be loaded: {_first_line(error)}") from error
    check_tokenizer(tokenizer)
    loader = AutoModelForCausalLM if family.causal else AutoModel
    try:
        with _quiet():
            model, info = loader.from_pretrained(
                source,
                config=config,
                dtype=dtype or torch.float32,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        model = model.to(device).eval()
    except Exception as error:
        # safetensors, size mismatches and devices each raise their own kind.
        raise UserError(f"the weights of {name} could not be loaded as safetensors: {_first_line(error)}") from error
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing:
        raise UserError(
            f"the weights of {name} lack {len(missing)} tensors of a {family.name} model, first "
            f"{sorted(missing)[0]!r}: they would be random."
        )
    return LensModel.wrap(model, tokenizer, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar for reading a local file: commands show their own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _source(name: str) -> str:
    if name == "bundled":
        from iclens import bundled

        return str(bundled.path())
    path = Path(name).expanduser()
    if path.is_file():
        raise UserError(f"{name} is a file: give the folder that holds config.json and the weights.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"the folder {name} has no config.json: it is not a saved model.")
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or not name.strip():
        raise UserError(f"there is no folder {name!r}.")
    return name


def _unsupported(model_type: str) -> str:
    return f"the model family {model_type!r} is not one that iclens handles exactly. Supported families: {supported()}."


def _why_no_config(name: str, source: str, error: Exception) -> str:
    config = Path(source) / "config.json"
    if config.is_file():
        try:
            content = json.loads(config.read_text())
            model_type = content.get("model_type") if isinstance(content, dict) else None
        except ValueError:
            return f"the config.json of {name} is not JSON: {_first_line(error)}"
        if model_type is None:
            return f"the config.json of {name} names no model_type. Supported families: {supported()}."
        if model_type not in FAMILIES:
            return _unsupported(model_type)
        return f"the config.json of {name} could not be read: {_first_line(error)}"
    if "trust_remote_code" in str(error):
        return f"{name} needs code from its repository, which iclens never runs. Supported families: {supported()}."
    return (
        f'unknown model {name!r}: neither a folder here, nor "bundled", nor a model that could be found on the hub '
        f"({_first_line(error)})"
    )


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text()).get("weight_map", {}).values()))
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        if lost or not shards:
            raise UserError(f"the folder {folder} lacks the weights {lost[0] if lost else 'named in its index'}.")
        return
    pickles = sorted(
        file.name for pattern in PICKLES for file in folder.glob(pattern) if file.name != "training_args.bin"
    )
    if pickles:
        raise UserError(
            f"the folder {folder} holds only a pickle checkpoint ({pickles[0]}): loading one can run any code, so "
            "iclens reads only safetensors. Save it again with model.save_pretrained."
        )
    raise UserError(f"the folder {folder} has no weights (model.safetensors).")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
