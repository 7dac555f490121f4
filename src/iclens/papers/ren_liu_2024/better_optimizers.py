"""Does attention from better optimizers learn better in context: against softmax attention, and beyond its controls?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from iclens.papers.ren_liu_2024.variant_study import LEVEL, NORMAL, Row, VariantSettings, VariantStudy
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, recipe
from iclens.recipes.lab_runs import lab_run
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

_OURS = "ours: docs/theory/better-optimizers.md"

TASKS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"name": "linear"},
    "sparse": {"name": "sparse-linear", "n_nonzero": 2},
    "relu": {"name": "relu-network", "hidden": 10},
}
"""The synthetic tasks; all with normal inputs of width `d` and labels without noise."""

KINDS = ("kernel ridge", "preconditioned", "delta rule", "momentum")

HELPS = {
    kind: Claim(f"Some setting of {kind} attention trains to a lower error than softmax attention.", _OURS, "asked")
    for kind in KINDS
}
BEYOND = {
    kind: Claim(f"What {kind} attention gains, it gains beyond its own control.", _OURS, "asked") for kind in KINDS
}
BEST = Claim(
    "The best attention from a better optimizer trains to a lower error than each row of regularised and negative "
    "attention.",
    _OURS,
    "asked",
)
TO_THE_END = Claim(
    "A dual model trained to the end (kernel ridge, ρ = 0.9) trains to a lower error than one pass over the pairs "
    "(preconditioned, β = 1).",
    _OURS,
    "asked",
)


@dataclass(frozen=True)
class OptimizerSettings(VariantSettings):
    """The tasks, the layer and its training."""

    n_context: int = chosen(15, "as in the study of Fig. 3, right")
    epochs: int = chosen(100, "as in the study of Fig. 3, right")
    d: int = chosen(5, "width of an input")
    tasks: tuple[str, ...] = chosen(tuple(TASKS), "linear regression, sparse linear regression, networks")
    learning_rate: float = chosen(0.01, "Adam, the same for all rows")
    n_seeds: int = chosen(20, "of weights and prompts together")


def _ridge(strength: float) -> dict[str, Row]:
    options, label = {"strength": strength}, f"ridge, ρ = {strength:g}"
    control = f"its mass, ρ = {strength:g}"
    return {
        label: Row("kernel ridge", "kernel-ridge", options, control),
        control: Row("control", "mass-matched", {"of": "kernel-ridge", "of_options": options}),
    }


def _preconditioned(rate: float) -> dict[str, Row]:
    options, label = {"rate": rate}, f"preconditioned, β = {rate:g}"
    control = f"its mass, β = {rate:g}"
    return {
        label: Row("preconditioned", "preconditioned", options, control),
        control: Row("control", "mass-matched", {"of": "preconditioned", "of_options": options}),
    }


def _delta(rate: float) -> dict[str, Row]:
    control = f"Hebbian, β = {rate:g}"
    return {
        f"delta, β = {rate:g}": Row("delta rule", "delta-rule", {"rate": rate}, control),
        control: Row("control", "hebbian", {"rate": rate}),
    }


def _momentum(momentum: float) -> dict[str, Row]:
    control = f"mirrored, μ = {momentum:g}"
    return {
        f"momentum, μ = {momentum:g}": Row("momentum", "momentum", {"momentum": momentum}, control),
        control: Row("control", "momentum", {"momentum": momentum, "mirrored": True}),
    }


@recipe("better-optimizers")
class BetterOptimizers(VariantStudy):
    """One layer of attention with one head, trained on prompts of 15 demonstrations and a query it may not attend to.

    Tokens are (x, y), the query's label starts at 0, and the loss is the squared error of the query's answer. The keys
    are the demonstrations' alone: they are what the inner optimizer trains on, in every row. Every row is trained with
    the same seeds, so that a row and the normal one see the same prompts from the same initial weights, and differences
    are paired by seed. The p-values are corrected for looking at all rows of a task (sign flips of whole seeds, largest
    mean), the intervals for all winners (Bonferroni). Claims, rows and controls were fixed before anything was trained.
    """

    title = "Attention from better optimizers, on synthetic tasks"
    reference = "ours, after Ren & Liu 2024 (arXiv 2310.13220) and LUCID (arXiv 2602.10410)"
    claims = (*HELPS.values(), *BEYOND.values(), BEST, TO_THE_END)
    quick = Preset(OptimizerSettings(tasks=("linear",), epochs=50, steps_per_epoch=4, batch=32, n_seeds=8), seconds=40)
    paper = Preset(OptimizerSettings(), seconds=2700)
    more: ClassVar = {"short": Preset(OptimizerSettings(epochs=30, n_seeds=10), seconds=400)}
    rows: ClassVar = {
        "normal": NORMAL,
        "regularised, α = 0.1": Row("baseline", "regularized", {"alpha": 0.1}),
        "regularised, α = −0.5": Row("baseline", "regularized", {"alpha": -0.5}),
        "negative, k = 1, β = 0.1": Row("baseline", "negative", {"n_negatives": 1, "beta": 0.1}),
        "negative, k = 3, β = 0.5": Row("baseline", "negative", {"n_negatives": 3, "beta": 0.5}),
        **_ridge(0.5),
        **_ridge(0.9),
        **_ridge(0.99),
        **_preconditioned(0.5),
        **_preconditioned(1.0),
        **_delta(0.5),
        **_delta(1.0),
        **_momentum(0.5),
        **_momentum(0.9),
    }

    def config(  # noqa: D102
        self, settings: VariantSettings, task: str, variant: str, options: Mapping[str, Any], seed: int
    ) -> RunConfig:
        bare = {"tokens": "joint", "norm": "none", "embed": False, "bias": False, "residual": False}
        attention = {"attention": variant, "attention_options": dict(options), "query_in_keys": False}
        steps = settings.epochs * settings.steps_per_epoch
        return lab_run(
            settings,
            seed,
            {**TASKS[task], "d": settings.d},
            {"name": "transformer", "width": settings.d + 1, **bare, **attention},
            steps=steps,
            loss="query",
            schedule="cosine",
            warmup=min(50, steps // 4),
            clip=1.0,
            evaluate_every=max(1, steps // 2),
            evaluation_prompts=2000,
        )

    def bearing(self, part: Part, settings: VariantSettings) -> VariantSettings:
        """All settings but which other tasks there are."""
        return dataclasses.replace(settings, tasks=tuple(TASKS))

    def check(self, table: Table, settings: VariantSettings) -> list[Verdict]:
        """Paired differences to softmax attention, to each winner's own control, to the baselines, and end to pass."""
        return [
            *(self.helps(claim, table, settings, kind) for kind, claim in HELPS.items()),
            *(self._beyond(claim, table, settings, kind) for kind, claim in BEYOND.items()),
            self._best(table, settings),
            self._to_the_end(table, settings),
        ]

    def _beyond(self, claim: Claim, table: Table, settings: VariantSettings, kind: str) -> Verdict:
        level = LEVEL / len(settings.tasks)
        winners = [one for one in self.winners(table, settings, kind) if one.p < level]
        if not winners:
            return claim.untested(f"No row of {kind} beat softmax attention, so there is nothing to explain.")
        held = [one.task for one in winners if one.beyond.low > 0]
        return claim.judged(
            bool(held),
            "; ".join(
                f"{one.task}, {one.row}: {one.beyond:.1f} % of softmax's error below its control" for one in winners
            ),
            "the interval of the winner's gain over its own control, corrected for all kinds and tasks, lies above 0",
            "" if len(held) == len(winners) else f"the task is {' or '.join(held)}",
        )

    def _best(self, table: Table, settings: VariantSettings) -> Verdict:
        """Return whether the best row of all kinds is below the best baseline, on which tasks."""
        n_tasks, said, held = len(settings.tasks), [], []
        ours = [row for row in self.rows if self.rows[row].kind in KINDS]
        baselines = [row for row in self.rows if self.rows[row].kind == "baseline"]
        for task in settings.tasks:
            errors = self.errors(table, task)
            best = min(ours, key=lambda row: float(errors[row].mean()))
            base = min(baselines, key=lambda row: float(errors[row].mean()))
            gain = 100 * (errors[base] - errors[best]) / errors["normal"].mean()
            # Any row of ours could have been the best, on any task.
            found = over_seeds(torch.from_numpy(gain), len(ours) * n_tasks)
            said.append(f"{task}: {best} is {found:.1f} % of softmax's error below {base}")
            if found.low > 0:
                held.append(task)
        return BEST.judged(
            bool(held),
            "; ".join(said),
            "the 95 % interval of the gain over the best of them, paired by seed and corrected for all rows and tasks "
            "(Bonferroni), lies above 0 on at least one task",
            "" if len(held) == n_tasks else f"the task is {' or '.join(held)}",
        )

    def _to_the_end(self, table: Table, settings: VariantSettings) -> Verdict:
        n_tasks, said, held = len(settings.tasks), [], []
        for task in settings.tasks:
            errors = self.errors(table, task)
            gain = 100 * (errors["preconditioned, β = 1"] - errors["ridge, ρ = 0.9"]) / errors["normal"].mean()
            found = over_seeds(torch.from_numpy(gain), n_tasks)
            said.append(f"{task}: {found:.1f} % of softmax's error")
            if found.low > 0:
                held.append(task)
        return TO_THE_END.judged(
            bool(held),
            "; ".join(said),
            "the 95 % interval of the gain over one pass, paired by seed and corrected for all tasks (Bonferroni), "
            "lies above 0 on at least one task",
            "" if len(held) == n_tasks else f"the task is {' or '.join(held)}",
        )
