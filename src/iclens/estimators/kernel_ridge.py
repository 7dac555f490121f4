"""Kernel ridge regression, the mean of a Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.conditional_means import means_in_order
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import check_finite, checked_points
from iclens.estimators.prefix_loop import by_prefix
from iclens.kernels import GaussianKernel, SoftmaxKernel
from iclens.tasks.options import require_at_least_zero, require_counts, require_one_of, require_positive
from iclens.tasks.shapes import Inputs, Labels

KERNEL_NAMES = ("linear", "polynomial", "rbf", "softmax")


@ESTIMATORS.register("kernel-ridge")
@dataclass(frozen=True)
class KernelRidge(Estimator):
    """ŷ = k(x, X) (K + αI)⁻¹ y, without intercept.

    Kernels: `linear` xᵀy; `polynomial` (γ xᵀy + c)^degree; `rbf` exp(−γ‖x − y‖²); `softmax` exp(γ xᵀy), that of
    softmax attention. All prefixes: one Cholesky factor of K + αI, O(n³) for a prompt of n points, as much as the last
    prefix alone.

    Source: scikit-learn's `KernelRidge` has the same options, except for `softmax`.

    Attributes:
        alpha: α, positive.
        kernel: the kernel's name.
        gamma: γ, positive; None for 1/d, or 1/√d with `softmax`.
        degree: degree of the polynomial, at least 1.
        coef0: c of the polynomial, not negative.

    Raises:
        UserError: an option out of its range, a kernel that overflows, or an `alpha` so small beside the kernel that
            K + αI is singular to rounding.
    """

    alpha: float = 1.0
    kernel: str = "rbf"
    gamma: float | None = None
    degree: int = 3
    coef0: float = 1.0

    def __post_init__(self) -> None:
        require_positive(alpha=self.alpha)
        require_one_of("kernel", self.kernel, KERNEL_NAMES)
        if self.gamma is not None:
            require_positive(gamma=self.gamma)
        require_counts(degree=self.degree)
        require_at_least_zero(coef0=self.coef0)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        inputs, labels = checked_points(inputs, labels)
        factor, info = torch.linalg.cholesky_ex(self._penalised(self._gram(inputs)))
        if info.any():
            raise UserError(
                f"alpha={self.alpha} is too small: the {self.kernel} kernel of these inputs plus alpha is singular to "
                f"rounding in {inputs.dtype}."
            )
        return means_in_order(factor, labels)

    def prefixes_naive(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the same, solving for the dual coefficients of one prefix after another."""
        inputs, labels = checked_points(inputs, labels)

        def answer(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
            gram = self._gram(torch.cat([xs, query], -2))
            return gram[..., -1:, :-1] @ torch.linalg.solve(self._penalised(gram[..., :-1, :-1]), ys)

        return by_prefix(answer, inputs, labels)

    def _gram(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        gamma = self.gamma if self.gamma is not None else d**-0.5 if self.kernel == "softmax" else 1 / d
        if self.kernel == "rbf":
            gram = GaussianKernel(2 * gamma).log(x, x).value
        elif self.kernel == "softmax":
            gram = SoftmaxKernel(gamma).log(x, x).value
        elif self.kernel == "polynomial":
            gram = (gamma * x @ x.mT + self.coef0) ** self.degree
        else:
            gram = x @ x.mT
        check_finite(f"entries of the {self.kernel} kernel", gram)
        return gram

    def _penalised(self, gram: Tensor) -> Tensor:
        return gram + self.alpha * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
