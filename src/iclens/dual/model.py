"""The dual model of an attention head: attention read as one gradient step on the tokens in context."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.dual import quadratic
from iclens.dual.demonstrations import Groups
from iclens.dual.display import table
from iclens.dual.explicit import ExplicitDual
from iclens.errors import UserError
from iclens.features import FEATURE_MAPS, FeatureMap
from iclens.kernels import KERNELS, Kernel, SignedLog


class StepLoss(NamedTuple):
    """The loss before and after the gradient step, each (..., n_query)."""

    before: Float[Tensor, "*batch n_query"]
    after: Float[Tensor, "*batch n_query"]


class LogStepLoss(NamedTuple):
    """The same loss as sign and logarithm, for keys whose exponentials leave the range of the dtype."""

    before: SignedLog
    after: SignedLog


class Alignment(NamedTuple):
    """How the dual model's predictions on its own training inputs meet their positives.

    Attributes:
        before: cosine of W_0 φ(k_i) and v_i, averaged over the keys of each demonstration that the query may attend to,
            in [−1, 1]; 0 where either vector is zero, (..., n_query, n_demonstrations).
        after: the same with Ŵ.
        collapse_before: length of the mean of the predictions' unit vectors, in [0, 1]: 1 when all predictions point
            the same way (collapsed), (..., n_query).
        collapse_after: the same with Ŵ.
    """

    before: Float[Tensor, "*batch n_query n_demonstrations"]
    after: Float[Tensor, "*batch n_query n_demonstrations"]
    collapse_before: Float[Tensor, "*batch n_query"]
    collapse_after: Float[Tensor, "*batch n_query"]


@dataclass(frozen=True, eq=False)
class DualModel:
    """The dual model f(x) = W φ(x) of an attention head, in kernel form: exact, with no explicit features.

    For a query q with normaliser D(q) = Σ_i k(k_i, q) over the keys it may attend to,

        W_0 = (1/D) Σ_{j not a demonstration} v_j φ(k_j)ᵀ,
        Ŵ  = W_0 + (1/D) Σ_{i a demonstration} v_i φ(k_i)ᵀ,

    so that Ŵ comes from W_0 by ONE gradient step (learning rate η, which cancels) on

        L(W) = −(1/(ηD)) Σ_{i a demonstration} v_iᵀ W φ(k_i),

    and Ŵ φ(q) is the attention output. D, W_0 and L carry the axis of the queries. The identity holds for any weights
    and data: it rewrites attention and is no evidence of learning.

    >>> q, k, v = torch.randn(1, 4), torch.randn(6, 4), torch.randn(6, 3)
    >>> dual = DualModel.from_attention(q, k, v, demonstrations=5)
    >>> torch.allclose(dual.initial() + dual.contributions().sum(-2), dual.predict(), atol=1e-6)
    True

    Source: Ren & Liu 2024, Theorem 3.1, made exact (docs/theory/dual-model.md). Our tokens are rows;
    the paper's are columns.

    Attributes:
        q: queries, (..., n_query, d).
        k: keys, (..., n_key, d), already repeated for grouped queries.
        v: values, (..., n_key, d_v).
        groups: which keys are demonstrations.
        mask: True where a query may attend to a key, (..., n_query or 1, n_key); None for everywhere.
        kernel: k(x, y).
    """

    q: Float[Tensor, "*batch n_query d"]
    k: Float[Tensor, "*batch_k n_key d"]
    v: Float[Tensor, "*batch_v n_key d_v"]
    groups: Groups
    mask: Bool[Tensor, "*batch_m _ n_key"] | None
    kernel: Kernel

    @staticmethod
    def from_attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        demonstrations: int | Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
        *,
        kernel: str | Kernel = "softmax",
    ) -> DualModel:
        """The dual model of attention of `q` on (`k`, `v`).

        Leading axes (batch, heads, runs) are free and broadcast. Grouped-query attention: when the last leading axis of
        `q` is a multiple of that of `k` and `v`, each of their heads serves that many consecutive query heads.

        Args:
            q: queries, (..., n_query, d).
            k: keys, (..., n_key, d).
            v: values, (..., n_key, d_v).
            demonstrations: an int (the first N keys, each its own demonstration), a bool mask over the keys (each True
                key its own demonstration), or integer group ids with −1 for keys of no demonstration; (n_key,) or with
                leading axes.
            mask: bool, (..., n_query, n_key), True where the query may attend; None for everywhere.
            scale: factor of the scores; d^(−1/2) when None (1 for the linear kernel).
            kernel: a registered name (`"softmax"`, `"linear"`, `"gaussian"`) or a `Kernel`, which brings its own scale.

        Raises:
            UserError: shapes that do not fit, non-finite numbers, demonstrations outside the keys or none at all, or a
                query that may attend to nothing.
        """
        q, k, v = _checked(q, k, v)
        groups = Groups.of(demonstrations, k.shape[-2], k.device)
        chosen = _kernel(kernel, scale, q.shape[-1])
        mask = _checked_mask(mask, q, k)
        k, v = _repeat_for_grouped_queries(q, k, v)
        leading = [tensor.shape[:-2] for tensor in (q, k, v)] + [groups.ids.shape[:-1]]
        leading += [mask.shape[:-2]] if mask is not None else []
        try:
            torch.broadcast_shapes(*leading)
        except RuntimeError:
            shapes = ", ".join(str(tuple(shape)) for shape in leading)
            raise UserError(
                f"the leading axes of q, k, v, demonstrations and mask do not broadcast (in this order): {shapes}."
            ) from None
        return DualModel(q, k, v, groups, mask, chosen)

    @property
    def n_demonstrations(self) -> int:
        """Number of demonstrations."""
        return self.groups.n_demonstrations

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        return self.kernel.coefficients(self.q, self.k, self.mask)

    @property
    def coefficients(self) -> Float[Tensor, "*batch n_query n_key"]:
        """k(k_i, q)/D(q): the attention weights, zero where masked."""
        return self._solution[0]

    @property
    def log_normalizer(self) -> Float[Tensor, "*batch n_query"]:
        """log D(q) (0 for kernels that do not normalise)."""
        return self._solution[1]

    @property
    def _is_demonstration(self) -> Bool[Tensor, "*batch n_key"]:
        return self.groups.ids >= 0

    def predict(self) -> Float[Tensor, "*batch n_query d_v"]:
        """Ŵ φ(q) = Σ_i k(k_i, q)/D(q) · v_i: the prediction after the step, equal to the attention output."""
        return self.coefficients @ self.v

    def initial(self) -> Float[Tensor, "*batch n_query d_v"]:
        """W_0 φ(q): the part of the tokens that are not demonstrations.

        It is D_T/D times the output that those tokens alone would give, not that output itself.
        """
        return (self.coefficients * ~self._is_demonstration.unsqueeze(-2)) @ self.v

    def contributions(self) -> Float[Tensor, "*batch n_query n_demonstrations d_v"]:
        """Each demonstration's part of the gradient step, Σ_{i in g} k(k_i, q)/D(q) · v_i.

        They and `initial()` sum to `predict()`.
        """
        return self.groups.sum_values(self.coefficients, self.v)

    def weights(self) -> Float[Tensor, "*batch n_query n_demonstrations"]:
        """Each demonstration's share Σ_{i in g} k(k_i, q)/D(q) of the normaliser: its attention weight."""
        return self.groups.sum_weights(self.coefficients)

    def without(self, i: int | Iterable[int]) -> Float[Tensor, "*batch n_query d_v"]:
        """The exact prediction when demonstration `i` (or each of several) was never trained on, with D recomputed.

        It equals attention over the other keys. It is computed from the scores, not as (predict − contribution)/(1 −
        a), which loses its digits as a → 1.

        Raises:
            UserError: `i` is no demonstration, or a query would have nothing left to attend to.
        """
        left_out = [i] if isinstance(i, int) else list(i)
        for index in left_out:
            if not 0 <= index < self.n_demonstrations:
                raise UserError(
                    f"there is no demonstration {index}: there are {self.n_demonstrations}, counted from 0."
                )
        if not left_out:
            return self.predict()
        kept = ~torch.isin(self.groups.ids, torch.tensor(left_out, device=self.k.device)).unsqueeze(-2)
        mask = kept if self.mask is None else self.mask & kept
        if self.kernel.normalizes:
            _refuse_empty_rows(mask, f"without demonstration {', '.join(map(str, left_out))}")
        return self.kernel.coefficients(self.q, self.k, mask)[0] @ self.v

    @overload
    def loss(self, *, learning_rate: float = 1.0, log: Literal[False] = False) -> StepLoss: ...
    @overload
    def loss(self, *, learning_rate: float = 1.0, log: Literal[True]) -> LogStepLoss: ...
    def loss(self, *, learning_rate: float = 1.0, log: bool = False) -> StepLoss | LogStepLoss:
        """Theorem 3.1's loss L(W) = −(1/(ηD)) Σ_i v_iᵀ W φ(k_i) at W_0 and at Ŵ.

        L is linear in W and has no minimiser; the step lowers it by ‖Ŵ − W_0‖²_F/η. Sums over pairs of keys, formed a
        block of rows at a time: time O(n_key²), memory O(n_key · n_query).

        Args:
            learning_rate: η.
            log: return sign and logarithm, for keys whose k(k_i, k_j) leaves the range of the dtype; otherwise such
                losses are ±inf.
        """
        demonstrations = self._may_attend(self._is_demonstration)
        initial = self._may_attend(~self._is_demonstration)
        losses = []
        for trained_on in (initial, initial | demonstrations):
            log_abs, sign = quadratic.pair_sum(self.kernel, self.k, self.v, demonstrations, trained_on)
            shift = 2 * self.log_normalizer + torch.tensor(learning_rate, dtype=self.k.dtype).log()
            losses.append(SignedLog(log_abs - shift, None if sign is None else -sign))
        before, after = losses
        return LogStepLoss(before, after) if log else StepLoss(before.value, after.value)

    def alignment(self) -> Alignment:
        """How well the predictions f(k_i) align with their positives v_i, before and after the step.

        The representation-learning reading (Ren & Liu 2024, Fig. 2): v_i is the positive of k_i, there are no
        negatives, and D cancels in a cosine.
        """
        demonstrations = self._may_attend(self._is_demonstration)
        initial = self._may_attend(~self._is_demonstration)
        results = []
        for trained_on in (initial, initial | demonstrations):
            cosine, unit_sum = quadratic.prediction_cosines(self.kernel, self.k, self.v, demonstrations, trained_on)
            weights = demonstrations.to(cosine.dtype)
            count = self.groups.sum_weights(weights).clamp_min(1)
            results.append((self.groups.sum_weights(cosine * weights) / count, unit_sum / weights.sum(-1).clamp_min(1)))
        (before, collapse_before), (after, collapse_after) = results
        shape = self.log_normalizer.shape
        return Alignment(
            before.expand(*shape, -1),
            after.expand(*shape, -1),
            collapse_before.expand(shape),
            collapse_after.expand(shape),
        )

    def weight_norm(self, *, log: bool = False) -> Float[Tensor, "*batch n_query"]:
        """‖Ŵ‖_F of every query's Ŵ, from Gram matrices: ‖Ŵ‖²_F = (1/D²) Σ_ij v_iᵀv_j k(k_i, k_j).

        Args:
            log: return log ‖Ŵ‖_F, for norms that leave the range of the dtype (inf otherwise).
        """
        attended = self._may_attend(torch.ones_like(self._is_demonstration))
        log_abs, _ = quadratic.pair_sum(self.kernel, self.k, self.v, attended, attended)
        norm = log_abs / 2 - self.log_normalizer
        return norm if log else norm.exp()

    def explicit(self, features: str | FeatureMap = "mercer") -> ExplicitDual:
        """The same dual model with a real W over an explicit feature map, to be trained by autograd.

        Args:
            features: a registered name (`"mercer"`, `"positive-random"`, …) or a `FeatureMap`.

        Raises:
            UserError: the map does not exist for this kernel, or its normaliser is not positive.
        """
        feature_map = FEATURE_MAPS[features]() if isinstance(features, str) else features
        pair = feature_map.pair(self.q, self.k, self.kernel)
        return ExplicitDual.of(pair, self.v, self.groups, self.mask, self.predict(), normalizes=self.kernel.normalizes)

    def __repr__(self) -> str:
        """One line: how many queries, keys and demonstrations, and over which kernel."""
        n_queries = self.log_normalizer.numel()
        return (
            f"DualModel({n_queries} quer{'y' if n_queries == 1 else 'ies'}, {self.k.shape[-2]} keys in "
            f"{self.n_demonstrations} demonstrations and W_0, {type(self.kernel).__name__}, {self.v.dtype})"
        )

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        alignment, sizes = self.alignment(), self.contributions().norm(dim=-1)
        return table(f"{self!r}.", self.weights(), sizes, alignment.before, alignment.after)

    def _may_attend(self, keys: Bool[Tensor, "*batch n_key"]) -> Bool[Tensor, "*out _ n_key"]:
        """`keys`, restricted for each query to those it may attend to; the axis of the queries is 1 without a mask."""
        rows = keys.unsqueeze(-2)
        return rows if self.mask is None else rows & self.mask


