"""The counterfactual of a head: its dual model trained on the squared loss, for a while or to the end.

The loss of Theorem 3.1 is linear, and one step is all that it takes. With the loss ½ Σ_i ‖W φ_i − v_i‖² the same
features and targets give gradient flow, which ends in kernel ridge regression. LUCID (2602.10410) states the linear
objective and replaces it by the squared one: as there, the softmax weights stay and the keys' kernel is inverted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.dual.model import DualModel
from iclens.errors import UserError
from iclens.features.correlation import correlation

RIDGE = 1e-3
"""λ beside a kernel whose diagonal is 1."""

_A_DECADE = 16
_REFINEMENTS = 40
_SURE = 1e-3
"""Most of the sum of the coefficients that rounding may make."""


class Nearest(NamedTuple):
    """Where gradient flow comes nearest to the head's own output.

    Attributes:
        time: t ≥ 0 in units of one step of the head; inf where the end is nearest, (..., n_query).
        distance: ‖flow(t) − out‖ there, (..., n_query).
    """

    time: Float[Tensor, "*batch n_query"]
    distance: Float[Tensor, "*batch n_query"]


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What a head would answer if its dual model were trained on the squared loss.

    Its features are brought to length 1 on the keys: C_ij = k(k_i, k_j)/√(k(k_i, k_i) k(k_j, k_j)), for softmax the
    Gaussian kernel exp(−scale ‖k_i − k_j‖²/2), so that no exponential overflows and no key counts for its norm. The
    test input is the vector whose products with the features are the head's attention weights α. From W = 0, one
    gradient step of size 1 gives Σ_i α_i v_i, the head's own output, on the linear loss −Σ_i v_iᵀ W φ_i and on the
    squared one ½ Σ_i ‖W φ_i − v_i‖² + ½ λ ‖W‖² alike. Gradient flow on the squared loss goes on from there:

        flow(t) = αᵀ (C + λI)⁻¹ (I − e^{−t(C + λI)}) V,     end() = αᵀ (C + λI)⁻¹ V,

    with t in units of that step. Where keys are orthogonal in feature space, C = I and the end is the head's output
    divided by 1 + λ: what sets the two apart is how alike the keys are. Keys that a query may not attend to are left
    out.

    Source: LUCID (2602.10410) for the objective; the normalisation of the keys is ours. Derived in
    docs/theory/trained-to-the-end.md.

    Attributes:
        dual: the head, or several.
        ridge: λ, positive, beside a diagonal of 1.
        seen: which keys each query may attend to, (..., n_query or 1, n_key).
        gram: C + λI, (..., n_query or 1, n_key, n_key), with zeros beside the diagonal for keys that are not seen.
        eigenvalues: its eigenvalues, ascending, (..., n_query or 1, n_key).
        basis: its eigenvectors as columns, (..., n_query or 1, n_key, n_key).
    """

    dual: DualModel
    ridge: float
    seen: Bool[Tensor, "*batch_m _ n_key"]
    gram: Float[Tensor, "*batch _ n_key n_key"]
    eigenvalues: Float[Tensor, "*batch _ n_key"]
    basis: Float[Tensor, "*batch _ n_key n_key"]

    @staticmethod
    def of(dual: DualModel, ridge: float = RIDGE) -> Counterfactual:
        """Decompose the kernel of a head's keys; time O(n_key³), once for all queries that see the same keys.

        Raises:
            UserError: `ridge` is not positive and finite, the kernel does not normalise or has no feature map
                (softcapped), or the dual has training weights.
        """
        if not (ridge > 0 and math.isfinite(ridge)):
            raise UserError(f"ridge={ridge} must be positive and finite.")
        if not dual.kernel.normalizes:
            raise UserError(
                f"the {type(dual.kernel).__name__} does not normalise: it has no attention weights to go on from."
            )
        if dual.training_weights is not None:
            raise UserError("the counterfactual counts every pair once: this dual model has training weights.")
        n = dual.k.shape[-2]
        seen = torch.ones(1, n, dtype=torch.bool, device=dual.k.device) if dual.mask is None else dual.mask
        gram = correlation(dual.kernel, dual.k, dual.k).unsqueeze(-3)
        one = torch.eye(n, dtype=gram.dtype, device=gram.device)
        pairs = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        # Exactly 1 on the diagonal, which the formula gives to rounding.
        gram = torch.where(pairs & (one == 0), (gram + gram.mT) / 2, one)
        eigenvalues, basis = torch.linalg.eigh(gram)
        return Counterfactual(dual, ridge, seen, gram + ridge * one, eigenvalues.clamp_min(0) + ridge, basis)

    @cached_property
    def _parts(self) -> Float[Tensor, "*batch n_query n_key d_v"]:
        """Every eigenvector's part of the head's output: they sum to it."""
        weights = (self.dual.coefficients.unsqueeze(-2) @ self.basis).squeeze(-2)
        return weights.unsqueeze(-1) * (self.basis.mT @ self.dual.v.unsqueeze(-3))

    @property
    def condition(self) -> Float[Tensor, "*batch _"]:
        """Largest over smallest eigenvalue of C + λI, at least 1: 1 where training on would change nothing but size."""
        return self.eigenvalues[..., -1] / self.eigenvalues[..., 0]

    def end(self) -> Float[Tensor, "*batch n_query d_v"]:
        """αᵀ (C + λI)⁻¹ V: trained to the end, kernel ridge regression."""
        return self.flow(math.inf)

    def flow(self, time: float | Float[Tensor, "*batch_t _"]) -> Float[Tensor, "*batch n_query d_v"]:
        """αᵀ (C + λI)⁻¹ (I − e^{−t(C + λI)}) V.

        Args:
            time: t ≥ 0 in units of the head's own step; one for all queries, or (..., n_query or 1).
        """
        t = torch.as_tensor(time, dtype=self.eigenvalues.dtype, device=self.eigenvalues.device)
        grown = -torch.expm1(-t.unsqueeze(-1) * self.eigenvalues) / self.eigenvalues
        return (grown.unsqueeze(-1) * self._parts).sum(-2)

    def nearest(self) -> Nearest:
        """Find the t at which the flow comes nearest to the head's output: on a grid, then by golden section."""
        out = self.dual.predict()

        def off(time: float | Tensor) -> Tensor:
            return (self.flow(time) - out).norm(dim=-1)

        first, last = -3.0, math.log10(50 / self.ridge)
        count = int(_A_DECADE * (last - first)) + 1
        grid = torch.logspace(first, last, count, dtype=out.dtype, device=out.device)
        distances = torch.stack([off(time) for time in grid.tolist()], -1)
        best = distances.argmin(-1)
        low, high = (grid[(best + by).clamp(0, count - 1)].log() for by in (-1, 1))
        golden = (math.sqrt(5) - 1) / 2
        for _ in range(_REFINEMENTS):
            left, right = high - golden * (high - low), low + golden * (high - low)
            on_left = off(left.exp()) < off(right.exp())
            low, high = torch.where(on_left, low, left), torch.where(on_left, right, high)
        time = ((low + high) / 2).exp()
        distance, at_end = off(time), (self.end() - out).norm(dim=-1)
        # Behind the last point of the grid the flow has ended.
        over = (at_end <= distance) | (best == count - 1)
        return Nearest(torch.where(over, torch.inf, time), torch.where(over, at_end, distance))

    def kernel_ridge(self) -> Float[Tensor, "*batch n_query d_v"]:
        """The end with features as long as they are: c V/Σ_i c_i, c = k_qᵀ (K + λ diag K)⁻¹, K the kernel itself.

        With λ beside a diagonal of different lengths, every pair has λ in units of its own k(k_i, k_i). The division
        takes the place of D(q): it is what the model would predict for a target of 1. c favours short keys, by a factor
        exp(scale (‖k_i‖² − ‖k_j‖²)/2). Where Σ_i c_i is near zero the result is large; where rounding would decide it,
        because the shortest keys have too small a part of the solution, it is NaN.
        """
        dual = self.dual
        half = (dual.kernel.log_diagonal(dual.k).unsqueeze(-2) / 2).masked_fill(~self.seen, torch.inf)
        to_query = dual.kernel.log(dual.q, dual.k).log_abs - half
        to_query = (to_query - to_query.amax(-1, keepdim=True)).exp().unsqueeze(-1)
        solved = torch.zeros_like(to_query)
        # Twice more for the remainder: it makes small parts of the solution accurate beside large ones.
        for _ in range(3):
            left = to_query - self.gram @ solved
            solved = solved + (self.basis / self.eigenvalues.unsqueeze(-2)) @ (self.basis.mT @ left)
        limits = torch.finfo(solved.dtype)
        rounding = limits.eps * (self.gram.abs() @ solved.abs()) + limits.tiny
        solved, rounding = solved.squeeze(-1), rounding.squeeze(-1)
        logs = solved.abs().log() - half
        largest = logs.amax(-1, keepdim=True)
        coefficients = solved.sign() * (logs - largest).exp()
        total = coefficients.sum(-1, keepdim=True)
        unsure = (rounding.log() - half - largest).exp().sum(-1, keepdim=True) > _SURE * total.abs()
        return torch.where(unsure, torch.nan, coefficients / total) @ dual.v
