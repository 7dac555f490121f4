"""The attention function and the mask function that transformers calls for a model with a variant in it.

Both are registered under one name, because without the mask function causality is lost silently. The function finds
the variant as a submodule of the layer that calls it, so that copies, adapters' wrappers and devices need no record.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from iclens.attention.dropout import with_dropout
from iclens.errors import UserError
from iclens.huggingface import as_bool, unhandled_term

NAME = "iclens_variant"
"""The attention implementation's name in transformers."""

SUBMODULE = "iclens_attention"
"""The name of the variant in each attention layer, of its parameters in a checkpoint, and of its note in the config."""

_COMPILED_STATIC_CACHE = (
    "in a compiled model, attention variants need a cache that grows with the tokens, and this one is static: generate "
    "with cache_implementation='dynamic', or with disable_compile=True."
)
_TERMS = ("softcap", "s_aux", "sinks", "position_bias", "cache")


def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Return the mask of one forward pass: bool (batch, 1, n_query, n_key), True = may attend, or None.

    None stands for a plain causal batch (or, in an encoder, for one without padding): no n_query x n_key tensor is
    formed. Padding, sliding windows and packed sequences give a mask.

    A static cache holds more keys than tokens were seen. The mask is then that of the keys seen, and `attend` leaves
    the others out, so that the last key is the last query's own.

    Raises:
        UserError: the cache is static in a program that is compiled or captured, which cannot ask how far it is filled.
    """
    from transformers.masking_utils import sdpa_mask

    if kwargs.get("allow_is_bidirectional_skip"):
        return sdpa_mask(*args, **kwargs)
    offset, first = kwargs.get("q_offset", 0), kwargs.get("kv_offset", 0)
    if isinstance(offset, torch.Tensor):
        if torch.compiler.is_compiling() or (offset.is_cuda and torch.cuda.is_current_stream_capturing()):
            raise UserError(_COMPILED_STATIC_CACHE)
        offset = kwargs["q_offset"] = int(offset)
    n_seen = offset + kwargs.get("q_length", 0) - first
    if kwargs.get("kv_length", 0) <= n_seen:
        return sdpa_mask(*args, **kwargs)
    if torch.compiler.is_compiling():
        raise UserError(_COMPILED_STATIC_CACHE)
    # Contiguous here, since generation would make a copy so, and the copy would not be known.
    made = sdpa_mask(*args, **(kwargs | {"kv_length": n_seen, "allow_is_causal_skip": False})).contiguous()
    _OF_SEEN_KEYS[made] = True
    return made


# Masks of static caches: shorter than the keys on purpose, and not by a mistake of the caller's.
_OF_SEEN_KEYS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return the heads' outputs (batch, n_query, heads, d_v) of one layer, by the variant attached to it.

    Args:
        module: the attention layer.
        query: (batch, heads, n_query, d), after rotary positions and norms.
        key: (batch, key heads, n_key, d), from the cache and the batch, not repeated.
        value: (batch, key heads, n_key, d_v).
        attention_mask: what `mask` gave, or a mask that the caller made: bool, or 0 and very negative numbers.
        scaling: factor of the scores; None is d^(-1/2).
        dropout: probability with which a softmax weight is dropped.
        is_causal: what a mask of None means; None takes it from the layer.
        **kwargs: whatever else the family passes.

    Raises:
        UserError: the layer has no variant, or passes a term that the variants do not have.
    """
    variant = getattr(module, SUBMODULE, None)
    layer = type(module).__name__
    if variant is None:
        raise UserError(
            f"a {layer} is set to attend with an iclens variant but has none. Either it shares its configuration "
            "object with a model that has one: build each model with its own, copy.deepcopy(config). Or the "
            f"implementation {NAME!r} was chosen by hand: use iclens.attention.apply."
        )
    term = unhandled_term(kwargs, _TERMS, any_tensor=False)
    if term is not None:
        raise UserError(f"{layer} passes {term!r} to its attention, which attention variants do not have.")
    if attention_mask is not None and attention_mask.shape[-1] < key.shape[2]:
        key, value = _seen(key, value, attention_mask)
    shape, found = variant.shape, (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    if found != (shape.n_heads, shape.n_kv_heads, shape.d, shape.d_v):
        raise UserError(
            f"{layer} attends with (heads, key heads, d, d_v) = {found}, and its attributes said otherwise: {shape}. "
            "iclens cannot patch this family."
        )
    if attention_mask is not None:
        attention_mask = as_bool(attention_mask, layer, "Attention variants take")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    # Said beside a mask, too: some variants choose tokens by what later queries may see.
    is_causal = bool(is_causal) and (attention_mask is None or _hides_later_keys(attention_mask))
    # Autocast leaves queries and keys wider than values when positions are rotated in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    given = (query, key, value, attention_mask)
    if dropout > 0.0:
        output = with_dropout(variant, *given, scale=scaling, is_causal=is_causal, dropout_p=dropout)
    else:
        output = variant(*given, scale=scaling, is_causal=is_causal)
    return output.to(value.dtype).transpose(1, 2).contiguous(), None


def _seen(key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a static cache up to where it is filled; other short masks are refused by the variant."""
    if torch.compiler.is_compiling():
        raise UserError(_COMPILED_STATIC_CACHE)
    if mask not in _OF_SEEN_KEYS:
        return key, value
    n_seen = mask.shape[-1]
    return key[:, :, :n_seen], value[:, :, :n_seen]


# One mask serves all layers of a forward pass.
_CAUSAL: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _hides_later_keys(mask: torch.Tensor) -> bool:
    """Whether no query may attend to a key after its own: images in a prompt, for one, are seen from both sides."""
    if torch.compiler.is_compiling():
        return True
    known = _CAUSAL.get(mask)
    if known is None:
        n_query, n_key = mask.shape[-2:]
        known = _CAUSAL[mask] = not bool(mask.triu(n_key - n_query + 1).any())
    return known