def _checked(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if not isinstance(tensor, Tensor):
            raise UserError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor.")
        if tensor.ndim < 2:
            raise UserError(f"{name} has shape {tuple(tensor.shape)}; it needs at least two axes: tokens, features.")
        if not tensor.is_floating_point():
            raise UserError(f"{name} has dtype {tensor.dtype}; it must be floating point.")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise UserError(
                f"{name} is {tensor.dtype} on {tensor.device}, but q is {q.dtype} on {q.device}: they must agree."
            )
    if k.shape[-1] != q.shape[-1]:
        raise UserError(f"q has {q.shape[-1]} features and k has {k.shape[-1]}: they must have the same number.")
    if v.shape[-2] != k.shape[-2]:
        raise UserError(f"k has {k.shape[-2]} tokens and v has {v.shape[-2]}: they must have the same number.")
    if 0 in (q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]):
        raise UserError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: no axis may be empty.")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        finite = tensor.isfinite()
        if not bool(finite.all()):
            where = (~finite).nonzero()[0].tolist()
            raise UserError(f"{name} holds a non-finite number at index {where}: {tensor[tuple(where)].item()}.")
    return q, k, v


def _kernel(kernel: str | Kernel, scale: float | None, d: int) -> Kernel:
    if isinstance(kernel, Kernel):
        if scale is not None:
            raise UserError("scale is given twice: a Kernel brings its own. Leave scale out, or name the kernel.")
        return kernel
    cls = KERNELS[kernel]
    if scale is None:
        scale = 1.0 if kernel == "linear" else d**-0.5
    if not (scale > 0 and scale < float("inf")):
        raise UserError(f"scale={scale} must be a positive finite number.")
    try:
        return cls(scale)  # type: ignore[call-arg]
    except TypeError:
        raise UserError(f"the kernel {kernel!r} has more parameters than a scale: give a Kernel object.") from None


