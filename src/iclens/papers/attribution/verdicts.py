"""Which demonstrations matter: the claims on the gradient step, and what the numbers of the studies say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from iclens.intervals import Estimate
from iclens.papers.attribution.measures import MEASURES, TRUTH, Measured
from iclens.recipes.table import Row, Table
from iclens.recipes.verdict import Claim, Verdict

_QUESTION = "our question: which demonstrations matter"
_asked = partial(Claim, source=_QUESTION, trust="asked")

STEP = "gradient_step"
LASSOS = ("lasso", "lasso_margin")
SHAPLEY = "shapley_sampling"
ATTENTION = ("attention_weights", "attention_rollout")
LEFT_OUT = ("knock_out", "rerun")
RIVALS = (*LASSOS, SHAPLEY, *ATTENTION, *LEFT_OUT)

MAIN, ALONE, REDUNDANT, CONFLICTING, TWO_HOPS, DEEP = (
    "bundled",
    "alone",
    "redundant",
    "conflicting",
    "two-hops",
    "deep-8",
)
CONTRADICTING, FIRST_HOP = "AUC of contradicting", "AUC of first hop"

FINDS = _asked(
    "The dual models' gradient step ranks the demonstrations that matter at least as well as a Lasso of 64 ablations, "
    "Shapley values, attention weights and leaving one out."
)
DELETES = _asked(
    "Deleting what the gradient step ranks first takes the learner down at least as far as with any of these methods."
)
ONE_PASS = _asked("It does so in one forward pass, without a backward pass.")
FORETELLS = _asked(
    "Its scores predict the margin of shortened prompts as well as the Lasso, which is fitted to such prompts."
)
BLIND = _asked(
    "Leaving one out is blind to redundancy: it finds a demonstration that stands alone, and hardly those that say "
    "what others say too."
)
MANY = _asked(
    "Of twelve demonstrations that say the same the gradient step finds all, where methods that delete or leave out "
    "find few."
)
MANY_DELETED = _asked(
    "Also with twelve that say the same, deleting what it ranks first takes the learner as far down as deleting the "
    "truth itself."
)
CONTRADICTED = _asked(
    "Also where demonstrations contradict each other, it finds those that speak for the answer at least as well as a "
    "Lasso of 64 ablations."
)
AGAINST = _asked("It sees which demonstrations speak against the answer.")
HOPS = _asked("It sees every hop of an answer that takes two.")
DEPTH = _asked("In a learner of 8 layers it finds what matters at least as well as a Lasso of 64 ablations.")

AUC_MARGIN = 0.01
REMOVED_MARGIN = 0.02
LDS_MARGIN = 0.03
FOUND, BARELY, SEES_AGAINST = 0.95, 0.75, 0.25
"""An AUC from which on a method finds, up to which it hardly does, and up to which it sees what speaks against."""


def judged(table: Table) -> list[Verdict]:
    """Return a verdict on each of `CLAIMS`, from rows of one prompt and method each, with `study`."""
    found = {study: measured_of(table, study) for study in (MAIN, ALONE, REDUNDANT, CONFLICTING, TWO_HOPS, DEEP)}
    verdicts = []
    for claim, judge, studies, methods in _JUDGES:
        absent = [study for study in studies if not found[study]]
        lacking = [name for name in methods if any(name not in found[study] for study in studies)]
        if absent:
            verdicts.append(claim.untested(_ABSENT.get(absent[0], f"no prompt of the study {absent[0]} was measured.")))
        elif lacking:
            verdicts.append(claim.untested(f"without {', '.join(lacking)} it cannot be judged."))
        else:
            verdicts.append(judge(*(found[study] for study in studies)))
    return verdicts


def measured_of(table: Table, study: str) -> dict[str, Measured]:
    """Return what every method did on the prompts of a study, in their order; `TRUTH` last."""
    rows: dict[str, list[Row]] = {}
    for row in table.where(study=study):
        rows.setdefault(str(row["method"]), []).append(row)
    found: dict[str, Measured] = {}
    for method, of_method in rows.items():
        own = Table(of_method).sorted_by("prompt")
        names = [name for name in own.names if name in MEASURES or name.startswith("AUC of")]
        forward, backward = (
            float(own.column(name).mean()) if name in own.names else float("nan")
            for name in ("forward_passes", "backward_passes")
        )
        measures = {name: torch.from_numpy(own.column(name)) for name in names}
        found[method] = Measured(measures, forward, backward, seconds=float("nan"))
    return found


def _means(found: dict[str, Measured], names: Sequence[str], measure: str) -> str:
    return ", ".join(f"{name} {found[name].of(measure)}" for name in names if name in found)


def _worst(found: dict[str, Measured], rivals: Sequence[str], measure: str, sign: int) -> tuple[str, Estimate]:
    """The rival against which the gradient step does worst, and the paired difference, the step minus the rival."""
    differences = {rival: found[STEP].against(found[rival], measure) for rival in rivals if rival in found}
    rival = min(differences, key=lambda name: sign * differences[name].mean)
    return rival, differences[rival]


def _finds(main: dict[str, Measured]) -> Verdict:
    rival, difference = _worst(main, RIVALS, "auc", +1)
    return FINDS.judged(
        difference.low >= -AUC_MARGIN and main[STEP].of("auc").low >= FOUND,
        f"AUC: {_means(main, (STEP, *RIVALS, 'random'), 'auc')}; gradient step minus {rival}, the best: {difference}",
        f"the gradient step's AUC is at least {FOUND} and, compared with the best rival, its interval excludes being "
        f"worse by more than {AUC_MARGIN}",
    )


def _deletes(main: dict[str, Measured]) -> Verdict:
    rival, difference = _worst(main, RIVALS, "removed", -1)
    random = main[STEP].against(main["random"], "removed")
    return DELETES.judged(
        difference.high <= REMOVED_MARGIN and random.high <= -0.5,
        f"right after deleting: {_means(main, (STEP, *RIVALS, 'random', TRUTH), 'removed')}; gradient step minus "
        f"{rival}, the best: {difference}",
        f"at least 0.5 below random deletions and, compared with the best rival, the interval excludes being higher by "
        f"more than {REMOVED_MARGIN}",
    )


def _one_pass(main: dict[str, Measured]) -> Verdict:
    ours = main[STEP]
    names = [name for name in (STEP, *RIVALS) if name in main]
    costs = ", ".join(f"{name} {main[name].forward_passes:.3g} + {main[name].backward_passes:.3g}" for name in names)
    return ONE_PASS.judged(
        ours.forward_passes == 1 and ours.backward_passes == 0,
        f"forward + backward passes a prompt: {costs}",
        "exactly 1 forward and 0 backward passes, counted",
    )


def _foretells(main: dict[str, Measured]) -> Verdict:
    rival, difference = _worst(main, LASSOS, "lds", +1)
    random = main[STEP].against(main["random"], "lds")
    return FORETELLS.judged(
        difference.low >= -LDS_MARGIN and random.low > LDS_MARGIN,
        f"LDS: {_means(main, (STEP, *LASSOS, 'random', TRUTH), 'lds')}; gradient step minus {rival}: {difference}, "
        f"minus random: {random}",
        f"the intervals exclude being worse than the Lasso by more than {LDS_MARGIN}, and than random scores plus "
        f"{LDS_MARGIN}",
    )


def _blind(several: dict[str, Measured], alone: dict[str, Measured]) -> Verdict:
    finds = all(alone[name].of("auc").low >= FOUND for name in LEFT_OUT)
    fails = all(several[name].of("auc").high <= BARELY for name in LEFT_OUT)
    return BLIND.judged(
        finds and fails,
        f"AUC with one that matters: {_means(alone, LEFT_OUT, 'auc')}; with 2 to 4 that say the same: "
        f"{_means(several, LEFT_OUT, 'auc')}",
        f"both at least {FOUND} with one and at most {BARELY} with several, with their intervals",
    )


def _many(many: dict[str, Measured]) -> Verdict:
    others = (*LASSOS, SHAPLEY, *LEFT_OUT)
    return MANY.judged(
        many[STEP].of("auc").low >= FOUND and all(many[name].of("auc").high <= BARELY for name in others),
        f"AUC: {_means(many, (STEP, *others), 'auc')}",
        f"the gradient step's is at least {FOUND} and all others' are at most {BARELY}, with their intervals",
    )


def _many_deleted(many: dict[str, Measured]) -> Verdict:
    difference = many[STEP].against(many[TRUTH], "removed")
    random = many[STEP].against(many["random"], "removed")
    return MANY_DELETED.judged(
        difference.high <= REMOVED_MARGIN and random.high <= -0.5,
        f"right after deleting: {_means(many, (STEP, TRUTH, 'random'), 'removed')}; difference {difference}",
        f"at least 0.5 below random deletions and, compared with the truth, the interval excludes being higher by more "
        f"than {REMOVED_MARGIN}",
    )


def _no_worse_than_lasso(claim: Claim, found: dict[str, Measured]) -> Verdict:
    rival, difference = _worst(found, LASSOS, "auc", +1)
    return claim.judged(
        difference.low >= -AUC_MARGIN and found[STEP].of("auc").low >= FOUND,
        f"AUC: {_means(found, (STEP, *LASSOS, *LEFT_OUT), 'auc')}; gradient step minus {rival}: {difference}",
        f"at least {FOUND} and, compared with the better Lasso, the interval excludes being worse by more than "
        f"{AUC_MARGIN}",
    )


def _against(conflict: dict[str, Measured]) -> Verdict:
    found = conflict[STEP].of(CONTRADICTING)
    return AGAINST.judged(
        found.high <= SEES_AGAINST,
        "AUC of those that speak against the answer, against the indifferent: "
        f"{_means(conflict, (STEP, *LEFT_OUT, *LASSOS), CONTRADICTING)} (0 is right, 0.5 is chance)",
        f"at most {SEES_AGAINST}, with its interval",
    )


def _hops(hops: dict[str, Measured]) -> Verdict:
    found = hops[STEP].of(FIRST_HOP)
    return HOPS.judged(
        found.low >= FOUND and hops[STEP].of("auc").low >= FOUND,
        f"AUC of the first hop: {_means(hops, (STEP, 'knock_out', 'lasso'), FIRST_HOP)}; of both: "
        f"{_means(hops, (STEP, 'knock_out', 'lasso'), 'auc')}",
        f"both at least {FOUND}, with their intervals",
    )


_ABSENT = {DEEP: "this preset trains no learner of 8 layers, which takes 7 minutes."}

# Claim, how it is judged, the studies that this takes, and the methods in each of them.
_JUDGES: tuple[tuple[Claim, Callable[..., Verdict], tuple[str, ...], tuple[str, ...]], ...] = (
    (FINDS, _finds, (MAIN,), (STEP, *RIVALS)),
    (DELETES, _deletes, (MAIN,), (STEP, *RIVALS, "random")),
    (ONE_PASS, _one_pass, (MAIN,), (STEP,)),
    (FORETELLS, _foretells, (MAIN,), (STEP, *LASSOS, "random")),
    (BLIND, _blind, (MAIN, ALONE), LEFT_OUT),
    (MANY, _many, (REDUNDANT,), (STEP, *LASSOS, SHAPLEY, *LEFT_OUT)),
    (MANY_DELETED, _many_deleted, (REDUNDANT,), (STEP, "random")),
    (CONTRADICTED, partial(_no_worse_than_lasso, CONTRADICTED), (CONFLICTING,), (STEP, *LASSOS)),
    (AGAINST, _against, (CONFLICTING,), (STEP,)),
    (HOPS, _hops, (TWO_HOPS,), (STEP,)),
    (DEPTH, partial(_no_worse_than_lasso, DEPTH), (DEEP,), (STEP, *LASSOS)),
)

CLAIMS = tuple(claim for claim, *_ in _JUDGES)
