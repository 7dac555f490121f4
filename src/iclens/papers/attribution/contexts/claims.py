"""What a score of sources must reach against ContextCite's, and whether the numbers bear it out.

The rule by which the score of ours is chosen was written before the reporting tasks were run: **at every size, the
score of the best mean LDS on the tuning tasks, over tasks, among those of `OURS` that cost at most 6 passes there**;
where no prompt of that size was tuned on, over all sizes that were. `knock_out` and `influence_knock_out` joined `OURS`
later, for what they did on other prompts of the tuning tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from iclens.papers.attribution.comparing import difference, mean, of_tasks, ranked, units
from iclens.papers.attribution.contexts.cases import PASSAGES
from iclens.papers.attribution.removal import TOPS
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

OURS = ("influence", "knock_out", "influence_knock_out", "influence_halves_2", "factorial_6", "sparse")
"""The scores that the rule chooses among."""

FEWER, MORE = "lasso_32", "lasso"
"""ContextCite's method with 32 and with 64 masks."""

LIMIT = 6.0
"""Passes that ours may cost."""

WELL, ENOUGH = 0.95, 20
"""How often the document that holds the fact is to be first, and of how many prompts at least."""

_LEVEL = -1e-9
"""Not behind is a mean difference above it: level counts."""

_asked = partial(Claim, source="our question: attribution of whole responses to contexts", trust="asked")


@dataclass(frozen=True)
class Split:
    """Tasks that a choice may look at, and tasks that report."""

    tuning: Sequence[str]
    reporting: Sequence[str]


def chosen_score(table: Table, tuning: Sequence[str], size: int) -> str | None:
    """Return the score that the rule chooses at a size; None where nothing was tuned."""
    tuned = of_tasks(table, tuning, study="removal")
    own = tuned.where(size=size) if len(tuned) else tuned
    return next(iter(ranked(own if len(own) else tuned, LIMIT, OURS)), None)


def judged(table: Table, split: Split) -> list[Verdict]:
    """Return a verdict on each of `CLAIMS`."""
    return [judge(claim, table, split) for claim, judge in _JUDGES]


@dataclass(frozen=True)
class Against:
    """The chosen score at one size against a rival, in LDS or in all top-k drops.

    Attributes:
        size: sources.
        measures: columns of the table; the mean difference of every one counts.
        rival: a method.
        least: what every mean difference must exceed.
    """

    size: int
    measures: tuple[str, ...]
    rival: str = FEWER
    least: float = _LEVEL

    def __call__(self, claim: Claim, table: Table, split: Split) -> Verdict:
        """The difference over prompts of the reporting tasks."""
        name = chosen_score(table, split.tuning, self.size)
        rows = of_tasks(table, split.reporting, study="removal", size=self.size)
        if name is None or not len(rows):
            return claim.untested(f"no prompt of {self.size} sources was measured.")
        found = {measure: difference(rows, measure, name, self.rival) for measure in self.measures}
        if any(one.n == 0 for one in found.values()):
            return claim.untested(f"without {self.rival} at {self.size} sources it cannot be judged.")
        said = [
            f"{_NAMES[measure]} {mean(rows, measure, name).mean:.3f} against "
            f"{mean(rows, measure, self.rival).mean:.3f}, difference {one}"
            for measure, one in found.items()
        ]
        text = f"{name} against {self.rival} at {self.size} sources, {found[self.measures[0]].n} prompts: "
        holds = all(one.mean > self.least for one in found.values())
        return claim.judged(holds, text + "; ".join(said), f"every mean difference over prompts exceeds {self.least:g}")


@dataclass(frozen=True)
class First:
    """How often the document that holds the fact has the highest score, of prompts that the model answers from it."""

    size: int

    def __call__(self, claim: Claim, table: Table, split: Split) -> Verdict:
        """Of the chosen score, over all reporting relations."""
        name = chosen_score(table, split.tuning, self.size)
        rows = facts(table, split.reporting, self.size)
        if name is None or name not in units(rows, "first"):
            return claim.untested(f"no prompt of {self.size} facts was measured.")
        found = mean(rows, "first", name)
        if found.n < ENOUGH:
            return claim.untested(f"{found.n} prompts of {self.size} facts were measured, of at least {ENOUGH}.")
        text = f"{name} at {self.size} documents: {found}, {found.n} prompts"
        return claim.judged(found.mean >= WELL, text, f"at least {WELL}")


def facts(table: Table, tasks: Sequence[str], size: int) -> Table:
    """Select the rows of prompts of facts with `n` documents."""
    return of_tasks(table, [task for task in tasks if task not in PASSAGES], size=size)


_NAMES = {"lds": "LDS", **{f"drop_{k}": f"drop {k}" for k in TOPS}}
_DROPS = tuple(f"drop_{k}" for k in TOPS)

LDS_10 = _asked("At 10 sources the chosen score, of at most 6 passes, is not behind ContextCite's 32 masks in LDS.")
DROP_10 = _asked("At 10 sources the chosen score is not behind ContextCite's 32 masks in any top-k drop.")
LDS_30 = _asked("At 30 sources the chosen score, of at most 6 passes, is not behind ContextCite's 32 masks in LDS.")
DROP_30 = _asked("At 30 sources the chosen score is not behind ContextCite's 32 masks in any top-k drop.")
LDS_100 = _asked("At 100 sources the chosen score, of at most 6 passes, is ahead of ContextCite's 32 masks in LDS.")
DROP_100 = _asked("At 100 sources the chosen score is ahead of ContextCite's 32 masks in every top-k drop.")
MORE_100 = _asked("At 100 sources the chosen score is ahead of ContextCite's 64 masks in LDS.")
FIRST_10 = _asked("The document that holds the fact is first among 10 in 95 % of the prompts answered from it.")
FIRST_30 = _asked("The document that holds the fact is first among 30 in 95 % of the prompts answered from it.")

_JUDGES: tuple[tuple[Claim, Callable[[Claim, Table, Split], Verdict]], ...] = (
    (LDS_10, Against(10, ("lds",))),
    (DROP_10, Against(10, _DROPS)),
    (LDS_30, Against(30, ("lds",))),
    (DROP_30, Against(30, _DROPS)),
    (LDS_100, Against(100, ("lds",), least=0.0)),
    (DROP_100, Against(100, _DROPS, least=0.0)),
    (MORE_100, Against(100, ("lds",), MORE, 0.0)),
    (FIRST_10, First(10)),
    (FIRST_30, First(30)),
)

CLAIMS = tuple(claim for claim, _ in _JUDGES)