def _checked_mask(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    if mask is None:
        return None
    n_query, n_key = q.shape[-2], k.shape[-2]
    if mask.dtype != torch.bool:
        raise UserError(f"mask has dtype {mask.dtype}; it must be bool, True where the query may attend.")
    if mask.ndim < 2 or mask.shape[-1] != n_key or mask.shape[-2] not in (1, n_query):
        raise UserError(f"mask has shape {tuple(mask.shape)}; its last two axes must be ({n_query}, {n_key}).")
    mask = mask.to(q.device)
    _refuse_empty_rows(mask, "by the mask")
    return mask


def _refuse_empty_rows(mask: Tensor, why: str) -> None:
    empty = ~mask.any(-1)
    if bool(empty.any()):
        *leading, row = empty.nonzero()[0].tolist()
        where = f" at leading index {leading}" if leading else ""
        raise UserError(f"query {row}{where} has no key to attend to {why}: its normaliser D would be 0.")


def _repeat_for_grouped_queries(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    if q.ndim < 3:
        return k, v

    def repeated(name: str, tensor: Tensor) -> Tensor:
        if tensor.ndim < 3 or tensor.shape[-3] in (1, q.shape[-3]):
            return tensor
        if q.shape[-3] == 1:
            return tensor
        if q.shape[-3] % tensor.shape[-3]:
            raise UserError(
                f"q has {q.shape[-3]} heads and {name} has {tensor.shape[-3]}: the number of query heads must be a "
                "multiple."
            )
        return tensor.repeat_interleave(q.shape[-3] // tensor.shape[-3], -3)

    return repeated("k", k), repeated("v", v)
