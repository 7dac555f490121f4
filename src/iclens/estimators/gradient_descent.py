"""Some steps of gradient descent from zero, as layers of linear attention take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import Features, check_finite, checked_points, mapped
from iclens.estimators.prefix_loop import by_prefix
from iclens.tasks.options import require_at_least_zero, require_one_of
from iclens.tasks.shapes import Inputs, Labels

REDUCTIONS = ("mean", "sum")


@ESTIMATORS.register("gradient-descent")
@dataclass(frozen=True, eq=False)
class GradientDescent(Estimator):
    """ŷ = w_Tᵀφ(x) after T steps w ← w + η/n P Σ_i e_i φ(x_i), e_i = y_i − wᵀφ(x_i), from w = 0.

    GD++ (γ > 0) also changes the data after every step, φ(x) ← (I − γ Σ_i φ(x_i) φ(x_i)ᵀ) φ(x), points and query
    alike, and a step then adds to the predictions what it would for the data as they are. Debiased: the gradient is
    taken with centred keys, η/n P Σ_i e_i (φ(x_i) − φ̄), so that one step is (η/n) Σ_i y_i ⟨φ(x_i) − φ̄, φ(x)⟩.
    Nothing keeps a rate that is too large from diverging.

    All prefixes: the weights of every prefix side by side, O(T n² d); GD++ one prefix after another, O(T n² d²).

    Source: von Oswald et al. 2023, Proposition 1 (`reduction="mean"`) and GD++; Ahn et al. 2023 and Mahankali et al.
    2023 for one preconditioned step; He et al. 2025 for the debiased step, η = 2μω.

    Attributes:
        n_steps: T, not negative.
        learning_rate: η, one number or one for each step; a tensor may ask for gradients.
        preconditioner: P, (n_features, n_features); None for I.
        plus_plus: γ, not negative; of the sum over the points, whatever `reduction` says.
        debiased: whether the keys are centred.
        reduction: `mean` for η/n as above, `sum` for η alone.
        features: φ; None for the inputs as they are.

    Raises:
        UserError: an option out of its range, or of a width that does not fit the inputs.
    """

    n_steps: int = 1
    learning_rate: float | Sequence[float] | Tensor = 1.0
    preconditioner: Tensor | None = None
    plus_plus: float = 0.0
    debiased: bool = False
    reduction: str = "mean"
    features: Features | None = None

    def __post_init__(self) -> None:
        require_at_least_zero(n_steps=self.n_steps, plus_plus=self.plus_plus)
        require_one_of("reduction", self.reduction, REDUCTIONS)
        rates = torch.as_tensor(self.learning_rate)
        check_finite("learning_rate", rates)
        if rates.shape not in ((), (self.n_steps,)):
            raise UserError(
                f"learning_rate has shape {tuple(rates.shape)}: one number, or {self.n_steps} for the steps."
            )
        if self.preconditioner is not None:
            check_finite("preconditioner", self.preconditioner)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        if self.plus_plus:
            return self.prefixes_naive(inputs, labels)
        x, labels, rates, preconditioner = self._prepared(inputs, labels)
        n, d = x.shape[-2:]
        before = torch.ones(n, n, dtype=x.dtype, device=x.device).tril(-1)
        counts = before.sum(-1, keepdim=True).clamp_min(1)
        # Axes: (..., output, prefix, point or feature).
        x, targets = x.unsqueeze(-3), labels.mT.unsqueeze(-2)
        weights = x.new_zeros(*labels.mT.shape, d)
        for rate in rates:
            errors = (targets - weights @ x.mT) * before
            if self.debiased:
                # Σ_i e_i (x_i − x̄) = Σ_i (e_i − ē) x_i.
                errors = (errors - errors.sum(-1, keepdim=True) / counts) * before
            gradients = errors @ x
            if preconditioner is not None:
                gradients = gradients @ preconditioner.mT
            weights = weights + rate * (gradients / counts if self.reduction == "mean" else gradients)
        return (weights * x).sum(-1).mT

    def prefixes_naive(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the same as layers do it: labels and data changed step by step, one prefix after another."""
        x, labels, rates, preconditioner = self._prepared(inputs, labels)

        def answer(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
            n_points = xs.shape[-2] if self.reduction == "mean" else 1
            errors, total = ys, torch.zeros_like(ys[..., :1, :])
            for rate in rates:
                keys = xs - xs.mean(-2, keepdim=True) if self.debiased else xs
                keys = keys if preconditioner is None else keys @ preconditioner.mT
                step = rate / n_points * keys.mT @ errors
                total, errors = total + query @ step, errors - xs @ step
                change = self.plus_plus * xs.mT @ xs
                xs, query = xs - xs @ change, query - query @ change
            return total

        return by_prefix(answer, x, labels)

    def _prepared(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Features, labels, one rate for each step, and P."""
        inputs, labels = checked_points(inputs, labels)
        x = mapped(self.features, inputs)
        rates = torch.as_tensor(self.learning_rate).to(x).expand(self.n_steps)
        if self.preconditioner is None:
            return x, labels, rates, None
        d = x.shape[-1]
        if self.preconditioner.shape != (d, d):
            raise UserError(f"preconditioner has shape {tuple(self.preconditioner.shape)}, it must be {(d, d)}.")
        return x, labels, rates, self.preconditioner.to(x)
