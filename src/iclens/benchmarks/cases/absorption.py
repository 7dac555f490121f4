"""`iclens absorb`: demonstrations turned into weights, beside the reading that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from iclens.absorption import Absorbed, absorb
from iclens.absorption.reached import ABSORBED, PROMPT
from iclens.benchmarks.case import CASES, Absent, Agreement, Comparison, Context, Entry, Side, Target, takes
from iclens.benchmarks.cases.selection import Asked, questions
from iclens.benchmarks.few_shot import ANSWERS, TEMPLATE


@CASES.register("absorb")
@takes(minutes=3)
def absorption(context: Context) -> Iterator[Entry]:
    """Demonstrations as a LoRA, in closed form, beside only reading the queries alone and after the prompt."""
    for asked in questions(context, context.pick(4, 8)):
        yield asked if isinstance(asked, Absent) else _beside_forward(asked, context)


def _beside_forward(asked: Asked, context: Context) -> Comparison:
    model, half = asked.lens_model, len(asked.dev) // 2
    fitted, aside = asked.dev[:half], asked.dev[half:]
    rank = context.pick(2, 8)
    given: dict[str, Any] = {"template": TEMPLATE, "candidates": ANSWERS, "held_out": aside}

    def ours() -> Absorbed:
        return absorb(model, asked.pool, fitted, rank=rank, ranks=(), numbers=(), **given)

    def agree() -> Sequence[Agreement]:
        found = ours()
        with found.applied() as changed:
            alone = replace(asked, lens_model=changed).log_loss([], aside)
        told = {name: found.named(name).reached.log_loss.mean for name in (ABSORBED, PROMPT)}
        return [
            Agreement("log-loss of the changed weights", abs(told[ABSORBED] - alone), 1e-4),
            Agreement("log-loss of the prompt", abs(told[PROMPT] - asked.log_loss(asked.pool, aside)), 1e-4),
        ]

    def read() -> None:
        for shots in (asked.pool, []):
            asked.log_loss(shots, asked.dev)

    return Comparison(
        f"{len(asked.pool)} demonstrations as a LoRA of rank {rank}, fitted by {half} queries: {model.name}",
        Side("absorb", ours),
        Side("only reading every query alone and after the prompt, each by itself", read),
        agree,
        targets=() if context.quick else (Target("speed-up", 1.0, "no longer than the reading alone"),),
        most_pairs=3,
        warm_up=False,
        repeat=False,
    )
