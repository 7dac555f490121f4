"""Multi-head attention with its output projection: a sum of independent duals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from iclens.dual.model import DualModel
from iclens.dual.training_weights import TrainingWeights
from iclens.errors import UserError
from iclens.kernels import Kernel


@dataclass(frozen=True, eq=False)
class HeadsDual:
    """Multi-head attention read as a sum of independent duals, one for each head.

    The output projection of head h is absorbed in its values: with targets v_i^h W_O^h,

        Σ_h Σ_i a_i^h v_i^h W_O^h + b_O = b_O + Σ_h Ŵ^h φ(q^h),  Ŵ^h = W_0^h + (1/D^h) Σ_i (W_O^h)ᵀ v_i^h φ(k_i^h)ᵀ

    (v_i^h as a column in the last formula). The heads share neither weights nor gradients; b_O is an untrained offset.

    Source: Ren & Liu 2024, Theorem 3.1 for each head; derived in docs/theory/transformer-layer.md.

    Attributes:
        dual: the duals of the heads, with plain values; heads are the last leading axis.
        W_O: output projection, (n_heads, d_v, d_model).
        b_O: its bias, (d_model,), or None.
    """

    dual: DualModel
    W_O: Float[Tensor, "n_heads d_v d_model"]
    b_O: Float[Tensor, " d_model"] | None = None

    @staticmethod
    def from_attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        W_O: Tensor,
        demonstrations: int | Tensor,
        mask: Tensor | None = None,
        scale: float | None = None,
        *,
        b_O: Tensor | None = None,
        kernel: str | Kernel = "softmax",
        training_weights: TrainingWeights | None = None,
    ) -> HeadsDual:
        """Return the duals of multi-head attention.

        Args:
            q: queries, (..., n_heads, n_query, d).
            k: keys, (..., n_heads or a divisor of it, n_key, d).
            v: values, (..., n_heads or a divisor of it, n_key, d_v).
            W_O: output projection, (n_heads, d_v, d_model); row block h of the usual (n_heads · d_v, d_model) matrix.
            demonstrations: as in `DualModel.from_attention`; leading axes broadcast against (..., n_heads).
            mask: as in `DualModel.from_attention`; leading axes broadcast against (..., n_heads).
            scale: factor of the scores; d^(−1/2) when None.
            b_O: bias of the projection, (d_model,).
            kernel: as in `DualModel.from_attention`.
            training_weights: as in `DualModel.from_attention`; leading axes broadcast against (..., n_heads).

        Raises:
            UserError: as `DualModel.from_attention`, or heads or widths that do not fit W_O.
        """
        how: dict[str, Any] = {"kernel": kernel, "training_weights": training_weights}
        dual = DualModel.from_attention(q, k, v, demonstrations, mask, scale, **how)
        if W_O.ndim != 3 or q.ndim < 3 or W_O.shape[:2] != (q.shape[-3], v.shape[-1]):
            raise UserError(
                f"W_O has shape {tuple(W_O.shape)}; for q {tuple(q.shape)} and v {tuple(v.shape)} it must be "
                "(n_heads, d_v, d_model), with q (..., n_heads, n_query, d)."
            )
        if b_O is not None and b_O.shape != W_O.shape[2:]:
            raise UserError(f"b_O has shape {tuple(b_O.shape)}; it must be ({W_O.shape[2]},).")
        return HeadsDual(dual, W_O, b_O)

    @property
    def n_heads(self) -> int:
        """How many query heads there are; keys and values may be shared by groups of them."""
        return self.W_O.shape[0]

    @property
    def absorbed(self) -> DualModel:
        """The same duals with W_O^h absorbed in the values: targets v_i^h W_O^h, predictions of width d_model.

        Their predictions sum over the heads to `predict()` less b_O.
        """
        return dataclasses.replace(self.dual, v=self.dual.v @ self.W_O)

    def predict(self) -> Float[Tensor, "*batch n_query d_model"]:
        """Return the output of multi-head attention, with its projection and bias."""
        return self._with_bias(self._project(self.dual.predict()))

    def initial(self, *, by_head: bool = False) -> Tensor:
        """Σ_h W_0^h φ(q^h): the part of the tokens that are not demonstrations, without b_O.

        Args:
            by_head: keep the heads apart.

        Returns:
            (..., n_query, d_model); by head (..., n_query, n_heads, d_model).
        """
        if not by_head:
            return self._project(self.dual.initial())
        return (self.dual.initial() @ self.W_O).movedim(-3, -2)

    def contributions(self, *, by_head: bool = False) -> Tensor:
        """Each demonstration's part of the heads' gradient steps.

        They, `initial()` and b_O sum to `predict()`.

        Args:
            by_head: keep the heads apart.

        Returns:
            (..., n_query, n_demonstrations, d_model); by head (..., n_query, n_heads, n_demonstrations, d_model).
        """
        parts = self.dual.contributions().movedim(-4, -3)
        if by_head:
            return parts @ self.W_O
        return parts.movedim(-3, -2).flatten(-2) @ self.W_O.flatten(0, 1)

    def without(self, i: int | Iterable[int]) -> Float[Tensor, "*batch n_query d_model"]:
        """Return the exact output when no head was trained on demonstration `i` (or on several), every D recomputed.

        Raises:
            UserError: `i` is no demonstration, or a query would have nothing left to attend to.
        """
        return self._with_bias(self._project(self.dual.without(i)))

    def _project(self, heads: Float[Tensor, "*batch n_heads n_query d_v"]) -> Float[Tensor, "*batch n_query d_model"]:
        # One product over heads and d_v together: W_O^h is summed over heads without an axis for them.
        return heads.movedim(-3, -2).flatten(-2) @ self.W_O.flatten(0, 1)

    def _with_bias(self, projected: Tensor) -> Tensor:
        return projected if self.b_O is None else projected + self.b_O
