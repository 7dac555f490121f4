"""The Lasso."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.feature_sign import on_active_set, solve
from iclens.estimators.points import Features, checked_points, mapped
from iclens.tasks.options import require_counts, require_positive
from iclens.tasks.shapes import Inputs, Labels

_ELEMENTS = 2**20
"""Most entries of Gram matrices held at once (8 MiB in float64): more would leave the cache."""


@ESTIMATORS.register("lasso")
@dataclass(frozen=True, eq=False)
class Lasso(Estimator):
    """ŷ = wᵀφ(x), w = argmin (1/2n) Σ_i (y_i − wᵀφ(x_i))² + α‖w‖₁, without intercept.

    The objective of scikit-learn's `Lasso`. All prefixes are solved side by side and exactly, by `feature_sign`, from
    running sums of φ(x) φ(x)ᵀ; the few problems on which it does not end, where columns depend on each other, go to
    scikit-learn. Where it ends, the answer has gradients: those of the linear system on the active set.

    Attributes:
        alpha: α, positive.
        tol: tolerance of scikit-learn's solver, where it is used.
        max_iter: most sweeps of it.
        features: φ; None for the inputs as they are.

    Raises:
        UserError: an option out of its range.
    """

    alpha: float = 1.0
    tol: float = 1e-10
    max_iter: int = 100_000
    features: Features | None = None

    def __post_init__(self) -> None:
        require_positive(alpha=self.alpha, tol=self.tol)
        require_counts(max_iter=self.max_iter)

    def search(
        self,
        gram: Float[Tensor, "problems d d"],
        moment: Float[Tensor, "problems d"],
        strength: Float[Tensor, " problems"],
    ) -> tuple[Float[Tensor, "problems d"], Bool[Tensor, " problems"]]:
        """Solve the problems side by side; see `feature_sign.solve`."""
        return solve(gram, moment, strength)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        x = mapped(self.features, inputs)
        flat_x, flat_y = (tensor.reshape(-1, *tensor.shape[-2:]) for tensor in (x, labels))
        at_once = max(1, _ELEMENTS // (labels.shape[-1] * x.shape[-2] * x.shape[-1] ** 2))
        answers = [self._some(*some) for some in zip(flat_x.split(at_once), flat_y.split(at_once), strict=True)]
        return torch.cat(answers).reshape(labels.shape)

    def _some(self, x: Tensor, y: Tensor) -> Tensor:
        n, d = x.shape[-2:]
        # Axes: prompt, prefix with at least one point, output, coordinate.
        gram = (x[:, :-1].unsqueeze(-1) * x[:, :-1].unsqueeze(-2)).cumsum(1).unsqueeze(2)
        gram = gram.expand(-1, -1, y.shape[-1], -1, -1)
        moment = (y[:, :-1].unsqueeze(-1) * x[:, :-1].unsqueeze(-2)).cumsum(1)
        strength = self.alpha * torch.arange(1, n, dtype=x.dtype, device=x.device)
        strength = strength.unsqueeze(-1).expand(moment.shape[:-1])
        with torch.no_grad():
            weights, ended = self.search(gram.reshape(-1, d, d), moment.reshape(-1, d), strength.reshape(-1))
            weights, ended = weights.reshape(moment.shape), ended.reshape(strength.shape)
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            weights = on_active_set(gram, moment, strength, weights.sign())
        answers = (weights * x[:, 1:].unsqueeze(-2)).sum(-1)
        if not ended.all():
            answers = torch.where(ended, answers, self._by_scikit_learn(x, y, ended))
        return torch.cat([torch.zeros_like(y[:, :1]), answers], 1)

    def _by_scikit_learn(self, x: Tensor, y: Tensor, ended: Tensor) -> Tensor:
        """Answers where the search did not end, (prompts, prefixes, outputs); zero elsewhere."""
        from sklearn.linear_model import Lasso as OneLasso

        one = OneLasso(alpha=self.alpha, fit_intercept=False, tol=self.tol, max_iter=self.max_iter)
        points, labels = x.detach().cpu().double().numpy(), y.detach().cpu().double().numpy()
        answers = torch.zeros(ended.shape, dtype=torch.float64)
        for b, i, output in (~ended).nonzero().tolist():
            weights = one.fit(points[b, : i + 1], labels[b, : i + 1, output]).coef_
            answers[b, i, output] = float(points[b, i + 1] @ weights)
        return answers.to(y)
