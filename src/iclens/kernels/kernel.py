"""What every kernel gives, and numbers carried as sign and logarithm."""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry


class SignedLog(NamedTuple):
    """Numbers too large for their dtype: value = sign · exp(log_abs).

    Attributes:
        log_abs: log |value|, with −inf for zero.
        sign: −1, 0 or 1, or None when every value is positive.
    """

    log_abs: Float[Tensor, "*shape"]
    sign: Float[Tensor, "*shape"] | None = None

    @property
    def value(self) -> Float[Tensor, "*shape"]:
        """The plain numbers; ±inf where they leave the range of the dtype."""
        value = self.log_abs.exp()
        return value if self.sign is None else torch.where(self.sign == 0, 0.0, self.sign * value)


class Kernel(abc.ABC):
    """A kernel k(x, y) with rows as tokens.

    A *normalizing* kernel divides by D(q) = Σ_i k(k_i, q), as softmax attention does; for the others D = 1, as in
    linear attention.
    """

    normalizes: bool
    """Whether attention with this kernel divides by D(q) = Σ_i k(k_i, q)."""

    def __post_init__(self) -> None:
        """Refuse parameters out of their range, once a dataclass of a kernel has them.

        Raises:
            UserError: a scale or a cap that is not positive and finite.
        """
        for name in ("scale", "cap"):
            value = getattr(self, name, 1.0)
            if not 0 < value < float("inf"):
                raise UserError(f"{name}={value} of a kernel must be positive and finite.")

    @abc.abstractmethod
    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:
        """Return the Gram matrix k(x_i, y_j) in log space, (..., n, m)."""

    @abc.abstractmethod
    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:
        """log k(x_i, x_i), (..., n); every kernel here is non-negative on its diagonal."""

    def coefficients(
        self,
        q: Float[Tensor, "*batch n_query d"],
        k: Float[Tensor, "*batch_k n_key d"],
        mask: Bool[Tensor, "*batch_m #n_query n_key"] | None,
        weights: Float[Tensor, "*batch_w #n_query n_key"] | None = None,
    ) -> tuple[Float[Tensor, "*out n_query n_key"], Float[Tensor, "*out n_query"]]:
        """w_i k(k_i, q_t) / D(q_t) over the keys that q_t may attend to, and log D(q_t), D = Σ_i w_i k(k_i, q_t).

        Softmax of the log-kernel for a positive normalizing kernel: no entry overflows, however large the scores.

        Args:
            q: queries.
            k: keys.
            mask: True where a query may attend; None for everywhere.
            weights: w_i ≥ 0, how often each key counts; None for once.
        """
        log_values = self.log(q, k).log_abs
        if weights is not None:
            log_values = log_values + weights.log()
        if mask is not None:
            log_values = log_values.masked_fill(~mask, -torch.inf)
        return log_values.softmax(-1), log_values.logsumexp(-1)


KERNELS: Registry[type[Kernel]] = Registry("kernel", "iclens.kernels")
