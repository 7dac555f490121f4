"""What absorbing a prompt must reach, fixed before its tasks were looked at, and whether the numbers bear it out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from iclens.absorption.reached import ABSORBED, DISTILLED, LORA, PROMPT, ZERO
from iclens.papers.absorption.rows import FIRST_ALONE
from iclens.papers.attribution.comparing import difference, mean, of_tasks
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_asked = partial(Claim, source="our question: can demonstrations be put into weights", trust="asked")
POINT = 0.01

KEEPS = _asked("On every task rank 8 keeps 80 % of what the demonstrations change in the next token (in KL).")
ACCURATE = _asked("On every task the absorbed prompt is at most 2 points less accurate than the prompt, in the mean.")
LOSSES = _asked("On every task its log-loss is at most .05 nats above the prompt's, in the mean.")
BEATS_ZERO = _asked("On every task its log-loss is below zero-shot's, with an interval that leaves 0 out.")
SMALL_RANK = _asked("Rank 1 keeps half of what rank 8 keeps, on every task.")
BEATS_LORA = _asked("A LoRA of equal rank, trained on the demonstrations, is farther from the prompt on every task.")
BETTER_THAN_LORA = _asked("On every task its log-loss on held-out queries is below that of that LoRA.")
BEATS_DISTILLED = _asked("One that is trained on the prompt's answers to the fitted queries is farther from it, too.")
OFFSET = _asked("Without the output offset (the MLP's first matrices alone) no task keeps half.")


def judged(table: Table, tasks: tuple[str, ...]) -> list[Verdict]:
    """A verdict on each of `CLAIMS`."""
    return [judge(claim, table, tasks) for claim, judge in _JUDGES]


def kept(table: Table, task: str, method: str) -> float | None:
    """1 − KL(prompt ‖ method) / KL(prompt ‖ zero-shot) on a task; None where it was not measured."""
    rows = of_tasks(table, (task,))
    own, zero = (mean(rows, "divergence", name) for name in (method, ZERO))
    return 1 - own.mean / zero.mean if own.n and zero.n else None


def _keeps(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    method, least = (FIRST_ALONE, 0.5) if claim is OFFSET else (ABSORBED, 0.8)
    found = {task: one for task in tasks if (one := kept(table, task, method)) is not None}
    if not found:
        return claim.untested(f"no task was measured with {method}.")
    text = f"kept by {method}: " + ", ".join(f"{task} {one:.3f}" for task, one in found.items())
    if claim is OFFSET:
        return claim.judged(all(one < least for one in found.values()), text, f"less than {least:g} on every task")
    return claim.judged(all(one >= least for one in found.values()), text, f"at least {least:g} on every task")


def _near(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    measure, sign, most = ("accuracy", -1, 2 * POINT) if claim is ACCURATE else ("log_loss", 1, 0.05)
    found = {task: difference(of_tasks(table, (task,)), measure, ABSORBED, PROMPT) for task in tasks}
    found = {task: one for task, one in found.items() if one.n}
    if not found:
        return claim.untested("no task was measured.")
    text = f"{measure} absorbed minus prompt: " + ", ".join(f"{task} {one}" for task, one in found.items())
    asked = f"the mean of every task {'≥' if sign < 0 else '≤'} {sign * most:g}"
    return claim.judged(all(sign * one.mean <= most for one in found.values()), text, asked)


def _below(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    rival = LORA if claim is BETTER_THAN_LORA else ZERO
    found = {task: difference(of_tasks(table, (task,)), "log_loss", ABSORBED, rival) for task in tasks}
    found = {task: one for task, one in found.items() if one.n}
    if not found:
        return claim.untested(f"no task was measured with {rival}.")
    text = f"log-loss absorbed minus {rival}: " + ", ".join(f"{task} {one}" for task, one in found.items())
    return claim.judged(all(one.high < 0 for one in found.values()), text, "every interval lies below 0")


def _small(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    pairs = {task: (kept(table, task, "rank 1"), kept(table, task, ABSORBED)) for task in tasks}
    found = {task: (one, own) for task, (one, own) in pairs.items() if one is not None and own is not None}
    if not found:
        return claim.untested("rank 1 was not measured.")
    text = "kept by rank 1 and by the rank that is written: "
    text += ", ".join(f"{task} {one:.3f} and {own:.3f}" for task, (one, own) in found.items())
    holds = all(own > 0 and one >= own / 2 for one, own in found.values())
    return claim.judged(holds, text, "the first is at least half of the second on every task")


def _ahead(claim: Claim, table: Table, tasks: tuple[str, ...]) -> Verdict:
    rival = LORA if claim is BEATS_LORA else DISTILLED
    found = {task: difference(of_tasks(table, (task,)), "divergence", ABSORBED, rival) for task in tasks}
    found = {task: one for task, one in found.items() if one.n}
    if not found:
        return claim.untested(f"no {rival} was trained.")
    text = f"KL from the prompt, absorbed minus {rival}: " + ", ".join(f"{task} {one}" for task, one in found.items())
    return claim.judged(all(one.high < 0 for one in found.values()), text, "every interval lies below 0")


_JUDGES: tuple[tuple[Claim, Callable[[Claim, Table, tuple[str, ...]], Verdict]], ...] = (
    (KEEPS, _keeps),
    (ACCURATE, _near),
    (LOSSES, _near),
    (BEATS_ZERO, _below),
    (SMALL_RANK, _small),
    (BEATS_LORA, _ahead),
    (BETTER_THAN_LORA, _below),
    (BEATS_DISTILLED, _ahead),
    (OFFSET, _keeps),
)

CLAIMS = tuple(claim for claim, _ in _JUDGES)
