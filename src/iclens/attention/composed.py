"""Several modifications at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from iclens.attention.attending import Attending
from iclens.attention.scaled_dot_product import scaled_dot_product_naive
from iclens.attention.strength import is_zero
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape, build, name_of
from iclens.errors import UserError


@ATTENTIONS.register("composed")
class ComposedAttention(AttentionVariant):
    """Softmax attention with several modifications.

    First every part's views of keys and values, in order (g_2, g_1, then negatives of keys); then the attention; then
    the parts' offsets, each computed from the same viewed keys and values, are subtracted (negatives of queries, −α);
    then what follows the head's output, in order. The order of augmented before negative before regularised is the one
    to write down; offsets commute.

    Args:
        shape: sizes of the heads.
        parts: options of the parts, `{"name": ..., **options}`, or variants that are built already.

    Raises:
        UserError: no part, or a part that is not a modification of softmax attention.
    """

    def __init__(self, shape: HeadShape, *, parts: Sequence[Mapping[str, Any] | AttentionVariant] = ()) -> None:
        super().__init__(shape)
        if not parts:
            raise UserError("a composed attention needs parts, e.g. parts=[{'name': 'negative', 'beta': 0.1}].")
        self.parts = nn.ModuleList(_part(part, shape) for part in parts)
        for part in self.variants:
            if type(part).attend is not AttentionVariant.attend:
                raise UserError(
                    f"{type(part).__name__} is not a modification of softmax attention: it has no place here."
                )
        self.permutes = all(part.permutes for part in self.variants)
        self.self_aligned = any(part.self_aligned for part in self.variants)

    @property
    def variants(self) -> list[AttentionVariant]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, AttentionVariant)]

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"parts": [{"name": name_of(part), **part.options()} for part in self.variants]}

    def neutral_options(self) -> dict[str, Any] | None:  # noqa: D102
        neutral = [(name_of(part), part.neutral_options()) for part in self.variants]
        if any(options is None for _, options in neutral):
            return None
        return {"parts": [{"name": name, **(options or {})} for name, options in neutral]}

    def extra_repr(self) -> str:  # noqa: D102
        return ""

    def modified(self, k: Tensor, v: Tensor, attending: Attending) -> tuple[Tensor, Tensor]:  # noqa: D102
        for part in self.variants:
            k, v = part.modified(k, v, attending)
        return k, v

    def offset(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return _total(part.offset(q, k, v, attending) for part in self.variants)

    def after(self, out: Tensor) -> Tensor:  # noqa: D102
        for part in self.variants:
            out = part.after(out)
        return out

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:
        """Sum of what every part alone does to the naive attention on the viewed keys and values."""
        viewed = self.modified(k, v, attending)
        plain = scaled_dot_product_naive(q, *viewed, attending)
        out = plain
        for part in self.variants:
            # A part whose whole effect is its offset is read off its own naive form on the viewed tensors.
            if part.offset(q, *viewed, attending) is not None:
                out = out + (part.naive(q, *viewed, attending) - plain)
        return self.after(out)

    def decay(self) -> float | Tensor:  # noqa: D102
        total: float | Tensor = 0.0
        for part in self.variants:
            decay = part.decay()
            total = decay if is_zero(total) else total + decay
        return total

    def row_negatives(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor | None:  # noqa: D102
        return _total(part.row_negatives(q, k, v, attending) for part in self.variants)

    def residual(  # noqa: D102
        self, q: Tensor, k: Tensor, v: Tensor, attending: Attending, initial: Tensor, weights: Tensor
    ) -> Tensor | None:
        return _total(part.residual(q, k, v, attending, initial, weights) for part in self.variants)


def _part(part: Mapping[str, Any] | AttentionVariant, shape: HeadShape) -> AttentionVariant:
    if isinstance(part, AttentionVariant):
        return part
    options = dict(part)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"a part needs a 'name': {dict(part)!r}.")
    return build(name, n_heads=shape.n_heads, d=shape.d, d_v=shape.d_v, n_kv_heads=shape.n_kv_heads, **options)


def _total(terms: Any) -> Tensor | None:
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total
