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
from iclens.dual.inputs import (
    checked_mask,
    checked_tensors,
    chosen_kernel,
    refuse_empty_rows,
    repeat_for_grouped_queries,
)
from iclens.dual.training_weights import TrainingWeights, checked_weights, of_keys
from iclens.errors import UserError
from iclens.features import FEATURE_MAPS, FeatureMap
from iclens.kernels import Kernel, SignedLog


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

    With training weights w_i ≥ 0 demonstration i counts w_i times: L(W) = −(1/(ηD)) Σ_i w_i v_iᵀ W φ(k_i), with
    D(q) = Σ_j w_j k(k_j, q) and weights of 1 on all other keys. For a kernel that normalises this adds log w_i to the
    scores. w_i = 0 leaves demonstration i out, w_i = 2 is to have it twice. Every method below is that of the weighted
    model.

    >>> q, k, v = torch.randn(1, 4), torch.randn(6, 4), torch.randn(6, 3)
    >>> dual = DualModel.from_attention(q, k, v, demonstrations=5)
    >>> torch.allclose(dual.initial() + dual.contributions().sum(-2), dual.predict(), atol=1e-6)
    True

    Source: Ren & Liu 2024, Theorem 3.1, made exact (docs/theory/dual-model.md); training weights are derived in
    docs/theory/training-weights.md. Our tokens are rows; the paper's are columns.

    Attributes:
        q: queries, (..., n_query, d).
        k: keys, (..., n_key, d), already repeated for grouped queries.
        v: values, (..., n_key, d_v).
        groups: which keys are demonstrations.
        mask: True where a query may attend to a key, (..., n_query or 1, n_key); None for everywhere.
        kernel: k(x, y).
        training_weights: w ≥ 0 of every demonstration, (..., n_query or 1, n_demonstrations); None for 1 each.
    """

    q: Float[Tensor, "*batch n_query d"]
    k: Float[Tensor, "*batch_k n_key d"]
    v: Float[Tensor, "*batch_v n_key d_v"]
    groups: Groups
    mask: Bool[Tensor, "*batch_m _ n_key"] | None
    kernel: Kernel
    training_weights: Float[Tensor, "*batch_w _ n_demonstrations"] | None = None

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
        training_weights: TrainingWeights | None = None,
    ) -> DualModel:
        """Return the dual model of attention of `q` on (`k`, `v`).

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
            training_weights: how often each demonstration counts, 0 or more: one number for all of them, or
                (n_demonstrations,), or (..., n_query or 1, n_demonstrations). What is computed is differentiable with
                respect to weights that are not 0. None for once each.

        Raises:
            UserError: shapes that do not fit, non-finite numbers, demonstrations outside the keys or none at all, a
                negative weight, or a query that may attend to nothing.
        """
        q, k, v = checked_tensors(q, k, v)
        groups = Groups.of(demonstrations, k.shape[-2], k.device)
        chosen = chosen_kernel(kernel, scale, q.shape[-1])
        mask = checked_mask(mask, q, k)
        k, v = repeat_for_grouped_queries(q, k, v)
        leading = [tensor.shape[:-2] for tensor in (q, k, v)] + [groups.ids.shape[:-1]]
        leading += [mask.shape[:-2]] if mask is not None else []
        weights = None
        if training_weights is not None:
            weights = checked_weights(training_weights, groups, q.shape[-2], q)
            leading += [weights.shape[:-2]]
        try:
            torch.broadcast_shapes(*leading)
        except RuntimeError:
            shapes = ", ".join(str(tuple(shape)) for shape in leading)
            raise UserError(
                f"the leading axes of q, k, v, demonstrations{'' if mask is None else ', mask'}"
                f"{'' if weights is None else ', training_weights'} do not broadcast (in this order): {shapes}."
            ) from None
        dual = DualModel(q, k, v, groups, mask, chosen, weights)
        if weights is not None and chosen.normalizes:
            refuse_empty_rows(dual._counting() > 0, "with a positive training weight")
        return dual

    @property
    def n_demonstrations(self) -> int:
        """How many demonstrations the model is trained on, numbered from 0; W_0 is none of them."""
        return self.groups.n_demonstrations

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        return self.kernel.coefficients(self.q, self.k, self.mask, self._counts)

    @cached_property
    def _counts(self) -> Float[Tensor, "*batch _ n_key"] | None:
        return None if self.training_weights is None else of_keys(self.training_weights, self.groups)

    @property
    def coefficients(self) -> Float[Tensor, "*batch n_query n_key"]:
        """w_i k(k_i, q)/D(q): the attention weights, zero where masked."""
        return self._solution[0]

    @property
    def log_normalizer(self) -> Float[Tensor, "*batch n_query"]:
        """log D(q) (0 for kernels that do not normalise)."""
        return self._solution[1]

    @property
    def _is_demonstration(self) -> Bool[Tensor, "*batch n_key"]:
        return self.groups.ids >= 0

    def predict(self) -> Float[Tensor, "*batch n_query d_v"]:
        """Ŵ φ(q) = Σ_i w_i k(k_i, q)/D(q) · v_i: the prediction after the step, equal to the attention output."""
        return self.coefficients @ self.v

    def initial(self) -> Float[Tensor, "*batch n_query d_v"]:
        """W_0 φ(q): the part of the tokens that are not demonstrations.

        It is D_T/D times the output that those tokens alone would give, not that output itself.
        """
        return (self.coefficients * ~self._is_demonstration.unsqueeze(-2)) @ self.v

    def contributions(self) -> Float[Tensor, "*batch n_query n_demonstrations d_v"]:
        """Each demonstration's part of the gradient step, w_g Σ_{i in g} k(k_i, q)/D(q) · v_i.

        They and `initial()` sum to `predict()`.
        """
        return self.groups.sum_values(self.coefficients, self.v)

    def weights(self) -> Float[Tensor, "*batch n_query n_demonstrations"]:
        """Each demonstration's share w_g Σ_{i in g} k(k_i, q)/D(q) of the normaliser: its attention weight."""
        return self.groups.sum_weights(self.coefficients)

    def influence(self) -> Float[Tensor, "*batch n_query n_demonstrations d_v"]:
        """How the prediction changes with the logarithm of each training weight, Σ_{i in g} a_i (v_i − out).

            ∂ out/∂ log w_g = w_g ∂ out/∂ w_g = contributions()_g − weights()_g · predict(),

        in units of the values: at weights of 1 it is ∂ out/∂ w_g. It is the contribution, centred: the second term is
        what the normaliser gives back to all other keys. Over all keys, those of no demonstration included, it sums to
        zero. With a_g = weights()_g the exact effect of leaving g out is −influence()_g/(1 − a_g), and that of having
        it twice influence()_g/(1 + a_g). For a kernel that does not normalise it is the contribution itself.

        Source: the influence function of Koh & Liang 2017, here exact, since out is the minimiser of
        Σ_i w_i k(k_i, q) ‖v_i − y‖²; derived in docs/theory/training-weights.md.
        """
        parts = self.contributions()
        if not self.kernel.normalizes:
            return parts
        return parts - self.weights().unsqueeze(-1) * self.predict().unsqueeze(-2)

    def shares(self) -> Float[Tensor, "*batch n_query n_demonstrations d_v"]:
        """Divide predict() − without(all demonstrations) among them: ∫₀¹ w_g ∂ out/∂ w_g (t w) dt, in closed form.

        All demonstrations come in together, at t times their weights. With a = Σ_g a_g, the demonstrations' mean target
        v̄ = Σ_g contributions()_g/a, D_0 the normaliser without them and Δ = predict() − without(all),

            shares_g = (a_g/a) Δ + (log(D/D_0)/a) (contributions()_g − a_g v̄),

        in units of the values; they sum to Δ. For a kernel that does not normalise they are the contributions.

        Source: the values of Aumann & Shapley 1974; derived in docs/theory/training-weights.md.

        Raises:
            UserError: a query has nothing else to attend to, so that there is no prediction without demonstrations.
        """
        parts = self.contributions()
        if not self.kernel.normalizes:
            return parts
        others = self._may_attend(~self._is_demonstration)
        refuse_empty_rows(others, "but demonstrations")
        coefficients, log_others = self.kernel.coefficients(self.q, self.k, others)
        weights = self.weights()
        total = weights.sum(-1, keepdim=True)
        # predict() − without(all), in a form that keeps its digits where the demonstrations get little attention.
        change = parts.sum(-2) - total * (coefficients @ self.v)
        # log(D/D_0) = −log(1 − a): each form keeps its digits where the other loses them.
        ratio = (self.log_normalizer - log_others).unsqueeze(-1)
        ratio = torch.where(total < 0.5, -torch.log1p(-total.clamp_max(0.5)), ratio)
        total = total.clamp_min(torch.finfo(total.dtype).tiny)
        part = (weights / total).unsqueeze(-1)
        centred = parts - part * parts.sum(-2, keepdim=True)
        return part * change.unsqueeze(-2) + (ratio / total).unsqueeze(-1) * centred

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
            seen = mask if self._counts is None else mask & (self._counts > 0)
            refuse_empty_rows(seen, f"without demonstration {', '.join(map(str, left_out))}")
        return self.kernel.coefficients(self.q, self.k, mask, self._counts)[0] @ self.v

    @overload
    def loss(self, *, learning_rate: float = 1.0, log: Literal[False] = False) -> StepLoss: ...
    @overload
    def loss(self, *, learning_rate: float = 1.0, log: Literal[True]) -> LogStepLoss: ...
    def loss(self, *, learning_rate: float = 1.0, log: bool = False) -> StepLoss | LogStepLoss:
        """Theorem 3.1's loss L(W) = −(1/(ηD)) Σ_i w_i v_iᵀ W φ(k_i) at W_0 and at Ŵ.

        L is linear in W and has no minimiser; the step lowers it by ‖Ŵ − W_0‖²_F/η. Sums over pairs of keys, formed a
        block of rows at a time: time O(n_key²), memory O(n_key · n_query).

        Args:
            learning_rate: η.
            log: return sign and logarithm, for keys whose k(k_i, k_j) leaves the range of the dtype; otherwise such
                losses are ±inf.
        """
        demonstrations, initial = self._counting(self._is_demonstration), self._counting(~self._is_demonstration)
        losses = []
        for trained_on in (initial, self._counting()):
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
        members = self._may_attend(self._is_demonstration).to(self.v.dtype)
        demonstrations = self._counting(self._is_demonstration)
        n_members = self.groups.sum_weights(members).clamp_min(1)
        n_counted = demonstrations.sum(-1).clamp_min(torch.finfo(self.v.dtype).tiny)
        results = []
        for trained_on in (self._counting(~self._is_demonstration), self._counting()):
            cosine, unit_sum = quadratic.prediction_cosines(self.kernel, self.k, self.v, demonstrations, trained_on)
            results.append((self.groups.sum_weights(cosine * members) / n_members, unit_sum / n_counted))
        (before, collapse_before), (after, collapse_after) = results
        shape = self.log_normalizer.shape
        return Alignment(
            before.expand(*shape, -1),
            after.expand(*shape, -1),
            collapse_before.expand(shape),
            collapse_after.expand(shape),
        )

    def weight_norm(self, *, log: bool = False) -> Float[Tensor, "*batch n_query"]:
        """‖Ŵ‖_F of every query's Ŵ, from Gram matrices: ‖Ŵ‖²_F = (1/D²) Σ_ij w_i w_j v_iᵀv_j k(k_i, k_j).

        Args:
            log: return log ‖Ŵ‖_F, for norms that leave the range of the dtype (inf otherwise).
        """
        attended = self._counting()
        log_abs, _ = quadratic.pair_sum(self.kernel, self.k, self.v, attended, attended)
        norm = log_abs / 2 - self.log_normalizer
        return norm if log else norm.exp()

    def explicit(self, features: str | FeatureMap = "mercer") -> ExplicitDual:
        """Return the same dual model with a real W over an explicit feature map, to be trained by autograd.

        Args:
            features: a registered name (`"mercer"`, `"positive-random"`, …) or a `FeatureMap`.

        Raises:
            UserError: the map does not exist for this kernel, or its normaliser is not positive.
        """
        feature_map = FEATURE_MAPS[features]() if isinstance(features, str) else features
        pair = feature_map.pair(self.q, self.k, self.kernel)
        given = pair, self.v, self.groups, self.mask, self.predict()
        return ExplicitDual.of(*given, normalizes=self.kernel.normalizes, weights=self._counts)

    def __repr__(self) -> str:
        """One line: how many queries, keys and demonstrations, and over which kernel."""
        n_queries = self.log_normalizer.numel()
        return (
            f"DualModel({n_queries} quer{'y' if n_queries == 1 else 'ies'}, {self.k.shape[-2]} keys in "
            f"{self.n_demonstrations} demonstrations and W_0, {type(self.kernel).__name__}, {self.v.dtype}"
            f"{'' if self.training_weights is None else ', with training weights'})"
        )

    def _repr_html_(self) -> str:
        """Return a small table for notebooks."""
        alignment, sizes = self.alignment(), self.contributions().norm(dim=-1)
        return table(f"{self!r}.", self.weights(), sizes, alignment.before, alignment.after)

    def _may_attend(self, keys: Bool[Tensor, "*batch n_key"]) -> Bool[Tensor, "*out _ n_key"]:
        """`keys`, restricted for each query to those it may attend to; the axis of the queries is 1 without a mask."""
        rows = keys.unsqueeze(-2)
        return rows if self.mask is None else rows & self.mask

    def _counting(self, keys: Bool[Tensor, "*batch n_key"] | None = None) -> Float[Tensor, "*out _ n_key"]:
        """How often each of `keys` (all when None) counts for each query: 0 where it may not attend to the key."""
        keys = torch.ones_like(self._is_demonstration) if keys is None else keys
        attended = self._may_attend(keys).to(self.v.dtype)
        return attended if self._counts is None else attended * self._counts
