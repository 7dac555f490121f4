"""Ren & Liu's Table 1: fine-tuning an encoder with the original attention and with every modification of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from iclens.errors import UserError
from iclens.recipes.figures import new_figure
from iclens.recipes.finetune import ORIGINAL, PRESETS, ROWS, SIGNIFICANT, TYPES, task_data
from iclens.recipes.recipe import Part, Progress, Recipe, recipe
from iclens.recipes.recipe import Preset as RecipePreset
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.selection import max_statistic
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.glue import TASKS, TaskData
from iclens.training.finetune import Backbone, load_backbone, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER = "Ren & Liu 2024"
_TABLE = f"{_PAPER}, Table 1; its numbers could not be read"

GLOBAL_BEST = Claim(
    "Fine-tuned with the best of all modifications, an encoder scores higher than with the original attention.",
    _TABLE,
    "asked",
)
LOCAL_BEST = Claim(
    "The best within each type (regularised, augmented, negative) scores higher than the original attention.",
    _TABLE,
    "asked",
)
BEYOND = Claim(
    "The best modification scores higher than the best control: the same change of scale, or as many parameters.",
    "ours: the paper has no controls",
    "asked",
)


@dataclass(frozen=True)
class TableSettings:
    """The grid; a run's own settings are those of the preset of `iclens finetune`."""

    data: str = chosen("glue", '"glue" for the real tasks, "generated" for small ones made by iclens')
    tasks: tuple[str, ...] = stated(tuple(TASKS), "Table 1: CoLA, MRPC, STS-B, RTE")
    preset: str = chosen("paper", "of `iclens finetune`: steps, batch, learning rate, layers, examples")
    rows: tuple[str, ...] = chosen(tuple(ROWS), "the paper's grids as far as they can be read, strengths, controls")
    model: str = chosen("minilm", "the paper's backbone could not be read")
    steps: int = chosen(PRESETS["paper"].settings.n_steps, "of a run")
    n_seeds: int = chosen(5)


@recipe("ren-liu-table-1")
class FinetuneTable(Recipe[TableSettings]):
    """The table of `iclens finetune`: an encoder fine-tuned on GLUE's tasks, once for every attention and seed.

    A row's score is the mean of its task's metrics (CoLA: Matthews; MRPC: F1 and accuracy; STS-B: Pearson and
    Spearman; RTE: accuracy). Gains over the original attention are paired by seed; p-values of the best rows are
    corrected for the choice among all of them (sign flips of whole seeds, largest mean). The quick preset takes small
    generated data, the paper preset real GLUE, which must be installed.
    """

    title = "Fine-tuning with modified attention"
    reference = f"{_PAPER} (arXiv 2310.13220), Table 1"
    claims = (GLOBAL_BEST, LOCAL_BEST, BEYOND)
    quick = RecipePreset(
        TableSettings(
            data="generated",
            tasks=("cola",),
            preset="quick",
            rows=(
                ORIGINAL.name,
                "regularized α=0.5",
                "regularized α=-0.5",
                "augmented g1&g2",
                "negative k=1 β=0.1",
                "negative k=3 β=0.5",
                "control scale 0.5",
                "control parameters g1&g2",
            ),
            steps=20,
            n_seeds=5,
        ),
        seconds=90,
    )
    paper = RecipePreset(TableSettings(), seconds=180_000)

    def parts(self, settings: TableSettings) -> list[Part]:
        """One a task and row, with all its seeds."""
        return [{"task": task, "row": row} for task in settings.tasks for row in settings.rows]

    def measure(self, part: Part, settings: TableSettings, progress: Progress) -> Table:
        """Scores and metrics of every seed; one row with the reason where data or encoder cannot be had."""
        task, row = str(part["task"]), ROWS[str(part["row"])]
        preset = PRESETS[settings.preset]
        try:
            data = _data(task, settings.data, settings.preset)
            backbone = _backbone(settings.model, preset.layers)
        except UserError as error:
            return Table([{"missing": str(error)}])
        run_settings = dataclasses.replace(preset.settings, n_steps=settings.steps)
        rows: list[dict[str, Any]] = []
        for seed in range(settings.n_seeds):
            progress(seed, settings.n_seeds, f"{data.title}, {row.name}")
            made = train(backbone, data, row, seed, run_settings)
            score = sum(made.scores.values()) / len(made.scores)
            named = {"title": data.title, "kind": row.kind, "generated": data.generated, "diverged": made.diverged}
            rows.append({"seed": seed, "score": score, **named, **made.scores})
        return Table(rows)

    def check(self, table: Table, settings: TableSettings) -> list[Verdict]:
        """The best rows, corrected for the choice, and against the controls."""
        if "missing" in table.names:
            why = table.unique("missing")[0]
            return [claim.untested(f"The data or the encoder are missing here: {why}") for claim in self.claims]
        return [_global(table, settings), _local(table, settings), _beyond(table, settings)]

    def plot(self, table: Table, settings: TableSettings) -> Figure:
        """A panel a task: every row's score minus the original's."""
        if "missing" in table.names:
            figure = new_figure(6.0, 1.2)
            ax = figure.subplots()
            ax.set_axis_off()
            ax.set_xlabel("nothing measured")
            ax.text(0.5, 0.5, "Cannot be measured here: the data or the encoder are missing.", ha="center", va="center")
            return figure
        figure = new_figure(5.5 * len(settings.tasks), 1.4 + 0.3 * len(settings.rows))
        axes = figure.subplots(1, len(settings.tasks), squeeze=False)[0]
        colours = dict(zip((*TYPES, "control"), ("C0", "C1", "C2", "0.5"), strict=True))
        for ax, task in zip(axes, settings.tasks, strict=True):
            scores = _scores(table, task, settings)
            names = [name for name in scores if name != ORIGINAL.name]
            for place, name in enumerate(names):
                found = seed_mean(scores[name] - scores[ORIGINAL.name])
                reach = np.nan_to_num([[max(found.mean - found.low, 0.0)], [max(found.high - found.mean, 0.0)]])
                ax.errorbar(found.mean, place, xerr=reach, fmt="o", color=colours[ROWS[name].kind], ms=5)
            ax.set_yticks(range(len(names)), names, fontsize="small")
            ax.invert_yaxis()
            ax.axvline(0.0, color="0.5", linewidth=0.8)
            rows = table.where(task=task)
            source = "GENERATED data, not GLUE" if rows.unique("generated")[0] else "GLUE"
            original = seed_mean(scores[ORIGINAL.name])
            ax.set(
                xlabel="score minus the original's, by seed",
                title=f"{rows.unique('title')[0]}: {source}\noriginal {original:.3f}, {settings.n_seeds} seeds",
            )
        return figure


