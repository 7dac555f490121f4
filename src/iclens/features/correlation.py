"""Kernels divided by their own norms, and square roots of their Gram matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.kernels import Kernel, SoftcappedKernel


def correlation(
    kernel: Kernel, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]
) -> Float[Tensor, "*out n m"]:
    """c(x, y) = k(x, y) / √(k(x, x) k(y, y)), in [−1, 1]: the cosine of φ(x) and φ(y), (..., n, m).

    For the softmax kernel it is the Gaussian kernel exp(−scale ‖x − y‖²/2), so the norms' exponentials, which overflow,
    never appear. A token with k(x, x) = 0 (zero under the linear kernel) has no direction: its row is zero.

    Raises:
        UserError: the kernel is not positive semi-definite, so no φ exists.
    """
    if isinstance(kernel, SoftcappedKernel):
        raise UserError(
            "the softcapped kernel is not positive semi-definite, so it has no feature map. Use the kernel form."
        )
    log_abs, sign = kernel.log(x, y)
    half_x, half_y = (kernel.log_diagonal(tokens) / 2 for tokens in (x, y))
    exponent = log_abs - half_x[..., :, None] - half_y[..., None, :]
    no_direction = (half_x == -torch.inf)[..., :, None] | (half_y == -torch.inf)[..., None, :]
    values = exponent.masked_fill(no_direction, -torch.inf).exp()
    return values if sign is None else torch.where(no_direction, 0.0, values * sign)


def square_root(gram: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """R with R Rᵀ = gram, for a positive semi-definite matrix that may be singular (repeated tokens)."""
    eigenvalues, eigenvectors = torch.linalg.eigh((gram + gram.mT) / 2)
    # Not clamp: the gradient of √ at 0 is infinite.
    positive = eigenvalues > 0
    return eigenvectors * (torch.where(positive, eigenvalues, 1.0).sqrt() * positive).unsqueeze(-2)
