"""What a choice of demonstrations must reach, and whether the numbers bear it out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from iclens.papers.attribution.comparing import difference, mean, means_of, of_tasks, units
from iclens.papers.selection.pools import ALL, CHANCE, CLEAN, DOUBT, SURPRISE
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_asked = partial(Claim, source="our question: which demonstrations to keep", trust="asked")

OURS, RANDOM = "influence", "random"
CHOICE, MENDING = "choosing", "mending"
POINT = 0.01


def judged(table: Table, tasks: tuple[str, ...]) -> list[Verdict]:
    """Return a verdict on each of `CLAIMS`."""
    return [judge(claim, table, tasks) for claim, judge in _JUDGES]


def _by_task(claim: Claim, table: Table, tasks: tuple[str, ...], rival: str, least: float, *, most: bool) -> Verdict:
    """Ours minus a rival in accuracy, task by task: above `least` on every one, or on half and in the mean."""
    rows = of_tasks(table, tasks, study=CHOICE)
    found = {task: difference(of_tasks(rows, (task,)), "accuracy", OURS, rival) for task in tasks}
    found = {task: one for task, one in found.items() if one.n}
    if not found:
        return claim.untested(f"no pool was measured with {OURS} and {rival}.")
    overall = difference(rows, "accuracy", OURS, rival)
    text = f"accuracy of {OURS} minus {rival}: {overall} over {overall.n} pools; by task "
    text += ", ".join(f"{task} {one}" for task, one in found.items())
    if not most:
        return claim.judged(
            all(one.mean > least for one in found.values()), text, f"the mean of every task > {least:g}"
        )
    ahead = sum(one.mean > 0 for one in found.values())
    return claim.judged(
        overall.mean > 0 and 2 * ahead >= len(found), text, "the overall mean, and the means of half of the tasks, > 0"
    )


def _ahead_of_chance(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    return _by_task(claim, table, tasks, CHANCE, 0.0, most=False)


def _not_behind(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    # "Not behind" is a mean difference above −1e-9: level counts.
    return _by_task(claim, table, tasks, RANDOM, -1e-9, most=False)


def _ahead_of_best(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    return _by_task(claim, table, tasks, RANDOM, 0.0, most=True)


def _found(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    rows = of_tasks(table, tasks, study=MENDING)
    rivals = [name for name in (SURPRISE, "one_at_a_time") if name in units(rows, "found")]
    if len(rivals) < 2 or DOUBT not in units(rows, "found"):
        return claim.untested("no pool with wrong labels was measured.")
    own, gaps = mean(rows, "found", DOUBT), {name: difference(rows, "found", DOUBT, name) for name in rivals}
    text = f"wrong labels found by {DOUBT}: {own} a pool, {own.n} pools; " + "; ".join(
        f"minus {name}: {one}" for name, one in gaps.items()
    )
    least = 0.0 if claim is FINDS_MORE else -1e-9
    return claim.judged(
        all(one.mean > least for one in gaps.values()), text, f"every mean difference over pools > {least:g}"
    )


def _back(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    rows = of_tasks(table, tasks, study=MENDING)
    found = difference(rows, "accuracy", DOUBT, CLEAN)
    if not found.n:
        return claim.untested("no pool with wrong labels was measured.")
    text = f"accuracy without the doubtful ones minus the clean prompt's: {found}, {found.n} pools"
    return claim.judged(found.mean >= -POINT, text, f"the mean difference is at least {-POINT:g}")


def _pruned(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    rows = of_tasks(table, tasks, study=CHOICE)
    found = difference(rows, "accuracy", OURS, ALL)
    if not found.n:
        return claim.untested("no pool was measured.")
    tokens, passes = means_of(rows, "tokens"), means_of(rows, "passes")
    saved = 1 - tokens[OURS] / tokens[ALL]
    cheaper = means_of(rows, "backward_elimination")[OURS] / passes[OURS]
    points, times = (2, 10) if claim is PRUNED else (1, 20)
    text = (
        f"accuracy of the chosen minus the whole pool's: {found}, {found.n} pools; {saved:.1%} of the tokens saved, "
        f"backward elimination takes {cheaper:.1f} times the passes"
    )
    holds = found.mean >= -points * POINT and saved >= 0.7 and cheaper >= times
    asked = f"the mean difference is at least {-points * POINT:g}, tokens saved ≥ 70 %, passes ≤ 1/{times}"
    return claim.judged(holds, text, asked)


CHANCE_CLAIM = _asked("On every task 8 chosen of 32 answer better than random subsets do in the mean.")
BEST = _asked("On no task 8 chosen of 32 answer worse than the best random subset that as many passes find.")
BEST_GOAL = _asked("In the mean and on half of the tasks they answer better than that.")
FINDS = _asked("Of 20 demonstrations with 5 wrong labels, our doubts find as many as surprise and one at a time do.")
FINDS_MORE = _asked("Our doubts find more wrong labels than label surprise and one at a time.")
MENDED = _asked("Without 5 doubtful demonstrations accuracy is back to the clean prompt's.")
PRUNED = _asked("32 pruned to 8 lose 2 points at most, and 70 % of the tokens, in a tenth of the passes.")
PRUNED_GOAL = _asked("32 pruned to 8 lose 1 point at most, and 70 % of the tokens, in a twentieth of the passes.")

_JUDGES: tuple[tuple[Claim, Callable[[Claim, Table, tuple[str, ...]], Verdict]], ...] = (
    (CHANCE_CLAIM, _ahead_of_chance),
    (BEST, _not_behind),
    (BEST_GOAL, _ahead_of_best),
    (FINDS, _found),
    (FINDS_MORE, _found),
    (MENDED, _back),
    (PRUNED, _pruned),
    (PRUNED_GOAL, _pruned),
)

CLAIMS = tuple(claim for claim, _ in _JUDGES)
