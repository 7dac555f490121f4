"""Taylor features: the exponential cut off after some order, as explicit monomials."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.errors import UserError
from iclens.features.feature_map import FEATURE_MAPS, PointwiseFeatureMap
from iclens.kernels import GaussianKernel, Kernel, SoftmaxKernel

_MOST_FEATURES = 100_000
"""Most monomials: 0.8 MB a token in float64. At d = 64 order 3 has 47,905 and order 4 has 814,385."""


@lru_cache(maxsize=8)
def _monomials(d: int, order: int) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
    """Monomials of degree `order` in (1, z_1, …, z_d), as sorted index tuples with 0 for the 1, and (Π α_i!)^(−1/2).

    With the extra coordinate they are the monomials of degree ≤ order in z, each once.
    """
    tuples = tuple(combinations_with_replacement(range(d + 1), order))
    factorials = (math.prod(math.factorial(n) for i, n in Counter(indices).items() if i > 0) for indices in tuples)
    return tuples, tuple(factorial**-0.5 for factorial in factorials)


@FEATURE_MAPS.register("taylor")
@dataclass(frozen=True)
class TaylorFeatures(PointwiseFeatureMap):
    """Monomials z^α/√(α!) of degree ≤ p in z = √scale · x, so that φ(x)ᵀφ(y) = T_p(scale · xᵀy) = Σ_{m ≤ p} s^m/m!.

    Symmetric monomials are taken once, weighted by their multinomial coefficient: n_features = C(d + p, p). An even
    order keeps every kernel value positive (T_p has no real root), hence the normaliser too; an odd order does not.

    For the Gaussian kernel exp(−‖z_x‖²/2) exp(z_xᵀz_y) exp(−‖z_y‖²/2) only the middle factor is cut off.

    Attributes:
        order: p.

    Raises:
        UserError: order < 1; `features` also when there would be more than 100,000 monomials.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order < 1:
            raise UserError(f"order={self.order} must be at least 1.")

    def n_features(self, d: int) -> int:
        """C(d + p, p), the number of features of tokens of width d."""
        return math.comb(d + self.order, self.order)

    def features(  # noqa: D102
        self, x: Float[Tensor, "*batch n d"], kernel: Kernel
    ) -> tuple[Float[Tensor, "*batch n n_features"], Float[Tensor, "*batch n"]]:
        if not isinstance(kernel, SoftmaxKernel | GaussianKernel):
            raise UserError(
                f"Taylor features exist for the softmax and the Gaussian kernel, not for {type(kernel).__name__}."
            )
        d = x.shape[-1]
        if self.n_features(d) > _MOST_FEATURES:
            raise UserError(
                f"Taylor features of order {self.order} for tokens of width {d} would be "
                f"C({d + self.order}, {self.order}) = {self.n_features(d):,} per token, more than {_MOST_FEATURES:,}: "
                "lower the order."
            )
        tuples, weights = _monomials(d, self.order)
        z = x * kernel.scale**0.5
        # Dividing (1, z) by its largest entry keeps high powers in range; the power of it goes to the log-scale.
        largest = z.detach().abs().amax(-1, keepdim=True).clamp_min(1)
        homogeneous = torch.cat([torch.ones_like(z[..., :1]), z], -1) / largest
        phi = torch.tensor(weights, dtype=z.dtype, device=z.device)
        for position in torch.tensor(tuples, device=z.device).unbind(-1):
            phi = phi * homogeneous[..., position]
        log_scale = self.order * largest.squeeze(-1).log()
        return phi, log_scale if isinstance(kernel, SoftmaxKernel) else log_scale - z.square().sum(-1) / 2

    def remainder_bound(
        self, q: Float[Tensor, "*batch n_query d"], k: Float[Tensor, "*batch_k n_key d"], scale: float
    ) -> Float[Tensor, "*out n_query n_key"]:
        """Bound on |exp(s) − T_p(s)| for s = scale · qᵀk: e^{max(0, s)} |s|^{p+1}/(p+1)! (Lagrange's remainder).

        Exact arithmetic; rounding comes on top. (..., n_query, n_key), inf where it leaves the range of the dtype.
        """
        return self._log_remainder(q @ k.mT * scale).exp()

    def attention_bound(
        self,
        q: Float[Tensor, "*batch n_query d"],
        k: Float[Tensor, "*batch_k n_key d"],
        v: Float[Tensor, "*batch_v n_key d_v"],
        scale: float,
        mask: Bool[Tensor, "*batch_m _ n_key"] | None = None,
    ) -> Float[Tensor, "*out n_query"]:
        """Bound on ‖h̃ − h‖₂, h softmax attention and h̃ attention with T_p in numerator and normaliser, (..., n_query).

        h̃ − h = Σ_i (T_p(s_i) − e^{s_i})(v_i − h)/D̃ exactly, since Σ_i e^{s_i}(v_i − h) = 0; so
        ‖h̃ − h‖ ≤ Σ_i r_i ‖v_i − h‖/D̃ with r_i the remainder bounds and D̃ = Σ_i T_p(s_i). inf where D̃ ≤ 0.
        """
        scores = q @ k.mT * scale
        allowed = scores.new_ones((), dtype=torch.bool) if mask is None else mask
        h = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v
        distances = (v.unsqueeze(-3) - h.unsqueeze(-2)).norm(dim=-1)
        series = torch.ones_like(scores)
        for m in range(self.order, 0, -1):
            series = 1 + scores / m * series
        normalizer = (series * allowed).sum(-1)
        log_terms = self._log_remainder(scores) + distances.log()
        numerator = log_terms.masked_fill(~allowed, -torch.inf).logsumexp(-1)
        return torch.where(normalizer > 0, (numerator - normalizer.clamp_min(0).log()).exp(), torch.inf)

    def _log_remainder(self, s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return s.clamp_min(0) + (self.order + 1) * s.abs().log() - math.lgamma(self.order + 2)
