"""A verdict for every demonstration of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.intervals import Estimate, estimate
from iclens.selection.doubts import Doubt
from iclens.selection.evaluator import ALIKE, Evaluator, Order
from iclens.selection.search import Found

HELPS, HURTS, UNCLEAR, REDUNDANT = "helps", "hurts", "unclear", "redundant with"

_HURTS_BY = 0.1
"""Nats of log-probability from which a demonstration counts as hurting an example."""


@dataclass(frozen=True)
class Judged:
    """The verdict on one demonstration.

    Attributes:
        index: its number in the pool.
        input: its input.
        output: its output.
        place: its place in the chosen prompt, from 0, or None.
        verdict: `"helps"`, `"hurts"`, `"redundant with #i"` or `"unclear"`.
        effect: the mean over mini-batches of ∂M/∂w, M the mean margin of the right answers over the others, nats; None
            where the method measured none.
        left_out: the mean over the development examples of log p(right answer) of the chosen prompt less that of the
            prompt without this demonstration, nats; None where it is not in the prompt.
        hurts_on: development examples whose right answer is less likely with it, the strongest first.
        hurts_by: by how many nats of log-probability it is.
        suspected: the label that the others suggest in place of its own, or None.
        doubt: by how many nats they do.
        certainty: where the pool had no outputs, the model's probability of the one that it gave; None otherwise.
    """

    index: int
    input: str
    output: str
    place: int | None
    verdict: str
    effect: Estimate | None = None
    left_out: Estimate | None = None
    hurts_on: tuple[int, ...] = ()
    hurts_by: tuple[float, ...] = ()
    suspected: str | None = None
    doubt: float | None = None
    certainty: float | None = None

    @property
    def redundant_with(self) -> int | None:
        """The demonstration of the chosen prompt that says the same, or None."""
        word, _, number = self.verdict.partition(" #")
        return int(number) if word == REDUNDANT else None


def judge(
    evaluator: Evaluator,
    found: Found,
    doubted: Sequence[Doubt | None],
    certainties: Sequence[float | None],
    *,
    leave_out: bool = True,
) -> tuple[Judged, ...]:
    """Judge all demonstrations of a pool; with `leave_out` the chosen prompt runs once without each of its own."""
    order = found.order
    changes = _left_out(evaluator, order) if leave_out and len(order) > 1 else {}
    judged = []
    for i, shot in enumerate(evaluator.shots):
        effect = None if found.effects is None else estimate(found.effects.samples[:, i])
        change = changes.get(i)
        hurt = {} if change is None else _hurt(change)
        left_out = None if change is None else estimate(change)
        other = _redundant_with(found, i)
        verdict = _verdict(effect, left_out) if other is None else f"{REDUNDANT} #{other}"
        # What helps where the answers are known is not suspected.
        doubt = None if (effect or left_out) is not None and verdict == HELPS else doubted[i]
        judged.append(
            Judged(
                index=i,
                input=shot.input,
                output=str(shot.output),
                place=order.index(i) if i in order else None,
                verdict=verdict,
                effect=effect,
                left_out=left_out,
                hurts_on=tuple(hurt),
                hurts_by=tuple(hurt.values()),
                suspected=None if doubt is None else doubt.label,
                doubt=None if doubt is None else doubt.nats,
                certainty=certainties[i],
            )
        )
    return tuple(judged)


def _left_out(evaluator: Evaluator, order: Order) -> dict[int, Float[Tensor, " n_queries"]]:
    """log p(right answer) of each example with a demonstration less that without it."""
    without = [tuple(j for j in order if j != i) for i in order]
    said = evaluator.said([order, *without]).log_p
    return {i: said[0] - said[1 + place] for place, i in enumerate(order)}


def _hurt(change: Float[Tensor, " n_queries"]) -> dict[int, float]:
    """Return the examples that are clearly worse with a demonstration, the worst first, and by how many nats."""
    ranked = torch.argsort(change, stable=True).tolist()
    return {q: -float(change[q]) for q in ranked if float(change[q]) <= -_HURTS_BY}


def _redundant_with(found: Found, i: int) -> int | None:
    """Return a demonstration of the chosen prompt that says the same as one outside of it."""
    effects = found.effects
    if effects is None or effects.pairs is None or i in found.order or float(effects.mean[i]) <= 0:
        return None
    groups = [group for group in effects.pairs.redundant if i in group]
    return next((j for group in groups for j in found.order if j in group), None)


def _verdict(effect: Estimate | None, left_out: Estimate | None) -> str:
    """The word for a demonstration: what leaving it out of the prompt really does says more than its effect in a pool.

    A change of the log-loss that nobody would notice says nothing; but one that hurts in the pool and not in the prompt
    is not said to hurt.
    """
    if left_out is None or effect is None:
        return _word(effect or left_out)
    really = _word(left_out) if abs(left_out.mean) >= ALIKE else UNCLEAR
    among_all = _word(effect)
    return among_all if really == UNCLEAR and among_all != HURTS else really


def _word(effect: Estimate | None) -> str:
    if effect is None:
        return UNCLEAR
    return HELPS if effect.low > 0 else HURTS if effect.high < 0 else UNCLEAR
