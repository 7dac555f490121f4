"""Linear regression whose weights come from a cap, or a band, of a sphere."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import betainc, betaincinv
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.draws import normal, uniform
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_positive
from iclens.tasks.task import TASKS, Optimal


@TASKS.register("spherical-cap")
class SphericalCap(LinearInFeatures):
    """y = wᵀ x + σ z, x ~ N(0, I), w uniform on the part of the sphere ‖w‖ = r within some angles of its pole e_1.

    The angle θ of w and e_1 lies between `inner` and `angle`, in degrees, with a density ∝ sin^(d−2) θ; the rest of its
    direction is uniform. With `inner=0` this is the cap of half-angle `angle`, with 180 degrees the whole sphere. A
    model that is trained on a cap is asked on the bands beyond it.

    The Bayes predictor has no closed form. The best one that is linear in the labels is ridge regression with the
    second moments of w as its prior's covariance. `function` holds `weight`, (*batch, d, 1).

    Source: Goddard et al. 2025 (arXiv 2506.05574), caps for training and bands for tests.

    Args:
        d: width of the inputs, at least 2.
        angle: largest angle of w and the pole, in degrees, above `inner` and at most 180.
        inner: least angle, at least 0.
        weight_norm: r, positive.
        noise_std: σ, 0 for no noise.

    Raises:
        UserError: an option out of its range, or angles in between which the sphere has no part that can be drawn from.
    """

    source = "the best estimator that is linear in the labels"

    def __init__(
        self,
        *,
        d: int = 8,
        angle: float = 90.0,
        inner: float = 0.0,
        weight_norm: float = 1.0,
        noise_std: float = 0.25,
    ) -> None:
        super().__init__(d=d, n_features=d, noise_std=noise_std)
        require_positive(weight_norm=weight_norm)
        if d < 2:
            raise UserError(f"d={d} must be at least 2: a sphere of one dimension has no angles.")
        if not 0 <= inner < angle <= 180:
            raise UserError(f"inner={inner} and angle={angle} must be degrees with 0 ≤ inner < angle ≤ 180.")
        self.angle, self.inner, self.weight_norm = angle, inner, weight_norm
        # s = sin²(θ/2) follows the Beta distribution of (d − 1)/2 twice; it is measured from the nearer pole, where
        # small numbers are exact.
        self._shape, self._mirrored = (d - 1) / 2, inner >= 90
        angles = (180 - angle, 180 - inner) if self._mirrored else (inner, angle)
        self._ends = np.sin(np.radians(angles) / 2) ** 2
        self._levels = betainc(self._shape, self._shape, self._ends)
        if not self._levels[1] > self._levels[0]:
            raise UserError(
                f"in d={d} dimensions next to nothing of the sphere lies between {inner} and {angle} degrees of its "
                "pole: choose wider angles."
            )

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`weight`: (*batch, d, 1)."""
        low, high = self._levels
        level = low + (high - low) * uniform(generator, *batch, 1).double().cpu().numpy()
        s = torch.from_numpy(np.clip(betaincinv(self._shape, self._shape, level), *self._ends))
        along = (2 * s - 1 if self._mirrored else 1 - 2 * s).to(generator.device)
        across = normal(generator, *batch, self.d - 1).double()
        across = 2 * (s * (1 - s)).sqrt().to(generator.device) * across / across.norm(dim=-1, keepdim=True)
        weight = self.weight_norm * torch.cat([along, across], -1)
        return {"weight": weight.to(torch.get_default_dtype()).unsqueeze(-1)}

    def moments(self) -> tuple[float, float]:
        """Return E cos θ and E cos² θ."""
        a = self._shape
        # E s and E s² of a Beta distribution between two ends: that of other parameters between the same ends.
        one, two = (np.diff(betainc(a + k, a, self._ends))[0] / np.diff(self._levels)[0] for k in (1, 2))
        first, second = one / 2, two * (a + 1) / (2 * (2 * a + 1))
        mean = 1 - 2 * first
        return float(-mean if self._mirrored else mean), float(1 - 4 * first + 4 * second)

    def second_moments(self) -> Float[Tensor, " d"]:
        """Return E w_j² for every coordinate; products of two coordinates have the mean 0."""
        along = self.moments()[1]
        across = (1 - along) / (self.d - 1)
        return self.weight_norm**2 * torch.tensor([along, *[across] * (self.d - 1)], dtype=torch.float64)

    def optimal(self) -> Optimal:
        """Return ridge regression with the second moments of w; least squares of minimum norm without noise."""
        if self.noise_std == 0:
            return Optimal("least-squares", {}, source="exact from d demonstrations on")
        options = {"alpha": self.noise_std**2, "prior_covariance": self.second_moments()}
        return Optimal("ridge", options, source=self.source)


def degrees_from_pole(weights: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Return the angles of weights and e_1, in degrees."""
    return torch.atan2(weights[..., 1:].norm(dim=-1), weights[..., 0]) * (180 / math.pi)
