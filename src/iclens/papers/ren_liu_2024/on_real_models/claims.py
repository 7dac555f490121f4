"""Whether modified attention helps a model that learns in context, and whether the numbers bear it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from iclens.papers.ren_liu_2024.on_real_models.gains import ACCURACY, LOSS, PUT_IN, TUNED, Measured, Unit, over_sets
from iclens.papers.ren_liu_2024.on_real_models.modifications import (
    AUGMENTED,
    CONTROLS,
    NEGATIVE,
    PLAIN,
    REGULARIZED,
    Modification,
    fine_tuned,
    put_in,
)
from iclens.papers.ren_liu_2024.on_real_models.settings import ModifiedSettings
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_asked = partial(
    Claim, source="Ren & Liu 2024 propose the modifications; the question on a real model is ours", trust="asked"
)

KINDS = {PUT_IN: (REGULARIZED, NEGATIVE), TUNED: (REGULARIZED, AUGMENTED, NEGATIVE)}
MODIFICATIONS = {PUT_IN: put_in, TUNED: fine_tuned}

CONTROL = "control"
Asked = tuple[str, str, str]
"""A study, a kind, and what is asked of it: its log-loss, its accuracy, or the comparison with its control."""

_BEGINS = {
    PUT_IN: "Put into a real model without training",
    TUNED: "Fine-tuned for a short while as plain attention is",
}
_SAYS = {
    LOSS: "{kind} attention lowers the log-loss of in-context learning against plain attention",
    ACCURACY: "{kind} attention raises the accuracy of in-context learning against plain attention",
    CONTROL: "{kind} attention has a lower log-loss than its control ({control})",
}
_CONTROL = {
    REGULARIZED: "the same change of scale",
    NEGATIVE: "the same change of scale",
    AUGMENTED: "as many parameters behind the head",
}

LEARNT = _asked(
    "The short fine-tuning itself lowers the log-loss of plain attention on tasks that it does not train on."
)
CLAIM: dict[Asked, Claim] = {
    (study, kind, what): _asked(
        f"{_BEGINS[study]}, {says.format(kind=kind.replace('ized', 'ised'), control=_CONTROL[kind])}."
    )
    for study, kinds in KINDS.items()
    for kind in kinds
    for what, says in _SAYS.items()
}
CLAIMS = (*(CLAIM[asked] for asked in CLAIM if asked[0] == PUT_IN), LEARNT,
          *(CLAIM[asked] for asked in CLAIM if asked[0] == TUNED))  # fmt: skip


def judged(table: Table, settings: ModifiedSettings) -> list[Verdict]:
    """A verdict on each of `CLAIMS`."""
    found = {study: Measured.of(table, study) for study in KINDS}
    verdicts = {claim: _judged(asked, claim, found[asked[0]], settings) for asked, claim in CLAIM.items()}
    verdicts[LEARNT] = _learnt(found)
    return [verdicts[claim] for claim in CLAIMS]


def _judged(asked: Asked, claim: Claim, found: Measured, settings: ModifiedSettings) -> Verdict:
    study, kind, what = asked
    own = _measured(MODIFICATIONS[study](settings), found, kind)
    controls = _measured(MODIFICATIONS[study](settings), found, CONTROLS[kind])
    if not own or len({number for _, number in found.units}) < 2:
        return claim.untested(f"{kind} attention was not measured beside plain attention on two sets of every task.")
    picks = found.picks(list(own))
    if what != CONTROL:
        return _against_plain(claim, found, picks, what, study)
    matched = {number: own[name].matched for number, name in picks.items()}
    if not controls or not set(matched.values()) <= controls.keys():
        return claim.untested("its controls were not measured.")
    return _against_controls(claim, found, picks, {"its own": matched, "the best": found.picks(list(controls))}, study)


def _against_plain(claim: Claim, found: Measured, picks: Mapping[int, str], what: str, study: str) -> Verdict:
    gain = over_sets(found.gains(picks, what), len(KINDS[study]))
    seeds = [over_sets(found.gains(picks, what, seed=seed)).mean for seed in found.seeds]
    plain = sum(found.mean(PLAIN.name, one, what) for one in found.units) / len(found.units)
    tasks = list(dict.fromkeys(task for task, _ in found.units))
    by_task = (f"{task} {over_sets(found.gains(picks, what, task=task)).mean:+.3f}" for task in tasks)
    name, gained = ("log-loss", f"{gain:+.3f} nats") if what == LOSS else ("accuracy", f"{gain:+.3f}")
    text = (
        f"{name} of plain attention {plain:.3f}; gain {gained}, {gain.n} sets of {len(tasks)} tasks; chosen: "
        f"{_named(picks)}; by task {', '.join(by_task)}"
    )
    if study == TUNED:
        text += "; by seed " + ", ".join(f"{one:+.3f}" for one in seeds)
    return claim.judged(gain.low > 0 and all(one > 0 for one in seeds), text, _test(study, "the mean gain"))


def _against_controls(
    claim: Claim, found: Measured, picks: Mapping[int, str], others: Mapping[str, Mapping[int, str]], study: str
) -> Verdict:
    text, held = [], []
    for name, against in others.items():
        gain = over_sets(found.gains(picks, LOSS, against), len(KINDS[study]))
        seeds = [over_sets(found.gains(picks, LOSS, against, seed)).mean for seed in found.seeds]
        held.append(gain.low > 0 and all(one > 0 for one in seeds))
        text.append(f"below {name} control ({_named(against)}) by {format(gain, '+.3f')} nats")
    return claim.judged(
        all(held),
        f"chosen: {_named(picks)}; " + "; ".join(text),
        _test(study, "by how much its log-loss is below that of the control of its strength and layers, and below that "
              "of the control that is chosen in the same way,"),
    )  # fmt: skip


def _learnt(found: Mapping[str, Measured]) -> Verdict:
    before, after = found[PUT_IN], found[TUNED]
    units = [unit for unit in after.units if unit in before.units]
    if len(units) < 2:
        return LEARNT.untested("plain attention was not measured on two sets before and after fine-tuning.")
    gains = {seed: _differences(before, after, units, seed) for seed in after.seeds}
    gain = over_sets([sum(some) / len(some) for some in zip(*gains.values(), strict=True)])
    means = [sum(one) / len(one) for one in gains.values()]
    return LEARNT.judged(
        gain.low > 0 and all(one > 0 for one in means),
        f"log-loss lower by {format(gain, '+.3f')} nats, {gain.n} sets; by seed "
        + ", ".join(f"{one:+.3f}" for one in means),
        "the mean gain has a 95 % interval above 0, and is above 0 at every seed",
    )


def _differences(before: Measured, after: Measured, units: Sequence[Unit], seed: int) -> list[float]:
    plain = PLAIN.name
    return [before.mean(plain, unit, LOSS) - after.mean(plain, unit, LOSS, seed) for unit in units]


def _test(study: str, what: str) -> str:
    seeds = "" if study == PUT_IN else ", and is above 0 at every seed"
    return (
        f"{what} with strength and layers chosen by log-loss on the sets of other numbers has an interval above 0: "
        f"Student's t over sets of demonstrations, for all {len(KINDS[study])} kinds at once (95 %, Bonferroni){seeds}"
    )


def _measured(modifications: Mapping[str, Modification], found: Measured, kind: str) -> dict[str, Modification]:
    return {name: one for name, one in modifications.items() if one.kind == kind and name in found.numbers}


def _named(picks: Mapping[int, str]) -> str:
    counts = Counter(picks.values())
    return ", ".join(
        name + (f" ({count} of {len(picks)})" if len(counts) > 1 else "") for name, count in counts.items()
    )
