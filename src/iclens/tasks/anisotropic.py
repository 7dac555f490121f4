"""Linear regression with correlated inputs, and its best preconditioned gradient step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.draws import fixed_normal, normal
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_at_least_zero, require_counts, require_one_of
from iclens.tasks.shapes import Inputs, Phi
from iclens.tasks.task import TASKS

SPECTRA = ("power", "exponential")
WEIGHTS = ("isotropic", "whitened")


@TASKS.register("anisotropic")
class Anisotropic(LinearInFeatures):
    """y = wᵀ φ(x) + σ z with x ~ N(0, Σ), Σ = Q diag(λ) Qᵀ fixed, and w ~ N(0, τ² I).

    The eigenvalues fall as λ_i ∝ i^(−decay) (`power`) or e^(−decay i) (`exponential`), with mean 1, so that E‖x‖² = d.
    φ(x) is x (`isotropic` weights), or Σ^(−1/2) x (`whitened`): weights N(0, τ² Σ⁻¹) on x, which give every direction
    the same share of the labels, and whose Bayes predictor is ridge regression in the known covariance.

    Source: Ahn et al. 2023; isotropic weights are those of their one-layer theorem.

    Args:
        d: width of the inputs.
        d_y: width of the labels; their weights are independent.
        spectrum: `power` or `exponential`.
        decay: how fast the eigenvalues fall; 0 for Σ = I.
        rotated: whether Q is a random rotation; otherwise I.
        weights: `isotropic` or `whitened`.
        weight_std: τ, positive.
        noise_std: σ, 0 for no noise.
        seed: of Q.

    Raises:
        UserError: an option out of its range, or eigenvalues that differ by more than a factor of 1e12.
    """

    def __init__(
        self,
        *,
        d: int = 20,
        d_y: int = 1,
        spectrum: str = "power",
        decay: float = 1.0,
        rotated: bool = True,
        weights: str = "isotropic",
        weight_std: float = 1.0,
        noise_std: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(d=d, n_features=d, d_y=d_y, weight_std=weight_std, noise_std=noise_std)
        require_one_of("spectrum", spectrum, SPECTRA)
        require_one_of("weights", weights, WEIGHTS)
        require_at_least_zero(decay=decay)
        self.spectrum, self.decay, self.rotated, self.weights, self.seed = spectrum, decay, rotated, weights, seed
        index = torch.arange(1, d + 1, dtype=torch.float64)
        logarithms = -decay * (index.log() if spectrum == "power" else index - 1)
        if logarithms[-1].exp() < 1e-12:
            raise UserError(f"decay={decay} at d={d} takes the eigenvalues down by more than a factor of 1e12.")
        self.eigenvalues = logarithms.exp() / logarithms.exp().mean()
        self.rotation = torch.eye(d, dtype=torch.float64)
        if rotated:
            self.rotation = torch.linalg.qr(fixed_normal(seed, d, d)).Q
        self._root, self._inverse_root = (self._in_basis(self.eigenvalues**power) for power in (0.5, -0.5))

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Σ, in float64."""
        return self._in_basis(self.eigenvalues)

    @property
    def plain(self) -> bool:  # noqa: D102
        return self.weights == "isotropic"

    def features(self, inputs: Inputs) -> Phi:
        """φ(x): x, or Σ^(−1/2) x."""
        return inputs if self.plain else inputs @ self._inverse_root.to(inputs)

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:  # noqa: D102
        drawn = normal(generator, *batch, n_points, self.d)
        return drawn @ self._root.to(drawn)

    def preconditioner(self, n_context: int) -> Float[Tensor, "d d"]:
        """Return the A for which ŷ = x_qᵀ A (1/n) Σ_i x_i y_i has the least squared error, in float64.

        A = W ((n+1)/n Σ W + (tr(Σ W) + σ²)/n I)⁻¹ with W the covariance of the weights on x, τ² I or τ² Σ⁻¹. With
        isotropic weights and no noise this is ((n+1)/n Σ + (tr Σ/n) I)⁻¹: Ahn et al. 2023.

        Args:
            n_context: n, at least 1.

        Raises:
            UserError: no demonstrations.
        """
        return self._in_basis(self._steps(n_context))

    def one_step_risk(self, n_context: int) -> float:
        """Its excess risk E(ŷ − wᵀ φ(x_q))², for each output: tr(Σ W) − tr(Σ A Σ W).

        Raises:
            UserError: no demonstrations.
        """
        shares = self.eigenvalues * self._weight_variances
        return float((shares * (1 - self.eigenvalues * self._steps(n_context))).sum())

    @property
    def _weight_variances(self) -> Tensor:
        ones = torch.ones_like(self.eigenvalues)
        return self.weight_std**2 * (ones if self.plain else 1 / self.eigenvalues)

    def _steps(self, n_context: int) -> Tensor:
        require_counts(n_context=n_context)
        n, variances = n_context, self._weight_variances
        shares = self.eigenvalues * variances
        return variances / ((n + 1) / n * shares + (shares.sum() + self.noise_std**2) / n)

    def _in_basis(self, diagonal: Tensor) -> Tensor:
        return (self.rotation * diagonal) @ self.rotation.mT
