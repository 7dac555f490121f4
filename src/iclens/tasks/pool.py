"""Linear regression whose weights come from a finite pool."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.tasks.draws import fixed_normal, integers
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_counts, require_positive
from iclens.tasks.task import TASKS, Optimal


@TASKS.register("pool")
class Pool(LinearInFeatures):
    """y = wᵀ x + σ z with w one of `n_tasks` fixed weights, each as likely, which were drawn from N(0, τ² I) once.

    The Bayes predictor weighs the pool's members by how well they fit the demonstrations (dMMSE). A model that answers
    fresh weights as well as ridge regression does has left the pool behind: compare it on the task `linear` with the
    same `d`, `weight_std` and `noise_std`.

    `function` holds `weight`, (*batch, d, 1), and `index`, (*batch), which member of the pool it is.

    Source: Raventós et al. 2023.

    Args:
        d: width of the inputs, which are N(0, I).
        n_tasks: size of the pool.
        weight_std: τ, positive.
        noise_std: σ, positive: without noise one demonstration tells the member.
        seed: of the pool; a larger pool of the same seed contains the smaller ones.

    Raises:
        UserError: an option out of its range.
    """

    source = "Raventós et al. 2023: dMMSE, the posterior mean over the pool"

    def __init__(
        self, *, d: int = 8, n_tasks: int = 64, weight_std: float = 1.0, noise_std: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__(d=d, n_features=d, weight_std=weight_std, noise_std=noise_std)
        require_counts(n_tasks=n_tasks)
        require_positive(noise_std=noise_std)
        self.n_tasks, self.seed = n_tasks, seed
        # torch draws normal numbers in blocks of 16, so that only whole blocks agree between pools of different sizes.
        self._standard = fixed_normal(seed, 16 * math.ceil(n_tasks / 16), d)[:n_tasks]

    @property
    def weights(self) -> Float[Tensor, "n_tasks d"]:
        """The pool, in torch's default dtype."""
        return (self.weight_std * self._standard).to(torch.get_default_dtype())

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`weight` and `index`."""
        index = integers(self.n_tasks, generator, *batch)
        chosen = self._standard[index.to(self._standard.device)].to(index.device, torch.get_default_dtype())
        return {"weight": chosen.mul_(self.weight_std).unsqueeze(-1), "index": index}

    def optimal(self) -> Optimal:
        """Return the posterior mean over the pool."""
        return Optimal(
            "finite-pool", {"pool": self.weights, "noise_std": self.noise_std}, exact=True, source=self.source
        )
