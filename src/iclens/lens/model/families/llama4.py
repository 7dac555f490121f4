"""Llama 4: a shared expert beside chosen ones, chunked attention, layers without rotary positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


def _layout(config: Any, root: str) -> Family:
    return llama_layout(
        config,
        layers=f"{root}.layers",
        final_norm=f"{root}.norm",
        mlp="feed_forward",
        activations=(
            "feed_forward.activation_fn",
            "feed_forward.experts.act_fn",
            "feed_forward.shared_expert.activation_fn",
        ),
        held=("feed_forward.router",),
        # Queries and keys are turned in float32, and the routers' scores end in it.
        single=("knock_out",),
        query_scale=temperature,
    )


@FAMILIES.register("llama4_text")
def llama4_text(config: Any) -> Family:
    """Experts beside a shared one, chunked attention, layers without rotary positions but with a temperature."""
    return _layout(config, "model")


@FAMILIES.register("llama4")
def llama4(config: Any) -> Family:
    """A model with a vision tower: its text model, on text alone."""
    return _layout(config, "language_model.model")


def temperature(attention: Any, places: Tensor) -> Tensor:
    """log(1 + ⌊(place + 1) / floor⌋) · c + 1 in layers without rotary positions, if the model tunes it; otherwise 1.

    In float32, as the model computes it.
    """
    if attention.use_rope or not attention.attn_temperature_tuning:
        return torch.ones(places.shape, device=places.device)
    return torch.log1p(((places.float() + 1.0) / attention.floor_scale).floor()) * attention.attn_scale + 1.0
