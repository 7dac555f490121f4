"""Optimisers whose rates differ from run to run: all parameters of all runs in one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iclens.training.config import Training


class RunsOptimizer:
    """Adam, AdamW, SGD or gradient descent on an ensemble, each run with its own rate, decay and clipping.

    The parameters of run r are row r of one matrix, of which the module's parameters become views; so a step is a
    handful of operations whatever the number of parameters. The formulas are those of `torch.optim`, with which one run
    agrees to rounding.

    Args:
        model: every parameter has a leading axis of runs. Its parameters are moved into one matrix.
        settings: one for each run; `optimizer` must be the same in all.
    """

    def __init__(self, model: nn.Module, settings: Sequence[Training]) -> None:
        named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in named]
        n_runs = len(settings)
        first = named[0][1]
        sizes = [parameter.numel() // n_runs for _, parameter in named]
        self.values = torch.cat([parameter.detach().reshape(n_runs, -1) for _, parameter in named], 1)
        self.gradients = torch.zeros_like(self.values)
        start = 0
        for (_, parameter), size in zip(named, sizes, strict=True):
            parameter.data = self.values[:, start : start + size].view(parameter.shape)
            start += size

        self._like = first
        column = self._column
        self.kind = settings[0].optimizer
        self.rate = column([one.learning_rate for one in settings])
        self.decay = column([one.weight_decay for one in settings])
        self.clip = column([one.clip or float("inf") for one in settings])
        self.momentum = column([one.momentum for one in settings])
        self.betas = [one.betas for one in settings]
        self.beta_2 = column([beta for _, beta in self.betas])
        # Not 1 − β in single precision, which loses four digits at β = 0.999.
        self.rest_1 = column([1 - beta for beta, _ in self.betas])
        self.rest_2 = column([1 - beta for _, beta in self.betas])
        self.clips = any(one.clip for one in settings)
        self.decays = any(one.weight_decay for one in settings)
        self.factor: Tensor | None = None
        if any(one.rates for one in settings):
            factors = [[_factor(name, one) for name, _ in named] for one in settings]
            repeats = torch.tensor(sizes, device=first.device)
            self.factor = torch.tensor(factors, dtype=first.dtype, device=first.device).repeat_interleave(repeats, 1)
        names = ["mean", "square"] if self.kind in ("adam", "adamw") else []
        if not names and any(one.momentum for one in settings):
            names = ["velocity"]
        self.state = {name: torch.zeros_like(self.values) for name in names}

    def _column(self, values: Sequence[float] | Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=self._like.dtype, device=self._like.device).unsqueeze(1)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def gather(self) -> Float[Tensor, " runs"]:
        """Collect the gradients of the parameters in the matrix `gradients`; the norm of every run's gradient."""
        rows = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        torch.cat([row.reshape(len(row), -1) for row in rows], 1, out=self.gradients)
        return self.norms()

    def norms(self) -> Float[Tensor, " runs"]:
        """Return the norm of every run's gradient, as it is in the matrix."""
        return self.gradients.norm(dim=1)

    @torch.no_grad()
    def step(
        self, step: int, schedule: Float[Tensor, " runs"], norms: Float[Tensor, " runs"], alive: Bool[Tensor, " runs"]
    ) -> None:
        """Update the parameters of the runs that are alive; the others keep theirs.

        Args:
            step: number of steps done before this one.
            schedule: factor of every run's learning rate now.
            norms: norms of the gradients.
            alive: runs that go on.
        """
        gradient = self.gradients
        if self.clips:
            gradient.mul_((self.clip / (norms.unsqueeze(1) + 1e-6)).clamp(max=1.0))
        # A gradient that is not finite must not reach the state by way of 0 · inf.
        gradient.masked_fill_(~alive.unsqueeze(1), 0.0)
        rate = self.rate * schedule.unsqueeze(1) * alive.unsqueeze(1)
        rates = rate if self.factor is None else rate * self.factor
        if self.decays:
            if self.kind == "adamw":
                self.values.mul_(1 - rates * self.decay)
            else:
                gradient.addcmul_(self.values, self.decay * alive.unsqueeze(1))
        if self.kind in ("adam", "adamw"):
            mean, square = self.state["mean"], self.state["square"]
            mean.lerp_(gradient, self.rest_1.expand_as(mean))
            square.mul_(self.beta_2).addcmul_(gradient, gradient * self.rest_2)
            first = self._column([1 - beta ** (step + 1) for beta, _ in self.betas])
            second = self._column([1 - beta ** (step + 1) for _, beta in self.betas])
            denominator = (square / second).sqrt_().add_(1e-8)
            self.values.sub_((mean * (rates / first)).div_(denominator))
            return
        if self.state:
            velocity = self.state["velocity"]
            velocity.mul_(self.momentum).add_(gradient)
            gradient = velocity
        self.values.sub_(gradient * rates)


def _factor(name: str, settings: Training) -> float:
    factor = 1.0
    for pattern, value in settings.rates.items():
        if pattern in name:
            factor *= value
    return factor
