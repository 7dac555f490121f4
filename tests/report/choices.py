"""A choice of demonstrations with made-up numbers, as large and as odd as a test wants it."""

from __future__ import annotations

import random
from dataclasses import replace

from iclens.intervals import Estimate
from iclens.selection import Example, Selection
from iclens.selection.comparing import Compared, Measured
from iclens.selection.judging import Judged
from iclens.selection.pool import Writing
from iclens.selection.selection import Rival, Spending
from iclens.selection.sizes import Size

LABELS = ("calm", "storm", "trade")
N_DEV = 9


def choice(n: int = 14, k: int = 5, *, seed: int = 0, rival: bool = True, text: str = "") -> Selection:
    """A choice of `k` of `n`, of which some say the same, some hurt, and some labels are in doubt.

    Args:
        n: demonstrations of the pool.
        k: those that are chosen.
        seed: of the numbers.
        rival: whether there is another method.
        text: stands in every text that comes from outside.
    """
    draw = random.Random(seed)
    order = tuple(draw.sample(range(n), k))
    pool = tuple(_judged(draw, i, order, text) for i in range(n))
    examples = tuple(Example(f"example {i} {text}", draw.choice(LABELS) + text) for i in range(N_DEV))
    start, template, instruction = tuple(range(n)), "Text: {input}\nMood: {output}", f"Say the mood. {text}"
    shots = [Example(pool[i].input, pool[i].output) for i in order]
    prompt = Writing(template, instruction).prompt(shots, "\N{OBJECT REPLACEMENT CHARACTER}").text
    other = tuple(draw.sample(range(n), k))
    return Selection(
        indices=order,
        demonstrations=pool,
        start=start,
        prompt=prompt.replace("\N{OBJECT REPLACEMENT CHARACTER}", "{input}"),
        messages=None,
        template=template,
        instruction=instruction,
        separator="\n\n",
        candidates=tuple(label + text for label in LABELS),
        metric=f"accuracy{text}",
        dev=_compared(draw),
        held_out=_compared(draw),
        development=tuple(draw.sample(range(2 * N_DEV), N_DEV)),
        examples=examples,
        set_aside=(),
        rival=Rival(f"random{text}", other, _compared(draw), _sizes(draw, n)) if rival else None,
        sizes=_sizes(draw, n),
        checked=None,
        tokens=(12 * n, 12 * k),
        cost=Spending(31.4, 27.2, 8.6, 211.0, 12.5),
        model=f"a-model{text}",
        method=f"influence{text}",
        order="search",
        seed=seed,
        notes=(f"A note. {text}",),
    )


def bare(found: Selection) -> Selection:
    """The same choice by a method that measures no effect, with a model's own labels and nothing to say of them."""
    judged = (
        replace(one, effect=None, left_out=None, hurts_on=(), hurts_by=(), suspected=None, doubt=None, certainty=0.75)
        for one in found.demonstrations
    )
    pool = tuple(replace(one, verdict="unclear") for one in judged)
    return replace(found, demonstrations=pool, rival=None, sizes=found.sizes[:1], candidates=(), instruction=None)


def estimate(draw: random.Random, size: float = 1.0) -> Estimate:
    """An estimate somewhere."""
    mean = draw.gauss(0.0, size)
    return Estimate(mean, mean - size * draw.random(), mean + size * draw.random(), N_DEV)


def _judged(draw: random.Random, i: int, order: tuple[int, ...], text: str) -> Judged:
    is_chosen, is_doubted = i in order, i % 4 == 1
    effect = estimate(draw)
    word = "helps" if effect.low > 0 else "hurts" if effect.high < 0 else "unclear"
    hurt = tuple(draw.sample(range(N_DEV), 3)) if is_chosen and i % 2 else ()
    return Judged(
        index=i,
        input=f"{'A long one. ' * (20 if i % 5 == 2 else 1)}Text {draw.randrange(100)} {text}",
        output=draw.choice(LABELS) + text,
        place=order.index(i) if is_chosen else None,
        verdict=f"redundant with #{order[i % 2]}" if not is_chosen and i % 3 != 1 else word,
        effect=effect,
        left_out=estimate(draw, 0.1) if is_chosen else None,
        hurts_on=hurt,
        hurts_by=tuple(sorted((draw.uniform(0.1, 1.0) for _ in hurt), reverse=True)),
        suspected=f"storm{text}" if is_doubted else None,
        doubt=1.0 + draw.random() if is_doubted else None,
    )


def _measured(draw: random.Random) -> Measured:
    return Measured(estimate(draw, 0.2), estimate(draw))


def _compared(draw: random.Random) -> Compared:
    return Compared(_measured(draw), _measured(draw), _measured(draw))


def _sizes(draw: random.Random, n: int) -> tuple[Size, ...]:
    counts = sorted(draw.sample(range(1, n + 1), min(4, n)))
    return tuple(Size(one, draw.randrange(1, 40), tuple(range(one)), _measured(draw)) for one in counts)
