"""GPT-OSS: learned sinks beside the keys, and experts whose gates are clamped and whose linear maps have biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclens.lens.model.families.family import FAMILIES, Family, llama_layout


@FAMILIES.register("gpt_oss")
def gpt_oss(config: Any) -> Family:
    """Learned sinks, each a training pair with target 0; experts with clamps, which are held, and biases; windows."""
    return llama_layout(config, activations=(), held=("mlp.router",), affine=(("mlp.experts", held_experts),))


def held_experts(experts: Any, x: Tensor, chosen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Experts with their gates held: the part of their output that is linear in x (n, width), and what biases add.

    An expert gives ((u + 1) ⊙ g) W₂ + b₂ with u = clamp(x W_u + b_u) and g the gate, which is held, and so is the
    factor c = u / (x W_u + b_u) by which u is clamped. Linear in x is (c ⊙ x W_u ⊙ g) W₂; the rest is
    ((c ⊙ b_u + 1) ⊙ g) W₂ + b₂.
    """
    linear, rest = torch.zeros_like(x), torch.zeros_like(x)
    for index in chosen.unique().tolist():
        token, place = torch.where(chosen == index)
        weight = weights[token, place, None]
        up_weight, up_bias = experts.gate_up_proj[index][:, 1::2], experts.gate_up_proj_bias[index][1::2]
        here = x[token]
        with torch.no_grad():
            gate = here @ experts.gate_up_proj[index][:, ::2] + experts.gate_up_proj_bias[index][::2]
            gate = gate.clamp(max=experts.limit)
            gate = gate * torch.sigmoid(gate * experts.alpha)
            size = (here @ up_weight + up_bias).abs()
            clamped = experts.limit / size.clamp_min(experts.limit)
            added = ((clamped * up_bias + 1) * gate) @ experts.down_proj[index] + experts.down_proj_bias[index]
        found = (clamped * (here @ up_weight) * gate) @ experts.down_proj[index]
        linear.index_add_(0, token, (found * weight).to(x.dtype))
        rest.index_add_(0, token, (added * weight).to(x.dtype))
    return linear, rest
