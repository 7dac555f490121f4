"""Linear regression with few weights that are not zero."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.draws import normal, subsets
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_counts
from iclens.tasks.task import TASKS, Optimal


@TASKS.register("sparse-linear")
class SparseLinear(LinearInFeatures):
    """y = wᵀ x + σ z, where exactly `n_nonzero` random entries of w are drawn from N(0, τ²) and the others are 0.

    Source: Garg et al. 2022 (3 of 20). The Bayes predictor averages over all supports; the best known estimator that
    is feasible is the Lasso.

    Args:
        d: width of the inputs.
        n_nonzero: number of weights that are not zero, at most d.
        d_y: width of the labels; each has its own support.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 20,
        n_nonzero: int = 3,
        d_y: int = 1,
        weight_std: float = 1.0,
        noise_std: float = 0.0,
    ) -> None:
        super().__init__(d=d, n_features=d, d_y=d_y, weight_std=weight_std, noise_std=noise_std)
        require_counts(n_nonzero=n_nonzero)
        if n_nonzero > d:
            raise UserError(f"n_nonzero={n_nonzero} is more than the d={d} weights there are.")
        self.n_nonzero = n_nonzero

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`weight`: (*batch, d, d_y), `n_nonzero` entries of each column not zero."""
        support = subsets(self.d, self.n_nonzero, generator, *batch, self.d_y)
        entries = self.weight_std * normal(generator, *support.shape)
        return {"weight": entries.new_zeros(*batch, self.d_y, self.d).scatter_(-1, support, entries).mT}

    def optimal(self) -> Optimal:
        """The Lasso, not the Bayes predictor; with `n_nonzero` = d the task is `linear`, and so is its answer."""
        if self.n_nonzero == self.d:
            return super().optimal()
        # Measured at the other defaults with 5 to 40 demonstrations: a little shrinkage, and more against noise.
        alpha = 0.01 * self.weight_std + 0.2 * self.noise_std
        return Optimal("lasso", {"alpha": alpha}, source="Garg et al. 2022: the best of their baselines")
