"""All prefixes at once: prediction i is the mean of y_i given y_1 … y_{i−1} under a Gaussian, and one factor gives all.

If y ~ N(0, G Gᵀ) with G lower triangular, then y = G z with white z, and knowing the labels before i is knowing the z
before i. So E[y_i | y_1 … y_{i−1}] = Σ_{j<i} G_ij z_j with z = G⁻¹ y: one triangular solve answers every prefix. Ridge
regression and kernel ridge regression are such means, with covariance K + αI; least squares is one as soon as there
are as many points as inputs are wide.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 64
"""Points answered by one factor of `recursive_least_squares`."""


def means_in_order(
    factor: Float[Tensor, "*batch n n"], labels: Float[Tensor, "*batch_y n d_y"]
) -> Float[Tensor, "*out n d_y"]:
    """Σ_{j<i} G_ij z_j with z = G⁻¹ y, for every i: prediction i depends on the labels before i alone.

    Args:
        factor: G, lower triangular; signs of its columns do not matter.
        labels: y, each output a vector of its own.
    """
    z = torch.linalg.solve_triangular(factor, labels, upper=False)
    return factor.tril(-1) @ z


def lower_factor(rows: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n m"]:
    """Lower triangular (trapezoidal for n > d) G with G Gᵀ = rows rowsᵀ, m = min(n, d).

    By orthogonal transformations, so that the condition of `rows` is not squared as by a Cholesky factor.
    """
    # Without Q it costs half, but has no gradient.
    mode = "reduced" if torch.is_grad_enabled() and rows.requires_grad else "r"
    return torch.linalg.qr(rows.mT, mode=mode).R.mT


def noisy_factor(rows: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n n"]:
    """Lower triangular G with G Gᵀ = I + rows rowsᵀ."""
    # ‖rows‖² bounds the condition. Up to here Cholesky loses a hundredth of √ε at most, and costs a third.
    large = rows.detach().square().sum((-2, -1)) > 1e-2 * torch.finfo(rows.dtype).eps ** -0.5
    if not large.any():
        return _noisy_cholesky(rows)
    if large.all():
        return _noisy_qr(rows)
    factor = rows.new_empty(*rows.shape[:-1], rows.shape[-2])
    factor[large], factor[~large] = _noisy_qr(rows[large]), _noisy_cholesky(rows[~large])
    return factor


def _noisy_cholesky(rows: Tensor) -> Tensor:
    return torch.linalg.cholesky(torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device) + rows @ rows.mT)


def _noisy_qr(rows: Tensor) -> Tensor:
    eye = torch.eye(rows.shape[-2], dtype=rows.dtype, device=rows.device)
    return lower_factor(torch.cat([rows, eye.expand(*rows.shape[:-2], *eye.shape)], -1))


def recursive_least_squares(
    inputs: Float[Tensor, "*batch n d"],
    labels: Float[Tensor, "*batch n d_y"],
    start: tuple[Float[Tensor, "*batch d d"], Float[Tensor, "*batch d d_y"]] | None = None,
    *,
    upper: bool = True,
    block: int = BLOCK,
) -> Float[Tensor, "*batch n d_y"]:
    """Predictions wᵀx_i, where w minimises ‖R w − m‖² + Σ_{j<i} (y_j − wᵀx_j)², for every i.

    The square-root form of recursive least squares, a block of points at a time: within a block the predictions are
    conditional means under covariance I + A Aᵀ, A = X R⁻¹; after it, R and m take its points in by a QR decomposition.
    O(n (block² + block d + d²)) for a prompt of n points.

    Args:
        inputs: the points.
        labels: their labels.
        start: R, triangular and invertible, and m: what is known before the first point. None for I and zeros.
        upper: whether R is upper triangular.
        block: points at a time.
    """
    n, d = inputs.shape[-2:]
    answers = []
    for first in range(0, n, block):
        x, y = inputs[..., first : first + block, :], labels[..., first : first + block, :]
        if start is None:
            answers.append(means_in_order(noisy_factor(x), y))
        else:
            state, mean = start
            a = torch.linalg.solve_triangular(state.mT, x.mT, upper=not upper).mT
            known = a @ mean
            answers.append(known + means_in_order(noisy_factor(a), y - known))
        if first + block < n:
            if start is None:
                eye = torch.eye(d, dtype=x.dtype, device=x.device)
                start = eye.expand(*x.shape[:-2], d, d), y.new_zeros(*y.shape[:-2], d, y.shape[-1])
            q, state = torch.linalg.qr(torch.cat([start[0], x], -2))
            start, upper = (state, q.mT @ torch.cat([start[1], y], -2)), True
    return torch.cat(answers, -2)
