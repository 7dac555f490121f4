"""What the scores must reach on real models, what would be better still, and whether the numbers bear it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from iclens.papers.attribution.comparing import difference, mean, means_of, of_tasks, ranked, units
from iclens.papers.attribution.real_models.rule import CHEAP, OURS, default_score, tuned
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_asked = partial(Claim, source="our question: which score is right on real models", trust="asked")

LEFT_OUT, DETAIL, SURPRISE, STEEP = "rerun", "detail", "label_surprise", "gradient_norm"
NEAR = 0.03
"""An LDS that counts as not behind by much."""
FASTER = 15.0
WELL_FOUND = 0.8
TWELVE = 12.0


@dataclass(frozen=True)
class Split:
    """Tasks that a choice may look at, and tasks that report.

    Attributes:
        tuning: tasks of the LDS that the default is chosen on.
        reporting: the others.
        labels: the tasks of wrong labels, the one to tune on first.
        families: the families of settling demonstrations, the one to tune on first.
    """

    tuning: Sequence[str]
    reporting: Sequence[str]
    labels: Sequence[str]
    families: Sequence[str]


def judged(table: Table, split: Split) -> list[Verdict]:
    """Return a verdict on each of `CLAIMS`."""
    return [judge(claim, table, split) for claim, judge in _JUDGES]


@dataclass(frozen=True)
class Line:
    """The LDS of a chosen score at one size against rivals: each with the least difference, reached or exceeded.

    Attributes:
        size: demonstrations.
        limit: passes of the score.
        rivals: a method, and what the mean difference must exceed.
        faster: how many times less time than the first rival, at least.
    """

    size: int
    limit: float
    rivals: tuple[tuple[str, float], ...]
    faster: float = 0.0

    def __call__(self, claim: Claim, table: Table, split: Split) -> Verdict:
        """The default where it may cost no more than `CHEAP`, else the best of ours on the tuning tasks."""
        if self.limit <= CHEAP:
            chosen = default_score(table, split.tuning, self.size)
        else:
            chosen = next(iter(ranked(tuned(table, split.tuning, self.size), self.limit, OURS)), None)
        reported = of_tasks(table, split.reporting, study="removal", size=self.size)
        if chosen is None or not len(reported):
            return claim.untested(f"no prompt of {self.size} demonstrations was measured.")
        found = {rival: difference(reported, "lds", chosen, rival) for rival, _ in self.rivals}
        absent = [rival for rival, one in found.items() if one.n == 0]
        if absent:
            return claim.untested(f"without {absent[0]} at {self.size} demonstrations it cannot be judged.")
        holds = all(found[rival].mean > least for rival, least in self.rivals)
        first = self.rivals[0][0]
        ratio = mean(reported, "seconds", first).mean / max(mean(reported, "seconds", chosen).mean, 1e-12)
        own_lds = mean(reported, "lds", chosen)
        against = "; ".join(
            f"minus {rival} ({mean(reported, 'lds', rival).mean:.3f}): {found[rival]}" for rival, _ in self.rivals
        )
        text = f"LDS of {chosen} at {self.size} demonstrations {own_lds}, {own_lds.n} prompts; {against}"
        asked = "; ".join(f"minus {rival} > {least:g}" for rival, least in self.rivals)
        test = f"the mean difference over prompts of the reporting tasks: {asked}"
        if self.faster:
            text += f"; {first} takes {ratio:.1f} times its time"
            test += f"; {first} takes at least {self.faster:g} times its time"
            holds = holds and ratio >= self.faster
        return claim.judged(holds, text, test)


def _wrong_labels(claim: Claim, table: Table, split: Split) -> Verdict:
    """Return the best score on the first task, DETAIL and plain surprise left aside, on the others."""
    chosen, reported = _chosen(
        table, "wrong labels", "auroc", split.labels, (DETAIL, "detail_self", SURPRISE, "random")
    )
    if chosen is None:
        return claim.untested("no pool with wrong labels was measured.")
    own = mean(reported, "auroc", chosen)
    if claim is WELL:
        return claim.judged(own.mean >= WELL_FOUND, f"AUROC of {chosen}: {own}", f"at least {WELL_FOUND}")
    rivals = [name for name in (DETAIL, "detail_self", SURPRISE) if name in units(reported, "auroc")]
    if len(rivals) < 3:
        return claim.untested("DETAIL or label surprise was not measured.")
    found = {rival: difference(reported, "auroc", chosen, rival) for rival in rivals}
    text = f"AUROC of {chosen} {own}, {own.n} pools; " + "; ".join(
        f"minus {rival} ({mean(reported, 'auroc', rival).mean:.3f}): {one}" for rival, one in found.items()
    )
    return claim.judged(
        all(one.mean > 0 for one in found.values()), text, "every mean difference over pools is above 0"
    )


def _settling(claim: Claim, table: Table, split: Split) -> Verdict:
    chosen, reported = _chosen(table, "settling", "hit", split.families, (STEEP, "random"))
    if chosen is None or STEEP not in units(reported, "hit"):
        return claim.untested("no prompt with a settling demonstration was measured.")
    found = difference(reported, "hit", chosen, STEEP)
    own, rival = (mean(reported, "hit", name) for name in (chosen, STEEP))
    least = "above 0" if claim is SETTLES_AHEAD else "at least 0"
    holds = found.mean > 0 or (claim is SETTLES and found.mean == 0)
    text = f"hit rate of {chosen} {own}, of {STEEP} {rival}, {own.n} prompts; difference {found}"
    return claim.judged(holds, text, f"the mean difference is {least}")


def _chosen(
    table: Table, study: str, measure: str, tasks: Sequence[str], without: Sequence[str]
) -> tuple[str | None, Table]:
    """Return the best method on the first task, and the rows of the other tasks; of the only one where there is one."""
    rows = of_tasks(table, tasks, study=study)
    reported = of_tasks(rows, tasks[1:])
    first = means_of(of_tasks(rows, tasks[:1]), measure)
    known = {name: value for name, value in first.items() if name not in without}
    if not known or not len(reported):
        return None, reported
    return max(known, key=lambda name: known[name]), reported


def _rank(claim: Claim, table: Table, split: Split) -> Verdict:
    ranks: dict[str, tuple[int, int]] = {}
    for task in split.reporting:
        reported = of_tasks(table, (task,), study="removal")
        for size in reported.unique("size") if len(reported) else ():
            chosen = default_score(table, split.tuning, int(str(size)))
            order = list(ranked(reported.where(size=size), CHEAP))
            if chosen in order:
                ranks[f"{chosen} on {task} at {size}"] = order.index(chosen) + 1, len(order)
    if not ranks:
        return claim.untested("no reporting task was measured.")
    text = f"rank among scores within {CHEAP} passes: "
    text += ", ".join(f"{which} {rank} of {count}" for which, (rank, count) in ranks.items())
    if claim is NEVER_LAST:
        return claim.judged(all(rank < count for rank, count in ranks.values()), text, "last on 0 tasks and sizes")
    firsts = sum(rank == 1 for rank, _ in ranks.values())
    return claim.judged(firsts > len(ranks) / 2, text, "first on more than half of the tasks and sizes")


EIGHT = _asked("At 8 demonstrations the default score, of at most 4.5 passes, is ahead of leaving one out by deletion.")
EIGHT_GOAL = _asked("At 8 demonstrations the default score is not behind a Lasso of 16 deletions.")
EIGHT_MORE = _asked("At 8 demonstrations the best of ours within 12 passes is ahead of a Lasso of 16 deletions.")
EIGHT_MORE_GOAL = _asked("At 8 demonstrations the best of ours within 12 passes is not behind a Lasso of 32.")
MANY = _asked(
    "At 32 demonstrations the default score is not behind leaving one out by more than .03, and ahead of a Lasso of 16."
)
MANY_GOAL = _asked("At 32 demonstrations the default score is ahead of leaving one out and of a Lasso of 32 deletions.")
MANY_MORE_GOAL = _asked("At 32 demonstrations the best of ours within 12 passes is ahead of a Lasso of 64 deletions.")
MOST = _asked(
    "At 128 demonstrations the default score is ahead of leaving one out in 15 times less time, and not behind a Lasso "
    "of 64 by more than .03."
)
MOST_GOAL = _asked("At 128 demonstrations the default score is ahead of a Lasso of 128 deletions.")
WRONG = _asked("The best registered score finds wrong labels better than DETAIL and than label surprise.")
WELL = _asked("The best registered score finds wrong labels with an AUROC of .80.")
SETTLES = _asked("The best score names the settling demonstration at least as often as the gradient norm.")
SETTLES_AHEAD = _asked("The best score names the settling demonstration more often than the gradient norm.")
NEVER_LAST = _asked("Among scores within 4.5 passes, the default is last on no task.")
MOSTLY_FIRST = _asked("Among scores within 4.5 passes, the default is first on most tasks.")

# "Not behind" is a mean difference above −1e-9: level counts.
_LEVEL = -1e-9
_JUDGES: tuple[tuple[Claim, Callable[[Claim, Table, Split], Verdict]], ...] = (
    (EIGHT, Line(8, CHEAP, ((LEFT_OUT, 0.0),))),
    (EIGHT_GOAL, Line(8, CHEAP, (("lasso_margin_16", _LEVEL),))),
    (EIGHT_MORE, Line(8, TWELVE, (("lasso_margin_16", 0.0),))),
    (EIGHT_MORE_GOAL, Line(8, TWELVE, (("lasso_margin_32", _LEVEL),))),
    (MANY, Line(32, CHEAP, ((LEFT_OUT, -NEAR), ("lasso_margin_16", 0.0)))),
    (MANY_GOAL, Line(32, CHEAP, ((LEFT_OUT, 0.0), ("lasso_margin_32", 0.0)))),
    (MANY_MORE_GOAL, Line(32, TWELVE, (("lasso_margin", 0.0),))),
    (MOST, Line(128, CHEAP, ((LEFT_OUT, 0.0), ("lasso_margin", -NEAR)), FASTER)),
    (MOST_GOAL, Line(128, CHEAP, (("lasso_margin_128", 0.0),))),
    (WRONG, _wrong_labels),
    (WELL, _wrong_labels),
    (SETTLES, _settling),
    (SETTLES_AHEAD, _settling),
    (NEVER_LAST, _rank),
    (MOSTLY_FIRST, _rank),
)

CLAIMS = tuple(claim for claim, _ in _JUDGES)
