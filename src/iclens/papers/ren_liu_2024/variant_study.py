"""Variants of attention in one layer on synthetic tasks: trained with shared seeds, compared in pairs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from iclens.intervals import Estimate
from iclens.recipes.best_of_many import max_statistic, over_seeds
from iclens.recipes.contract import Part, Progress, Recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.lab_runs import lab_run, train_all
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen, require_counts, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

TASKS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"name": "linear", "inputs": "uniform"},
    "trigonometric": {"name": "trigonometric"},
    "exponential": {"name": "exponential"},
    "classes": {"name": "clusters", "n_classes": 3},
}
"""The synthetic tasks; all with inputs of width `d`."""

LEVEL = 0.05
"""Of the p-values, after correction."""

_EPOCHS_PER_TEST = 5

_LEAST_STEPS_PER_TEST = 80
"""Of so few steps and small batches as `quick` has, 20 tests on 2,000 prompts cost more than the training."""

_NOT_JUDGED = ("normal", "control", "baseline")

_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5")


class Row(NamedTuple):
    """One way to attend.

    Attributes:
        kind: what it is shown and judged with; `"normal"` for the row that all are compared with, `"control"` for
            controls, `"baseline"` for other attention that is only compared with.
        variant: registered name.
        options: of the variant.
        control: label of the row's own control; empty where every control counts.
    """

    kind: str
    variant: str
    options: Mapping[str, Any]
    control: str = ""


NORMAL = Row("normal", "softmax", {})


class Winner(NamedTuple):
    """The best row of a kind on a task.

    Attributes:
        task: the task.
        row: its label.
        gain: by how many per cent its error is below normal's, paired by seed.
        p: of a gain above 0, corrected for all rows of the task.
        beyond: by how many per cent of normal's error it is below its own control, or the best of all, paired by seed;
            the interval holds for the winners of all kinds and tasks at once (Bonferroni).
    """

    task: str
    row: str
    gain: Estimate
    p: float
    beyond: Estimate

    def __str__(self) -> str:
        return f"{self.task}: {self.row} lowers the error by {self.gain:.1f} % (p = {self.p:.2g})"


@dataclass(frozen=True)
class VariantSettings:
    """The tasks, the layer and its training."""

    n_context: int = stated(15, "the synthetic experiments")
    epochs: int = stated(100, "the synthetic experiments")
    d: int = chosen(10, "width of an input; a token (x, y) then has 11, for which there are hints in the slides")
    tasks: tuple[str, ...] = chosen(tuple(TASKS), "the paper's could not be read")
    steps_per_epoch: int = chosen(20, "not stated")
    batch: int = chosen(64, "not stated")
    learning_rate: float = chosen(0.01, "Adam; not stated")
    n_seeds: int = chosen(20, "of weights and prompts together; the paper shows no intervals")

    def __post_init__(self) -> None:
        require_counts(self, "n_context", "epochs", "d", "steps_per_epoch", "batch", "n_seeds")


class VariantStudy(Recipe[VariantSettings], abc.ABC):
    """One layer of softmax attention with one head, trained with many variants in its place.

    Attributes:
        rows: label to row; the first is `"normal"`.
    """

    rows: ClassVar[Mapping[str, Row]]

    def kinds(self) -> list[str]:
        """Return the kinds that are judged, in order."""
        return [kind for kind in dict.fromkeys(row.kind for row in self.rows.values()) if kind not in _NOT_JUDGED]

    def parts(self, settings: VariantSettings) -> list[Part]:
        """Return one part per task and row, with all its seeds."""
        return [{"task": task, "row": row} for task in settings.tasks for row in self.rows]

    def measure(self, part: Part, settings: VariantSettings, progress: Progress) -> Table:
        """Training losses and errors on fresh prompts by epoch, and the final error."""
        row = self.rows[str(part["row"])]
        runs = train_all(
            [
                self.config(settings, str(part["task"]), row.variant, row.options, seed)
                for seed in range(settings.n_seeds)
            ],
            progress,
        )
        rows: list[dict[str, float | int | str]] = []
        for seed, run in enumerate(runs):
            errors = []
            for step, name, prefix, value in run.metrics:
                epoch = step / settings.steps_per_epoch
                if name == "loss":
                    rows.append({"seed": seed, "epoch": epoch, "loss": value})
                elif name == "error" and prefix is None:
                    rows.append({"seed": seed, "epoch": epoch, "test_error": value})
                    errors.append(value)
            rows.append({"seed": seed, "error": errors[-1], "status": run.status})
        return Table(rows)

    def config(
        self, settings: VariantSettings, task: str, variant: str, options: Mapping[str, Any], seed: int
    ) -> RunConfig:
        """Return the run of a row and seed on a task."""
        classes = task == "classes"
        bare = {"tokens": "joint", "norm": "none", "embed": False, "bias": False, "residual": False}
        attention = {"attention": variant, "attention_options": dict(options)}
        return lab_run(
            settings,
            seed,
            {**TASKS[task], "d": settings.d},
            {"name": "transformer", "width": settings.d + (3 if classes else 1), **bare, **attention},
            steps=settings.epochs * settings.steps_per_epoch,
            loss="query",
            loss_kind="cross-entropy" if classes else "squared",
            evaluate_every=max(_EPOCHS_PER_TEST * settings.steps_per_epoch, _LEAST_STEPS_PER_TEST),
            evaluation_prompts=2000,
        )

    def winners(self, table: Table, settings: VariantSettings, kind: str) -> list[Winner]:
        """Return the best row of a kind on every task."""
        found = []
        labels = [row for row in self.rows if row != "normal"]
        for task in settings.tasks:
            errors = self.errors(table, task)
            base = errors["normal"].mean()
            gains = np.stack([errors["normal"] - errors[row] for row in labels]) / base
            p_values = max_statistic(torch.from_numpy(gains)).numpy()
            places = [place for place, row in enumerate(labels) if self.rows[row].kind == kind]
            place = places[int(gains[places].mean(1).argmax())]
            own = self.rows[labels[place]].control
            controls = [
                errors[row]
                for row in self.rows
                if (row == own if own else self.rows[row].kind in ("control", "normal"))
            ]
            best = min(controls, key=lambda values: float(values.mean()))
            found.append(
                Winner(
                    task,
                    labels[place],
                    seed_mean(100 * gains[place]),
                    float(p_values[place]),
                    # Any winner of any kind on any task would do.
                    over_seeds(
                        torch.from_numpy(100 * (best - errors[labels[place]]) / base),
                        len(settings.tasks) * len(self.kinds()),
                    ),
                )
            )
        return found

    def helps(self, claim: Claim, table: Table, settings: VariantSettings, kind: str) -> Verdict:
        """Return whether some row of a kind beats normal attention, on which tasks."""
        winners = self.winners(table, settings, kind)
        level = LEVEL / len(settings.tasks)
        won = [one.task for one in winners if one.p < level]
        return claim.judged(
            bool(won),
            "; ".join(map(str, winners)),
            f"on at least one task the best row's gain, paired by seed, has p < {level:g}, corrected for all rows "
            f"({LEVEL} for all tasks)",
            "" if len(won) == len(settings.tasks) else f"the task is {' or '.join(won)}",
        )

    def beyond(self, claim: Claim, table: Table, settings: VariantSettings) -> Verdict:
        """Return whether the rows that beat normal attention also beat every control."""
        level = LEVEL / len(settings.tasks)
        winners = [one for kind in self.kinds() for one in self.winners(table, settings, kind) if one.p < level]
        if not winners:
            return claim.untested("No row beat normal attention, so there is nothing to explain.")
        held = [f"{one.row} on {one.task}" for one in winners if one.beyond.low > 0]
        return claim.judged(
            bool(held),
            "; ".join(f"{one.task}, {one.row}: {one.beyond:.1f} % below the best control" for one in winners),
            "the interval of the winner's gain over the best control, corrected for all winners, lies above 0",
            "" if len(held) == len(winners) else f"it is {' or '.join(held)}",
        )

    def errors(self, table: Table, task: str) -> dict[str, np.ndarray]:
        """Final errors of every row, by seed."""
        final = table.where(task=task).only("error")
        return {row: final.where(row=row).sorted_by("seed").column("error") for row in self.rows}

    def plot(self, table: Table, settings: VariantSettings) -> Figure:
        """Rows: tasks. Columns: training and test curves of each kind against normal, then final errors."""
        kinds = self.kinds()
        figure = new_figure(3.5 * (len(kinds) + 1), 3.4 * len(settings.tasks))
        axes = figure.subplots(len(settings.tasks), len(kinds) + 1, squeeze=False)
        for line, task in zip(axes, settings.tasks, strict=True):
            curves = table.where(task=task).only("loss")
            tests = table.where(task=task).only("test_error")
            for ax, kind in zip(line, kinds, strict=False):
                shown = [label for label, row in self.rows.items() if row.kind in (kind, "normal")]
                for place, label in enumerate(shown):
                    # There are six colours; more lines are dotted.
                    look: dict[str, Any] = {"color": "0.5", "linestyle": "--"} if label == "normal" else {}
                    look = look or {"linestyle": ":" if place > len(_COLOURS) else "-"}
                    band(ax, seed_curve(curves.where(row=label), "epoch", "loss"), label, **look)
                    if len(tests):  # a table of an older version has none
                        test = seed_curve(tests.where(row=label), "epoch", "test_error")
                        ax.plot(test.x, test.mean, ".", color=ax.lines[-1].get_color(), markersize=3)
                said = "training loss; dots: test error" if kind == kinds[0] else ""
                ax.set(xlabel="epoch", ylabel=said, title=f"{task}: {kind}")
                ax.set_yscale("log")
                ax.legend(fontsize="x-small")
            self._final(line[-1], self.errors(table, task), task)
        return figure

    def _final(self, ax: Any, errors: Mapping[str, np.ndarray], task: str) -> None:
        colours = dict(zip([*self.kinds(), "control", "baseline"], _COLOURS, strict=False)) | {"normal": "0.5"}
        for place, (label, row) in enumerate(self.rows.items()):
            found = seed_mean(errors[label] / errors["normal"].mean())
            reach = [[max(found.mean - found.low, 0.0)], [max(found.high - found.mean, 0.0)]]
            ax.errorbar(found.mean, place, xerr=reach, fmt="o", color=colours[row.kind], markersize=4)
        ax.set_yticks(range(len(self.rows)), list(self.rows), fontsize="x-small")
        ax.invert_yaxis()
        ax.axvline(1.0, color="0.5", linewidth=0.8)
        ax.set(xlabel="error / normal's mean error", title=f"{task}: on fresh prompts")
