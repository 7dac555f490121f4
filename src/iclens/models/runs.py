"""Layers with a leading axis of runs: every run has weights of its own and sees inputs of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from iclens.models.products import affine


class Draws:
    """Initial values: run r draws from its own generator, so that its numbers do not depend on the other runs.

    Args:
        seeds: one seed for each run.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.generators)

    def normal(self, *shape: int, std: float) -> nn.Parameter:
        """Return a parameter (runs, *shape) of normal numbers with mean 0."""
        draws = [torch.randn(shape, generator=generator) for generator in self.generators]
        return nn.Parameter(torch.stack(draws) * std)

    def constant(self, *shape: int, value: float = 0.0) -> nn.Parameter:
        """Return a parameter (runs, *shape) of one value."""
        return nn.Parameter(torch.full((self.n_runs, *shape), value))

    def seed(self, run: int) -> int:
        """Return a fresh seed from the generator of a run, for code that draws from torch's global generator."""
        return int(torch.randint(2**31, (), generator=self.generators[run]))


class RunsLinear(nn.Module):
    """x W_r + b_r for run r.

    Args:
        draws: where initial values come from.
        width_in: width of x.
        width_out: width of the output.
        std: standard deviation of the initial W; width_in^(−1/2) when None.
        bias: whether there is a b; it starts at 0.
    """

    def __init__(
        self, draws: Draws, width_in: int, width_out: int, *, std: float | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = draws.normal(width_in, width_out, std=width_in**-0.5 if std is None else std)
        self.bias = draws.constant(width_out) if bias else None

    def forward(self, x: Float[Tensor, "runs *batch width_in"]) -> Float[Tensor, "runs *batch width_out"]:
        """Apply every run's weights to its own rows."""
        out = affine(x.flatten(1, -2), self.weight, self.bias)
        return out.view(*x.shape[:-1], out.shape[-1])


class RunsLayerNorm(nn.Module):
    """LayerNorm over the last axis with every run's own scale and shift; ε = 1e-5."""

    def __init__(self, draws: Draws, width: int) -> None:
        super().__init__()
        self.weight = draws.constant(width, value=1.0)
        self.bias = draws.constant(width)

    def forward(self, x: Float[Tensor, "runs *batch width"]) -> Float[Tensor, "runs *batch width"]:
        """Normalise every row."""
        width = x.shape[-1]
        if x.shape[0] == 1:
            return layer_norm(x, (width,), self.weight[0], self.bias[0])
        shape = (x.shape[0], *[1] * (x.ndim - 2), width)
        return torch.addcmul(self.bias.view(shape), layer_norm(x, (width,)), self.weight.view(shape))
