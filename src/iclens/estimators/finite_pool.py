"""Bayes' answer when the weights are one of finitely many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import check_finite, checked_points
from iclens.tasks.options import require_positive
from iclens.tasks.shapes import Inputs, Labels

_ELEMENTS = 2**22
"""Most predictions held at once (32 MiB in float64)."""


@ESTIMATORS.register("finite-pool")
@dataclass(frozen=True, eq=False)
class FinitePool(Estimator):
    """ŷ = Σ_m p_m w_mᵀx with p_m ∝ exp(−Σ_i (y_i − w_mᵀx_i)² / 2σ²): dMMSE, the mean under the posterior of the pool.

    All prefixes: the squared errors of every task are summed along the prompt, O(n n_tasks d), a block of tasks at a
    time.

    Source: Raventós et al. 2023.

    Attributes:
        pool: the weights. (n_tasks, d): each output of a prompt has its own task. (n_tasks, d, d_y): a task has all the
            outputs.
        noise_std: σ, positive.

    Raises:
        UserError: an option out of its range, or of a width that does not fit the points.
    """

    pool: Tensor
    noise_std: float = 0.5

    def __post_init__(self) -> None:
        require_positive(noise_std=self.noise_std)
        if self.pool.ndim not in (2, 3) or 0 in self.pool.shape:
            raise UserError(f"pool has shape {tuple(self.pool.shape)}: it must be (n_tasks, d) or (n_tasks, d, d_y).")
        check_finite("pool", self.pool)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        pool = self.pool.to(inputs)
        if pool.shape[1] != inputs.shape[-1] or pool.shape[2:] not in ((), labels.shape[-1:]):
            raise UserError(
                f"pool has shape {tuple(pool.shape)}, the inputs are {inputs.shape[-1]} and the labels "
                f"{labels.shape[-1]} wide: it must be (n_tasks, d) or (n_tasks, d, d_y)."
            )
        shared = pool.ndim == 2
        weights = pool.mT if shared else pool.permute(2, 1, 0)
        block = max(1, _ELEMENTS // labels.numel())
        # (..., d_y, n): the outputs become a leading axis. Sums over tasks are kept in units of exp(largest).
        targets = labels.mT
        largest = torch.full_like(targets, -torch.inf)
        total, weighted = torch.zeros_like(targets), torch.zeros_like(targets)
        for some in weights.split(block, -1):
            values = inputs.unsqueeze(-3) @ some
            misfit = (targets.unsqueeze(-1) - values).square()
            evidence = (misfit.cumsum(-2) - misfit) / (-2 * self.noise_std**2)
            if not shared:
                evidence = evidence.sum(-3, keepdim=True)
            top = torch.maximum(largest, evidence.amax(-1))
            shrink, posterior = (largest - top).exp(), (evidence - top.unsqueeze(-1)).exp()
            total = total * shrink + posterior.sum(-1)
            weighted = weighted * shrink + (posterior * values).sum(-1)
            largest = top
        answers = (weighted / total).mT
        return torch.cat([torch.zeros_like(answers[..., :1, :]), answers[..., 1:, :]], -2)
