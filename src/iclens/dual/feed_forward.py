"""Feed-forward blocks, plain and held."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from iclens.dual.held import HeldMap
from iclens.errors import UserError
from iclens.registry import Registry


@dataclass(frozen=True)
class Activation:
    """An activation σ, and its gate g with σ(u) = u · g(u).

    The gate is a separate formula, never the quotient σ(u)/u, which has no digits near u = 0.

    Attributes:
        value: σ(u).
        gate: g(u) = σ(u)/u, with its limit at u = 0.
    """

    value: Callable[[Tensor], Tensor]
    gate: Callable[[Tensor], Tensor]


ACTIVATIONS: Registry[Activation] = Registry("activation", "iclens.activations")


def _gate_of_tanh(u: Tensor) -> Tensor:
    # (1 + tanh a)/2 = sigmoid(2a), which keeps the digits of the left tail.
    return (2 * math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)).sigmoid()


# The gate of ReLU is the activation pattern Σ, 0 or 1.
ACTIVATIONS.register("relu")(Activation(relu, lambda u: (u > 0).to(u.dtype)))
# u Φ(u): erfc keeps the digits of the left tail, where 1 + erf would lose them.
ACTIVATIONS.register("gelu")(Activation(gelu, lambda u: torch.special.erfc(-u / math.sqrt(2)) / 2))
# The tanh form of GELU, as in GPT-2.
ACTIVATIONS.register("gelu-tanh")(Activation(partial(gelu, approximate="tanh"), _gate_of_tanh))
ACTIVATIONS.register("silu")(Activation(silu, torch.sigmoid))


@dataclass(frozen=True, eq=False)
class FeedForward:
    """A feed-forward block, plain or gated, with rows as tokens.

        FFN(z) = σ(z W_1 + b_1) W_2 + b_2   (plain),
        FFN(z) = (σ(z W_gate + b_gate) ⊙ (z W_1 + b_1)) W_2 + b_2   (gated).

    Held at a token z it equals z W_F + b_F, with W_F = W_1 diag(g) W_2 and b_F = (b_1 ⊙ g) W_2 + b_2, where the gate g
    is σ(u)/u at u = z W_1 + b_1, or σ(z W_gate + b_gate) when gated.

    Source: Ren & Liu 2024, Fig. 4 (in columns W_F = W_2 Σ W_1, for ReLU); the rest is derived in
    docs/theory/transformer-layer.md.

    Attributes:
        W_1: (d_model, d_ff).
        W_2: (d_ff, d_model).
        activation: a registered name: `"relu"`, `"gelu"`, `"gelu-tanh"`, `"silu"`.
        b_1: (d_ff,) or None.
        b_2: (d_model,) or None.
        W_gate: (d_model, d_ff), or None for a block that is not gated.
        b_gate: (d_ff,) or None.
    """

    # The shapes are checked below, so that a message names the array that does not fit.
    W_1: Float[Tensor, "_ _"]
    W_2: Float[Tensor, "_ _"]
    activation: str
    b_1: Float[Tensor, " _"] | None = None
    b_2: Float[Tensor, " _"] | None = None
    W_gate: Float[Tensor, "_ _"] | None = None
    b_gate: Float[Tensor, " _"] | None = None

    def __post_init__(self) -> None:
        ACTIVATIONS[self.activation]
        if self.b_gate is not None and self.W_gate is None:
            raise UserError("b_gate is given without W_gate: a block that is not gated has no b_gate.")
        d_model, d_ff = self.W_1.shape
        shapes = {
            "W_2": (d_ff, d_model),
            "b_1": (d_ff,),
            "b_2": (d_model,),
            "W_gate": (d_model, d_ff),
            "b_gate": (d_ff,),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise UserError(
                    f"{name} has shape {tuple(tensor.shape)}; with W_1 {(d_model, d_ff)} it must be {shape}."
                )

    def __call__(self, z: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """The plain block."""
        sigma = ACTIVATIONS[self.activation].value
        hidden = _affine(z, self.W_1, self.b_1)
        if self.W_gate is None:
            return _affine(sigma(hidden), self.W_2, self.b_2)
        return _affine(sigma(_affine(z, self.W_gate, self.b_gate)) * hidden, self.W_2, self.b_2)

    def gate(self, z: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_ff"]:
        """g at z: σ(u)/u, or σ(z W_gate + b_gate) when gated."""
        if self.W_gate is None:
            return ACTIVATIONS[self.activation].gate(_affine(z, self.W_1, self.b_1))
        return ACTIVATIONS[self.activation].value(_affine(z, self.W_gate, self.b_gate))

    def held(self, z: Float[Tensor, "*batch n d_model"]) -> HeldMap:
        """Return the affine map y ↦ y W_F + b_F that equals this block at `z`, its gates held at their values there."""
        gate = self.gate(z)
        constant = torch.zeros_like(gate) if self.b_1 is None else self.b_1 * gate

        def linear(vectors: Tensor) -> Tensor:
            return (vectors @ self.W_1 * gate.unsqueeze(-2)) @ self.W_2

        return HeldMap(linear, _affine(constant, self.W_2, self.b_2))

    def rank_bound(self, z: Float[Tensor, "*batch n d_model"]) -> Int[Tensor, "*batch n"]:
        """Largest rank that W_F = W_1 diag(g) W_2 can have at `z`: min(d_model, units whose gate is not 0)."""
        return (self.gate(z) != 0).sum(-1).clamp_max(self.W_1.shape[0])


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias
