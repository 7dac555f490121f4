"""What every attention variant is: hooks around softmax attention, the dual model that it steps, and the registry."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from iclens.attention.attending import Attending
from iclens.attention.scaled_dot_product import scaled_dot_product
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.variant_dual import VariantDual
from iclens.dual import StepLoss
from iclens.errors import UserError
from iclens.kernels import Kernel, SoftmaxKernel
from iclens.registry import Registry


@dataclass(frozen=True)
class HeadShape:
    """The sizes that a variant's parameters depend on.

    Attributes:
        n_heads: number of query heads.
        d: width of queries and keys.
        d_v: width of values.
        n_kv_heads: number of key and value heads; a divisor of `n_heads`.
    """

    n_heads: int
    d: int
    d_v: int
    n_kv_heads: int

    def __post_init__(self) -> None:
        for name in ("n_heads", "d", "d_v", "n_kv_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.n_heads % self.n_kv_heads:
            raise UserError(f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}.")


class AttentionVariant(nn.Module, abc.ABC):
    """A modification of attention; it owns parameters and nothing else.

    The output is

        after( Σ_i a_i(q, keys(k)) · values(v)_i  −  offset(q, keys(k), values(v)) ),

    and a variant overrides the hooks that it needs. The mathematics stands as a pure function in the variant's own
    file. Because all variants are made of the same hooks, they compose (`iclens.attention.composed`).

    A constructor takes the `HeadShape` first and its options as keywords.

    Attributes:
        shape: the sizes that the parameters were made for.
        permutes: whether reordering the context (keys, values and the mask's columns), without a causal mask, leaves
            the output of a query unchanged. False for variants that know which key is the query's own, or a key's
            position.
        self_aligned: whether query j must have its own key: the last n_query keys are those of the queries.
    """

    permutes: bool = True
    self_aligned: bool = False

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape

    @abc.abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the constructor's options as JSON-able values; `build` with them gives the same variant.

        Values of parameters are not in it: they are in the `state_dict`.
        """

    def neutral_options(self) -> dict[str, Any] | None:
        """Options with which the same variant, freshly made, is plain softmax attention; None if there are none."""
        return None

    def forward(
        self, q: Queries, k: Keys, v: Values, mask: Mask = None, *, scale: float | None = None, is_causal: bool = False
    ) -> Outputs:
        """Attention of `q` on (`k`, `v`) with this modification.

        Args:
            q: queries, (..., n_heads, n_query, d).
            k: keys, (..., n_kv_heads, n_key, d); not repeated for grouped queries.
            v: values, (..., n_kv_heads, n_key, d_v).
            mask: True where a query may attend; a query that may attend to nothing gets zeros.
            scale: factor of the scores, positive; the variant's default when None (d^(−1/2) for softmax).
            is_causal: the queries are the *last* n_query tokens and see no later key (a KV cache has
                n_query < n_key). It combines with `mask`.

        Raises:
            UserError: shapes, a mask or a scale that do not fit.
        """
        attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=self.self_aligned)
        return self.run(q, k, v, attending)

    def run(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """`forward`, once shapes are checked."""
        return self.after(self.attend_less_offset(q, *self.modified(k, v, attending), attending))

    def modified(self, k: Tensor, v: Tensor, attending: Attending) -> tuple[Tensor, Tensor]:
        """Return the keys and values that are attended to."""
        k = self.keys(k, attending)
        return k, self.values(k, v, attending)

    def keys(self, k: Tensor, attending: Attending) -> Tensor:
        """Modified keys, (..., n_kv_heads, n_key, d)."""
        return k

    def values(self, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """Modified values, (..., n_kv_heads, n_key, d_v)."""
        return v

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:
        """Return what is subtracted from the attention output, (..., n_heads, n_query, d_v); None for nothing."""
        return None

    def attend_less_offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """`attend` minus `offset`, for a variant that gets both more cheaply at once."""
        out = self.attend(q, k, v, attending)
        offset = self.offset(q, k, v, attending)
        return out if offset is None else out - offset

    def after(self, out: Tensor) -> Tensor:
        """Return what happens to the head's output."""
        return out

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """Return the attention itself; softmax unless overridden."""
        return scaled_dot_product(q, k, v, attending)

    @abc.abstractmethod
    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """The same output from the whole score matrix, written for reading: what `forward` is checked against."""

    def kernel(self, attending: Attending, d: int) -> Kernel:
        """Return the kernel of the dual model."""
        return SoftmaxKernel(attending.scale_for(d))

    def decay(self) -> float | Tensor:
        """ηα: the weight decay of the step, W_0 → (1 − ηα) W_0; 0 for none. A tensor broadcasts over leading axes."""
        return 0.0

    def row_negatives(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:
        """What the loss subtracts from every positive of a query, (..., n_heads, n_query, d_v); None for nothing."""
        return None

    def residual(
        self, q: Tensor, k: Tensor, v: Tensor, attending: Attending, initial: Tensor, weights: Tensor
    ) -> Tensor | None:
        """Output (before `after`) minus the prediction of the gradient step, in closed form; None when it is zero.

        Args:
            q: queries.
            k: modified keys.
            v: modified values.
            attending: who attends to whom.
            initial: W_0 φ(q), what the weight decay acts on, (..., n_heads, n_query, d_v).
            weights: the attention weights, (..., n_heads, n_query, n_key).
        """
        return None

    def dual(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        demonstrations: int | Tensor | None = None,
        mask: Tensor | None = None,
        scale: float | None = None,
        *,
        is_causal: bool = False,
    ) -> VariantDual:
        """The dual model whose one gradient step gives this attention, with the residual that the variant declares.

        Args:
            q: queries, as in `forward`.
            k: keys.
            v: values.
            demonstrations: as in `DualModel.from_attention`. None: for every query all keys but its own, the last
                n_query keys being those of the queries.
            mask: as in `forward`.
            scale: as in `forward`.
            is_causal: as in `forward`.

        Raises:
            UserError: as `DualModel.from_attention`.
        """
        attending = Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal, self_aligned=self.self_aligned)
        k, v = self.modified(k, v, attending)
        return VariantDual.of(
            q,
            k,
            v,
            attending,
            demonstrations,
            kernel=self.kernel(attending, q.shape[-1]),
            decay=self.decay(),
            negatives=self.row_negatives(q, k, v, attending),
            residual=partial(self.residual, q, k, v, attending),
            after=self.after,
        )

    def dual_loss(self, *given: Any, **how: Any) -> StepLoss:
        """Return the loss before and after the step (η = 1), each (..., n_heads, n_query); arguments as in `dual`."""
        return self.dual(*given, **how).loss()

    def dual_step(self, *given: Any, **how: Any) -> Outputs:
        """Predict after the step: `forward` except for the declared residual. Arguments as in `dual`."""
        return self.dual(*given, **how).predict()

    def extra_repr(self) -> str:  # noqa: D102
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())


ATTENTIONS: Registry[type[AttentionVariant]] = Registry(
    "attention variant", "iclens.attentions", package="iclens.attention", papers=True
)


def build(
    name: str, *, n_heads: int, d: int, d_v: int, n_kv_heads: int | None = None, **options: Any
) -> AttentionVariant:
    """Return the registered variant `name`, made for heads of these sizes.

    Args:
        name: a registered name, e.g. `"negative"`.
        n_heads: number of query heads.
        d: width of queries and keys.
        d_v: width of values.
        n_kv_heads: number of key and value heads; `n_heads` when None.
        **options: the variant's own options, e.g. `n_negatives=1, beta=0.1`.

    Raises:
        UserError: an unknown name or option, or an option out of its range.
    """
    cls = ATTENTIONS.checked(name, options, given=1)
    return cls(HeadShape(n_heads, d, d_v, n_heads if n_kv_heads is None else n_kv_heads), **options)


def name_of(variant: AttentionVariant) -> str:
    """Return the name under which the class of `variant` is registered.

    Raises:
        UserError: it is not registered.
    """
    for name in ATTENTIONS:
        if ATTENTIONS[name] is type(variant):
            return name
    raise UserError(
        f"{type(variant).__name__} is not registered: decorate the class with @ATTENTIONS.register('its-name')."
    )