@cache
def _data(task: str, source: str, preset: str) -> TaskData:
    return task_data(task, source, PRESETS[preset])


@cache
def _backbone(model: str, layers: int | None) -> Backbone:
    return load_backbone(model, layers)


def _scores(table: Table, task: str, settings: TableSettings) -> dict[str, np.ndarray]:
    rows = table.where(task=task)
    return {row: rows.where(row=row).sorted_by("seed").column("score") for row in settings.rows}


def _best(scores: dict[str, np.ndarray], kinds: tuple[str, ...]) -> tuple[str, float, float] | None:
    """Name, mean gain and corrected p of the best row of these kinds; None when the grid has none."""
    names = [name for name in scores if ROWS[name].kind in TYPES]
    chosen_from = [place for place, name in enumerate(names) if ROWS[name].kind in kinds]
    if not chosen_from:
        return None
    gains = np.stack([scores[name] - scores[ORIGINAL.name] for name in names])
    p_values = max_statistic(torch.from_numpy(gains)).numpy()
    place = chosen_from[int(gains[chosen_from].mean(1).argmax())]
    return names[place], float(gains[place].mean()), float(p_values[place])


def _condition(table: Table, held: list[str], n_asked: int) -> str:
    """What the claim holds under: real data of all that was asked need no condition."""
    which = "" if len(held) == n_asked else f"it is {', '.join(held)}"
    generated = "the data are small generated ones, not GLUE" if any(table.unique("generated")) else ""
    return "; ".join(part for part in (generated, which) if part)


def _global(table: Table, settings: TableSettings) -> Verdict:
    held, numbers = [], []
    for task in settings.tasks:
        best = _best(_scores(table, task, settings), TYPES)
        if best is not None:
            numbers.append(f"{_title(table, task)}: {best[0]}, gain {best[1]:+.3f} (p = {best[2]:.2g})")
            if best[2] <= SIGNIFICANT and best[1] > 0:
                held.append(_title(table, task))
    return GLOBAL_BEST.judged(
        bool(held),
        "; ".join(numbers),
        f"the best row's gain, paired by seed, has p ≤ {SIGNIFICANT} after correction for the choice among all rows",
        _condition(table, held, len(settings.tasks)),
    )


def _local(table: Table, settings: TableSettings) -> Verdict:
    held, numbers, asked = [], [], 0
    for task in settings.tasks:
        for kind in TYPES:
            best = _best(_scores(table, task, settings), (kind,))
            if best is None:
                continue
            asked += 1
            numbers.append(f"{_title(table, task)}, {best[0]}: {best[1]:+.3f} (p = {best[2]:.2g})")
            if best[2] <= SIGNIFICANT and best[1] > 0:
                held.append(f"{kind} on {_title(table, task)}")
    return LOCAL_BEST.judged(
        bool(held),
        "; ".join(numbers),
        f"the gain of a type's best row, paired by seed, has p ≤ {SIGNIFICANT} after correction for all rows",
        _condition(table, held, asked),
    )


def _beyond(table: Table, settings: TableSettings) -> Verdict:
    held, numbers, asked = [], [], 0
    for task in settings.tasks:
        scores = _scores(table, task, settings)
        best = _best(scores, TYPES)
        controls = [name for name in scores if ROWS[name].kind == "control"]
        if best is None or not controls:
            continue
        asked += 1
        control = max(controls, key=lambda name: float(scores[name].mean()))
        against = seed_mean(scores[best[0]] - scores[control])
        numbers.append(f"{_title(table, task)}: {best[0]} minus {control} {against:+.3f}")
        if against.low > 0:
            held.append(_title(table, task))
    if not asked:
        return BEYOND.untested("The grid has no control.")
    return BEYOND.judged(
        bool(held),
        "; ".join(numbers),
        "the 95 % interval of the difference, paired by seed, lies above 0",
        _condition(table, held, asked),
    )


def _title(table: Table, task: str) -> str:
    """The task's name, marked where its data are generated."""
    return str(table.where(task=task).unique("title")[0])
