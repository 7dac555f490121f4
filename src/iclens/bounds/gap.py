"""The generalisation gap itself, measured by resampling the demonstrations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.bounds.rademacher import Bounds, bounds_of, over_normalizer, refuse_training_weights
from iclens.bounds.sample import Tokens, difference
from iclens.dual import DualModel
from iclens.errors import UserError
from iclens.kernels import SignedLog


@dataclass(frozen=True)
class MeasuredGap:
    """L − L̂ over resamples of the demonstrations, in the units of `Bounds`.

    Attributes:
        gap: L(Ŵ) − L̂(Ŵ) of every resample, (n_resamples, n_query).
        mean: its mean over the resamples, (n_query,).
        low: lower end of the 95 % interval of that mean over resamples of this pool (normal approximation), (n_query,).
        high: upper end.
        bounds: the bounds of every resample, with B taken over the whole pool; numbers (n_resamples, n_query).
    """

    gap: SignedLog
    mean: SignedLog
    low: SignedLog
    high: SignedLog
    bounds: Bounds

    @property
    def coverage(self) -> dict[str, Float[Tensor, " n_query"]]:
        """The share of resamples in which each bound holds; at least 1 − δ is claimed."""
        shares = {}
        for name, bound in self.bounds.by_name.items():
            holds = SignedLog(self.gap.log_abs - bound.gap.log_abs, self.gap.sign).value <= 1
            shares[name] = holds.to(self.gap.log_abs).mean(0)
        return shares


def measured_gap(
    dual: DualModel,
    n_demonstrations: int,
    n_resamples: int = 200,
    *,
    delta: float = 0.05,
    generator: torch.Generator | None = None,
) -> MeasuredGap:
    """Train on N of the dual's demonstrations, judge on the others, many times.

    The dual's demonstrations are the pool: every resample draws `n_demonstrations` of them without repetition, trains
    Ŵ on them and on the other keys (W_0, the same throughout), with its own D(q), and takes L̂ over
    the drawn keys and L over the keys not drawn. A demonstration of several keys is drawn whole; the bounds' N counts
    keys, and keys of one demonstration are not independent.

    Time O(n_resamples · n_pool² · d_v).

    Args:
        dual: one head without leading axes and without a mask, whose demonstrations are the pool.
        n_demonstrations: N, below the pool's size.
        n_resamples: at least 2.
        delta: δ of the bounds.
        generator: of the draws, on the CPU; one seeded with 0 when None.

    Raises:
        UserError: leading axes or a mask, N outside 1 … pool − 1, too few resamples, δ outside (0, 1), a softcapped
            kernel, or training weights.
    """
    ids = dual.groups.ids
    if dual.log_normalizer.ndim > 1 or ids.ndim > 1 or dual.k.ndim > 2 or dual.v.ndim > 2:
        raise UserError("measured_gap takes one head at a time: index q, k and v down to (tokens, features) first.")
    if dual.mask is not None:
        raise UserError("measured_gap takes no mask: build the dual model from the keys that the queries attend to.")
    refuse_training_weights(dual)
    if not 1 <= n_demonstrations < dual.n_demonstrations:
        raise UserError(
            f"n_demonstrations={n_demonstrations} must be between 1 and {dual.n_demonstrations - 1}: the pool has "
            f"{dual.n_demonstrations} demonstrations and at least one must be held out."
        )
    if n_resamples < 2:
        raise UserError(f"n_resamples={n_resamples} must be at least 2.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    ranks = torch.rand(n_resamples, dual.n_demonstrations, generator=generator, dtype=torch.float64).argsort(-1)
    pool = ids >= 0
    # (n_resamples, 1, n_key): the resamples are a leading axis and the one row serves every query.
    drawn = ((ranks.to(ids.device) < n_demonstrations)[:, ids.clamp_min(0)] & pool).unsqueeze(-2)
    trained_on = drawn | ~pool
    log_normalizer = dual.kernel.coefficients(dual.q, dual.k, trained_on)[1]
    sample = Tokens(dual.kernel, dual.k, dual.v).measure(trained_on, drawn, pool.expand(drawn.shape))
    bounds = bounds_of(sample, sample.radius, log_normalizer, dual.v.shape[-1], delta)
    gap = over_normalizer(difference(sample.held_out_loss, sample.loss), log_normalizer)

    scale = gap.log_abs.amax(0)
    scale = torch.where(scale == -torch.inf, 0.0, scale)
    values = SignedLog(gap.log_abs - scale, gap.sign).value
    centre, margin = values.mean(0), 1.96 * values.std(0) / n_resamples**0.5
    mean, low, high = (
        SignedLog(number.abs().log() + scale, number.sign()) for number in (centre, centre - margin, centre + margin)
    )
    return MeasuredGap(gap, mean, low, high, bounds)
