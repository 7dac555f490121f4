"""What can augment keys or values: maps that start as the identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.registry import Registry

AUGMENTATIONS: Registry[type[nn.Module]] = Registry("augmentation", "iclens.augmentations")

Augmentation: TypeAlias = str | Mapping[str, Any] | nn.Module | None
"""A registered name, `{"name": ..., **options}`, a module of the user's, or None for the identity."""

_ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


def augmentation(given: Augmentation, *, n_heads: int, width: int) -> nn.Module:
    """Return the module that augments (..., n_heads, n, width).

    A registered class is called as `cls(width, n_heads, **options)`; a user's module maps (..., n_heads, n, width) to
    the same shape.

    Raises:
        UserError: an unknown name or option.
    """
    if given is None:
        given = "identity"
    if isinstance(given, nn.Module):
        return given
    options = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError("an augmentation is a name, a mapping with a 'name', an nn.Module, or None.")
    return AUGMENTATIONS.checked(name, options, given=2)(width, n_heads, **options)


def described(given: Augmentation) -> str | dict[str, Any] | None:
    """`given` as JSON-able options.

    Raises:
        UserError: it is a module, which has no JSON.
    """
    if isinstance(given, nn.Module):
        raise UserError(
            f"{type(given).__name__} was given as an object and cannot be written to a configuration: register its "
            "class with @AUGMENTATIONS.register('its-name') and give that name."
        )
    return dict(given) if isinstance(given, Mapping) else given


def augmented(g: nn.Module, x: Tensor, what: str) -> Tensor:
    """g(x), refused when it changes the shape.

    Raises:
        UserError: g(x) does not have the shape of x.
    """
    out = g(x)
    if out.shape != x.shape:
        raise UserError(
            f"{what} changes the shape of its input from {tuple(x.shape)} to {tuple(out.shape)}: it must keep it."
        )
    return out


@AUGMENTATIONS.register("identity")
class Identity(nn.Module):
    """g(x) = x."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()

    def forward(self, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n width"]:  # noqa: D102
        return x


@AUGMENTATIONS.register("adapter")
class ParallelAdapter(nn.Module):
    """g(x) = x + c W_2 σ(W_1 x), with W_2 = 0 at the start.

    Source: the example of Ren & Liu 2024 (parallel adapter of He et al. 2022).

    Args:
        width: d, the width of a token.
        n_heads: number of heads.
        hidden: the width of the adapter's hidden layer.
        activation: σ: `relu`, `gelu`, `silu` or `tanh`.
        factor: c.
        per_head: every head has its own adapter; otherwise they share one.

    Raises:
        UserError: an unknown activation, or a hidden width below 1.
    """

    biased = False

    def __init__(
        self,
        width: int,
        n_heads: int,
        hidden: int = 8,
        activation: str = "relu",
        factor: float = 1.0,
        per_head: bool = False,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise UserError(f"unknown activation {activation!r}. Known: {', '.join(_ACTIVATIONS)}.")
        if hidden < 1:
            raise UserError(f"hidden={hidden} must be at least 1.")
        heads = (n_heads,) if per_head else ()
        self.activation, self.factor = activation, factor
        self.W_1 = nn.Parameter(torch.empty(*heads, hidden, width).uniform_(-(width**-0.5), width**-0.5))
        self.W_2 = nn.Parameter(torch.zeros(*heads, width, hidden))
        self.b_1 = nn.Parameter(torch.zeros(*heads, 1, hidden)) if self.biased else None
        self.b_2 = nn.Parameter(torch.zeros(*heads, 1, width)) if self.biased else None

    def forward(self, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n width"]:  # noqa: D102
        hidden = x @ self.W_1.mT
        hidden = _ACTIVATIONS[self.activation](hidden if self.b_1 is None else hidden + self.b_1)
        out = hidden @ self.W_2.mT
        return x + self.factor * (out if self.b_2 is None else out + self.b_2)


@AUGMENTATIONS.register("mlp")
class ResidualMLP(ParallelAdapter):
    """g(x) = x + W_2 σ(W_1 x + b_1) + b_2, with W_2 = b_2 = 0 at the start.

    Args:
        width: d, the width of a token.
        n_heads: number of heads.
        hidden: the width of the hidden layer; 4 d when None.
        activation: σ: `relu`, `gelu`, `silu` or `tanh`.
        per_head: every head has its own MLP.
    """

    biased = True

    def __init__(
        self,
        width: int,
        n_heads: int,
        hidden: int | None = None,
        activation: str = "gelu",
        per_head: bool = False,
    ) -> None:
        super().__init__(width, n_heads, 4 * width if hidden is None else hidden, activation, 1.0, per_head)


@AUGMENTATIONS.register("conv1d")
class TokenConvolution(nn.Module):
    """g(x)_i = x_i + Σ_t w_t ⊙ x_{i−t}: a convolution over tokens, one filter a channel, with w = 0 at the start.

    Args:
        width: d, the width of a token.
        n_heads: number of heads.
        size: number of taps.
        causal: t = 0 … size − 1, so that no token sees a later one; otherwise the taps are centred.
        per_head: every head has filters of its own.

    Raises:
        UserError: a size below 1, or an even size without a centre.
    """

    mixes_tokens = True

    def __init__(self, width: int, n_heads: int, size: int = 3, causal: bool = True, per_head: bool = False) -> None:
        super().__init__()
        if size < 1 or (not causal and size % 2 == 0):
            raise UserError(f"size={size} must be at least 1, and odd unless causal.")
        self.size, self.causal = size, causal
        self.w = nn.Parameter(torch.zeros(size, *((n_heads, 1) if per_head else ()), width))

    def forward(self, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n width"]:  # noqa: D102
        n, before = x.shape[-2], self.size - 1 if self.causal else self.size // 2
        padded = torch.nn.functional.pad(x, (0, 0, before, self.size - 1 - before))
        out = x
        for tap in range(self.size):
            # Tap 0 is the token itself, or the last of the window when the taps are centred.
            first = self.size - 1 - tap
            out = out + self.w[tap] * padded[..., first : first + n, :]
        return out
