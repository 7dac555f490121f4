"""Ridge regression, which is Bayes' answer under Gaussian weights and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.conditional_means import recursive_least_squares
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import Features, check_finite, checked_points, mapped
from iclens.estimators.prefix_loop import by_prefix
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("ridge")
@dataclass(frozen=True, eq=False)
class Ridge(Estimator):
    """ŷ = wᵀφ(x), w = argmin Σ_i (y_i − wᵀφ(x_i))² + α wᵀΛ⁻¹w, without intercept.

    Bayes' predictor of y = wᵀφ(x) + noise for w ~ N(0, τ²Λ) and noise ~ N(0, σ²) when α = σ²/τ². All prefixes:
    `recursive_least_squares` from R = √α I, O(n d²) for a prompt of n points; as exact for a small α as for a large
    one.

    Source: Akyürek et al. 2022, whose best-fitting parameter is σ²/τ².

    Attributes:
        alpha: α, positive; or a tensor of them, which must broadcast to the leading axes of the inputs.
        features: φ; None for the inputs as they are.
        prior_covariance: Λ, (n_features, n_features) symmetric and positive semi-definite, or its diagonal
            (n_features,); None for I.

    Raises:
        UserError: an option out of its range, or of a width that does not fit the inputs.
    """

    alpha: float | Tensor = 1.0
    features: Features | None = None
    prior_covariance: Tensor | None = None

    def __post_init__(self) -> None:
        alpha = torch.as_tensor(self.alpha).detach()
        if not bool(((alpha > 0) & alpha.isfinite()).all()):
            raise UserError(f"alpha={self.alpha} must be finite and positive; least-squares is the limit at 0.")
        prior = self.prior_covariance
        if prior is not None:
            check_finite("prior_covariance", prior)
            square = prior.ndim == 2 and prior.shape[0] == prior.shape[1] and torch.allclose(prior, prior.mT)
            lowest = prior.min() if prior.ndim == 1 else torch.linalg.eigvalsh(prior).min() if square else -1
            if prior.ndim > 2 or lowest < -1e-6 * prior.abs().max():
                raise UserError(
                    f"prior_covariance of shape {tuple(prior.shape)} must be a symmetric matrix without negative "
                    "eigenvalues, or its diagonal."
                )

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        rows, labels, alpha = self._prepared(inputs, labels)
        # In units in which the penalty is ‖w‖².
        return recursive_least_squares(rows / alpha.sqrt(), labels)

    def prefixes_naive(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the same, as least squares on points and penalty together, one prefix after another."""
        rows, labels, alpha = self._prepared(inputs, labels)
        d, leading = rows.shape[-1], rows.shape[:-2]
        penalty = (alpha.sqrt() * torch.eye(d, dtype=rows.dtype, device=rows.device)).expand(*leading, d, d)
        zeros = labels.new_zeros(*leading, d, labels.shape[-1])

        def answer(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
            return query @ torch.linalg.lstsq(torch.cat([xs, penalty], -2), torch.cat([ys, zeros], -2)).solution

        return by_prefix(answer, rows, labels)

    def _prepared(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features on which the penalty is α‖w‖², labels, and α with two axes for matrices."""
        inputs, labels = checked_points(inputs, labels)
        rows = mapped(self.features, inputs)
        if self.prior_covariance is not None:
            prior = self.prior_covariance.to(rows)
            if prior.shape[-1] != rows.shape[-1]:
                raise UserError(
                    f"prior_covariance is for width {prior.shape[-1]}, the features are {rows.shape[-1]} wide."
                )
            if prior.ndim == 1:
                rows = rows * prior.clamp_min(0).sqrt()
            else:
                values, vectors = torch.linalg.eigh(prior)
                rows = rows @ (vectors * values.clamp_min(0).sqrt())
        alpha = torch.as_tensor(self.alpha, dtype=rows.dtype, device=rows.device)
        try:
            fits = torch.broadcast_shapes(alpha.shape, rows.shape[:-2]) == rows.shape[:-2]
        except RuntimeError:
            fits = False
        if not fits:
            raise UserError(
                f"alpha has shape {tuple(alpha.shape)}, which does not broadcast to the leading axes "
                f"{tuple(rows.shape[:-2])} of the inputs."
            )
        return rows, labels, alpha[..., None, None]
