"""Attention implementations by name: making one known to transformers, choosing it in a model, and putting back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@cache
def register(name: str, attend: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Register an attention function and its mask function under one name, once a process.

    Without a mask function of the same name, transformers passes no mask and causality is lost silently.

    Args:
        name: what `set_attn_implementation` will be given.
        attend: `attend(module, query, key, value, attention_mask, scaling=…, **kwargs) -> (output, None)`.
        mask: called once per forward pass and kind of mask, with the arguments of
            `transformers.masking_utils.sdpa_mask`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)


def configurations(model: Any, layers: Iterable[Any] = ()) -> list[Any]:
    """List every configuration of a transformers model, its parts and of `layers` that have one, each once.

    Outer ones come before inner ones.
    """
    found: list[Any] = []
    waiting = [model.config] + [part.config for part in model.modules() if hasattr(part, "set_attn_implementation")]
    waiting += [layer.config for layer in layers if hasattr(layer, "config")]
    while waiting:
        config = waiting.pop(0)
        if config is not None and all(config is not other for other in found):
            found.append(config)
            waiting = [getattr(config, key, None) for key in getattr(config, "sub_configs", {})] + waiting
    return found


def restore(before: Sequence[tuple[Any, Any]]) -> None:
    """Give each configuration back its implementation: pairs (configuration, implementation), outer before inner."""
    # From the outside in: setting a configuration also sets the ones inside it.
    for config, own in before:
        config._attn_implementation = own


@contextmanager
def implementation(model: Any, name: str | None) -> Iterator[None]:
    """Put a transformers model into evaluation mode and choose its attention implementation inside the `with` block.

    The name None leaves the implementation as it is. Experts of a model in float64 run one by one, because the grouped
    product that transformers chooses by itself does not exist there. Modes and implementations are put back afterwards,
    also after an exception.
    """
    training = [module for module in model.modules() if module.training]
    configs = configurations(model)
    before = [(config, config._attn_implementation) for config in configs]
    experts = [(config, config._experts_implementation) for config in configs]
    try:
        model.eval()
        if model.dtype == torch.float64:
            for config in configs:
                config._experts_implementation = "eager"
        if name is not None:
            model.set_attn_implementation(name)
        yield
    finally:
        restore(before)
        # Like attention's: setting a configuration also sets the ones inside it.
        for config, own in experts:
            config._experts_implementation = own
        for module in training:
            module.training = True
