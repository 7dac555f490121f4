"""The dual model with a real weight matrix, trained by autograd."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.dual.demonstrations import Groups
from iclens.errors import UserError
from iclens.features import FeaturePair


@dataclass(frozen=True)
class Training:
    """What training the explicit dual gave.

    Attributes:
        W_0: initial weights, (..., n_query, d_v, n_features), in units of exp(−log_scale_q), which cancel in f(q).
        W: trained weights, same shape and units.
        prediction: W φ(q), (..., n_query, d_v).
        trajectory: ‖W φ(q) − h'‖₂ after every step, starting with W_0, where h' is the exact attention output,
            (..., n_query, n_steps + 1). It need not fall monotonically.
        trajectory_same_features: the same distance to attention whose numerator and normaliser use these features: 0 at
            the end, at any number of features.
    """

    W_0: Float[Tensor, "*batch n_query d_v n_features"]
    W: Float[Tensor, "*batch n_query d_v n_features"]
    prediction: Float[Tensor, "*batch n_query d_v"]
    trajectory: Float[Tensor, "*batch n_query n_steps_and_one"]
    trajectory_same_features: Float[Tensor, "*batch n_query n_steps_and_one"]


@dataclass(frozen=True, eq=False)
class ExplicitDual:
    """f(x) = W φ(x) over an explicit φ.

    Two statements hold and must not be mixed: (i) with any features, training reproduces, to rounding, attention whose
    numerator AND normaliser use the same features; (ii) that attention tends to softmax attention as the features tend
    to the kernel. With Mercer features the two coincide.

    Attributes:
        features: the features of queries and keys.
        v: values, (..., n_key, d_v).
        groups: which keys are demonstrations.
        exact: the prediction in kernel form, (..., n_query, d_v).
        coefficients: w_i φ(k_i)ᵀφ(q)/D(q) with D from the same features, (..., n_query, n_key).
        key_factors: w_i exp(log_scale_k + log_scale_q)/D: what multiplies v_i phi_k[i] in W, (..., n_query, n_key).
    """

    features: FeaturePair
    v: Float[Tensor, "*batch_v n_key d_v"]
    groups: Groups
    exact: Float[Tensor, "*batch_o n_query d_v"]
    coefficients: Float[Tensor, "*batch n_query n_key"]
    key_factors: Float[Tensor, "*batch n_query n_key"]

    @staticmethod
    def of(
        pair: FeaturePair,
        v: Tensor,
        groups: Groups,
        mask: Tensor | None,
        exact: Tensor,
        *,
        normalizes: bool,
        weights: Tensor | None = None,
    ) -> ExplicitDual:
        """Make the explicit form of a dual model from features of its queries and keys; see `DualModel.explicit`.

        Args:
            pair: the features.
            v: values.
            groups: which keys are demonstrations.
            mask: True where a query may attend to a key; None for everywhere.
            exact: the prediction in kernel form.
            normalizes: whether the kernel's coefficients are divided by their sum.
            weights: how often each key counts, (..., n_query or 1, n_key); None for once.

        Raises:
            UserError: the normaliser of these features is not positive for some query.
        """
        given = v, groups, exact
        inner = (pair.phi_k @ pair.phi_q.unsqueeze(-1)).squeeze(-1)
        log_scale = pair.log_scale_k.unsqueeze(-2) + pair.log_scale_q.unsqueeze(-1)
        if weights is not None:
            log_scale = log_scale + weights.log()
        mask = inner.new_ones((), dtype=torch.bool) if mask is None else mask
        if not normalizes:
            return ExplicitDual(pair, *given, inner * log_scale.exp() * mask, log_scale.exp() * mask)
        # Scaled by the largest term, not by the largest scale: one far key must not make the others vanish.
        exponents = torch.where(mask, log_scale, -torch.inf)
        largest = (
            (exponents + inner.abs().log()).detach().amax(-1, keepdim=True).clamp_min(torch.finfo(inner.dtype).min)
        )
        exponents = exponents - largest
        # In two halves, since e^exponent may overflow where its product with a tiny inner product does not.
        half = (
            (exponents / 2).clamp_max(-math.log(torch.finfo(inner.dtype).tiny * torch.finfo(inner.dtype).eps) / 2).exp()
        )
        terms = inner * half * half
        normalizer = terms.sum(-1, keepdim=True)
        if not bool((normalizer > 0).all()):
            raise UserError(
                "the normaliser D(q) = Σ φ(k_i)ᵀφ(q) of these features is not positive for some query (it vanished or "
                "changed sign): use more features, a higher even Taylor order, Mercer features, or the kernel form."
            )
        return ExplicitDual(pair, *given, terms / normalizer, exponents.exp() / normalizer)

    def predict(self) -> Float[Tensor, "*batch n_query d_v"]:
        """Attention whose numerator and normaliser use these features."""
        return self.coefficients @ self.v

    @property
    def precision(self) -> Float[Tensor, "*batch n_query"]:
        """Estimated relative rounding error of the trained prediction, from the size of what cancels in W φ(q).

        Σ_i ‖v_i‖ (exp-factor)_i (eps · (√terms + largest exponent) · Σ_m |phi_k[i, m] phi_q[m]| + inner_error) / ‖h'‖,
        with eps the dtype's and `inner_error` that of the features; inf where W itself leaves the range. Above 1e-8 use
        the kernel form, which has no such limit.
        """
        pair, v = self.features, self.v
        magnitude = (pair.phi_k.abs() @ pair.phi_q.abs().unsqueeze(-1)).squeeze(-1)
        exponents = pair.log_scale_k.abs().amax(-1, keepdim=True) + pair.log_scale_q.abs()
        n_terms = pair.phi_k.shape[-2] + pair.phi_k.shape[-1]
        error = torch.finfo(v.dtype).eps * (n_terms**0.5 + exponents).unsqueeze(-1) * magnitude
        if pair.inner_error is not None:
            error = error + pair.inner_error
        total = (self.key_factors * error * v.norm(dim=-1).unsqueeze(-2)).sum(-1)
        size = self.predict().norm(dim=-1).clamp_min(torch.finfo(v.dtype).tiny)
        return torch.where(self.key_factors.isfinite().all(-1), total / size, torch.inf)

    def train(
        self,
        steps: int = 1,
        order: Literal["batch", "sequential"] | Sequence[int] = "batch",
        learning_rate: float = 1.0,
    ) -> Training:
        """Gradient descent on Theorem 3.1's loss from W_0, by autograd.

        The loss is linear in W, so `steps` full-batch steps at η/steps, or one pass over the demonstrations one at a
        time in any order, end at the same Ŵ. Every query has its own loss, W_0 and W.

        Args:
            steps: full-batch steps; with a sequential order, passes over the demonstrations.
            order: `"batch"`, `"sequential"` (one demonstration a step, in the order of the prompt), or a permutation of
                the demonstrations.
            learning_rate: η; it cancels.

        Raises:
            UserError: steps < 1, an unknown order, or W leaves the range of the dtype.
        """
        schedule = list(self._schedule(steps, order))
        v, groups = self.v, self.groups
        if not bool(self.key_factors.isfinite().all()):
            raise UserError(
                "an explicit W would overflow: the norms of keys and query are too large for this dtype. "
                "Use the kernel form."
            )
        inputs = self.features.phi_k * self.key_factors.unsqueeze(-1)
        initial = (groups.ids < 0).to(v.dtype).unsqueeze(-2)
        W_0 = v.unsqueeze(-3).mT @ (inputs * initial.unsqueeze(-1))
        same_features = self.predict()
        create_graph = W_0.requires_grad
        W = W_0
        predictions = [self._evaluate(W)]
        for demonstration in schedule:
            chosen = groups.ids >= 0 if demonstration is None else groups.ids == demonstration
            with torch.enable_grad():
                leaf = W if W.requires_grad else W.detach().requires_grad_()
                fitted = inputs @ leaf.mT
                loss = -(fitted * v.unsqueeze(-3)).sum(-1) * chosen.unsqueeze(-2) / learning_rate
                (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=create_graph)
            W = W - learning_rate / steps * gradient
            predictions.append(self._evaluate(W))
        path = torch.stack(predictions, -2)
        return Training(
            W_0,
            W,
            predictions[-1],
            (path - self.exact.unsqueeze(-2)).norm(dim=-1),
            (path - same_features.unsqueeze(-2)).norm(dim=-1),
        )

    def _evaluate(self, W: Float[Tensor, "*batch n_query d_v n_features"]) -> Float[Tensor, "*batch n_query d_v"]:
        return (W @ self.features.phi_q.unsqueeze(-1)).squeeze(-1)

    def _schedule(self, steps: int, order: str | Sequence[int]) -> Iterator[int | None]:
        if steps < 1:
            raise UserError(f"steps={steps} must be at least 1.")
        n = self.groups.n_demonstrations
        if isinstance(order, str):
            if order not in ("batch", "sequential"):
                raise UserError(
                    f"unknown order {order!r}: use 'batch', 'sequential', or a permutation of the demonstrations."
                )
            one_pass: list[int | None] = [None] if order == "batch" else list(range(n))
        else:
            one_pass = [int(i) for i in order]
            if sorted(i for i in one_pass if i is not None) != list(range(n)):
                raise UserError(f"order must hold each of the {n} demonstrations once.")
        for _ in range(steps):
            yield from one_pass
