"""Which layers of a Hugging Face model can take an attention variant, and their dimensions."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iclens.errors import UserError

# Terms of the scores that a family passes to the attention interface by these names, and what they are.
_TERMS = {
    "position_bias": "a learned position bias in its scores",
    "s_aux": "learned attention sinks in its softmax",
    "sinks": "learned attention sinks in its softmax",
}


@dataclass(frozen=True)
class AttentionLayer:
    """One layer that calls the attention interface.

    Attributes:
        name: its name in the model.
        module: the layer.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        d: width of a query and of a key.
        d_v: width of a value.
        crosses: whether its keys are those of another sequence.
    """

    name: str
    module: nn.Module
    n_heads: int
    n_kv_heads: int
    d: int
    d_v: int
    crosses: bool


def attention_layers(model: Any) -> list[AttentionLayer]:
    """Every layer of `model` that calls transformers' attention interface, in the model's order.

    Nothing is run: the layers are known by their code, their dimensions by their attributes and configurations.

    Raises:
        UserError: the model is none of transformers', its family bypasses the interface or has terms in its
            attention that no variant has, or it attends across two sequences in a way that is not recognised.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise UserError(f"a model of transformers is needed, not {type(model).__name__}.")
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            _check_part(part)
    layers = [
        _layer(name, module, model)
        for name, module in model.named_modules()
        if "ALL_ATTENTION_FUNCTIONS" in _names(module)
    ]
    if not layers:
        raise UserError(_refusal(model, "none of its layers calls transformers' attention interface"))
    if getattr(model.config, "is_encoder_decoder", False):
        _check_two_sequences(model, layers)
    return layers


def _check_part(model: Any) -> None:
    if not model._can_set_attn_implementation():
        raise UserError(_refusal(model, "it does not call transformers' attention interface"))
    if getattr(model.config, "add_cross_attention", False):
        raise UserError(_refusal(model, "it is a decoder that attends to the states of another model"))


def _check_two_sequences(model: Any, layers: list[AttentionLayer]) -> None:
    """Refuse an encoder-decoder unless all of its three kinds of layers are there and say whether they are causal."""
    found = {("encoder", False): 0, ("decoder", False): 0, ("decoder", True): 0}
    for layer in layers:
        side = next((part for part in layer.name.split(".") if part in ("encoder", "decoder")), None)
        causal = side == "decoder" and not layer.crosses
        if side is None or getattr(layer.module, "is_causal", None) is not causal:
            raise UserError(_refusal(model, f"what {layer.name} attends to cannot be told from its attributes"))
        found[side, layer.crosses] = found.get((side, layer.crosses), 0) + 1
    if not all(found.values()):
        raise UserError(
            _refusal(
                model,
                "of an encoder-decoder the encoder, the decoder and what connects them must all call transformers' "
                "attention interface",
            )
        )


def _refusal(model: Any, reason: str) -> str:
    return (
        f"{type(model).__name__} (family {model.config.model_type!r}) cannot take an attention variant: {reason}. "
        "Encoders, decoders and both together with plain softmax attention can, for instance bert, llama, bart."
    )


def _names(module: nn.Module) -> tuple[str, ...]:
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return () if code is None else code.co_names


def _constants(module: nn.Module) -> set[Any]:
    """Return the constants in the code of the layer's forward, among them the names of the arguments it passes on."""
    found: set[Any] = set()
    for constant in inspect.unwrap(type(module).forward).__code__.co_consts:
        found.update(constant if isinstance(constant, tuple) else (constant,))
    return found


def _layer(name: str, module: Any, model: Any) -> AttentionLayer:
    passed = _constants(module)
    for term, what in _TERMS.items():
        if term in passed:
            raise UserError(_refusal(model, f"{name} has {what}"))
    config = getattr(module, "config", model.config)
    if "softcap" in passed and _first((module, config), "attn_logit_softcapping") is not None:
        raise UserError(_refusal(model, f"{name} caps its scores (attn_logit_softcapping)"))
    n_heads = _first((module, config), "num_heads", "num_attention_heads", "n_heads", "n_head")
    width = _first((config,), "hidden_size", "n_embd", "dim")
    if n_heads is None or width is None:
        raise UserError(_refusal(model, f"{name} does not say how many heads it has"))
    groups = _first((module,), "num_key_value_groups", "n_rep")
    n_kv_heads = n_heads // groups if groups else _first((module,), "num_key_value_heads") or n_heads
    d = _first((module,), "qk_head_dim", "head_dim", "attention_head_size") or width // n_heads
    d_v = _first((module,), "v_head_dim") or d
    crosses = any("cross" in part.lower() or part == "encoder_attn" for part in name.split("."))
    return AttentionLayer(name, module, int(n_heads), int(n_kv_heads), int(d), int(d_v), crosses)


def _first(owners: tuple[Any, ...], *keys: str) -> Any:
    """Return the first of `keys` that one of `owners` has and that is not None."""
    for owner in owners:
        for key in keys:
            value = getattr(owner, key, None)
            if value is not None and not isinstance(value, nn.Module | torch.Tensor):
                return value
    return None
