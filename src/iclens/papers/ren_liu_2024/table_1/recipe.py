"""Ren & Liu's Table 1: fine-tuning an encoder with the original attention and with every modification of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.best_of_many import (
    ORIGINAL,
    PRESETS,
    ROWS,
    SIGNIFICANT,
    TYPES,
    Best,
    best_row,
    fold_scores,
    task_data,
)
from iclens.papers.ren_liu_2024.table_1.glue import TASKS, TaskData
from iclens.papers.ren_liu_2024.table_1.training import Backbone, load_backbone, train
from iclens.recipes.contract import Part, Progress, Recipe, recipe
from iclens.recipes.contract import Preset as RecipePreset
from iclens.recipes.figures import new_figure
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

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
    n_seeds: int = chosen(8, "with fewer no p of sign flips reaches 0.05 / 4 beside a row that is worse at every seed")


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
            n_seeds=6,
        ),
        seconds=100,
    )
    paper = RecipePreset(TableSettings(), seconds=290_000, needs_gpu="80 hours of a CPU core")
    revision = 2

    def lacking(self, settings: TableSettings) -> str:
        """Why the data or the encoder cannot be had."""
        try:
            for task in settings.tasks:
                self.data(task, settings)
            self.backbone(settings)
        except UserError as error:
            return f"The data or the encoder are missing here: {error}"
        return ""

    def data(self, task: str, settings: TableSettings) -> TaskData:
        """Load or generate the examples of a task."""
        return _data(task, settings.data, settings.preset)

    def backbone(self, settings: TableSettings) -> Backbone:
        """Load the encoder."""
        return _backbone(settings.model, PRESETS[settings.preset].layers)

    trained = staticmethod(train)

    def parts(self, settings: TableSettings) -> list[Part]:
        """One a task and row, with all its seeds."""
        return [{"task": task, "row": row} for task in settings.tasks for row in settings.rows]

    def measure(self, part: Part, settings: TableSettings, progress: Progress) -> Table:
        """Scores and metrics of every seed, also on halves of the validation examples."""
        task, row = str(part["task"]), ROWS[str(part["row"])]
        preset = PRESETS[settings.preset]
        data, backbone = self.data(task, settings), self.backbone(settings)
        run_settings = dataclasses.replace(preset.settings, n_steps=settings.steps)
        rows: list[dict[str, Any]] = []
        for seed in range(settings.n_seeds):
            progress(seed, settings.n_seeds, f"{data.title}, {row.name}")
            made = self.trained(backbone, data, row, seed, run_settings, self.device(settings))
            score = sum(made.scores.values()) / len(made.scores)
            named = {"title": data.title, "kind": row.kind, "generated": data.generated, "diverged": made.diverged}
            rows.append({"seed": seed, "score": score, **named, **made.scores})
            rows += [
                {"seed": seed, "fold": fold, "chooses": chooses, "reports": reports}
                for fold, (chooses, reports) in enumerate(fold_scores(data, [made.predictions])[0].tolist())
            ]
        return Table(rows)

    def check(self, table: Table, settings: TableSettings) -> list[Verdict]:
        """The best rows, corrected for the choice, and against the controls."""
        return [_global(table, settings), _local(table, settings), _beyond(table, settings)]

    def plot(self, table: Table, settings: TableSettings) -> Figure:
        """A panel a task: every row's score minus the original's."""
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
            rows = table.where(task=task).only("score")
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
    rows = table.where(task=task).only("score")
    return {row: rows.where(row=row).sorted_by("seed").column("score") for row in settings.rows}


def _folds(table: Table, task: str, settings: TableSettings) -> dict[str, torch.Tensor]:
    rows = table.where(task=task).only("fold")
    found = {}
    for name in settings.rows:
        one = rows.where(row=name).sorted_by("seed", "fold")
        pair = np.stack([one.column("chooses"), one.column("reports")], -1)
        found[name] = torch.from_numpy(pair.reshape(settings.n_seeds, -1, 2))
    return found


def _best(
    table: Table, task: str, settings: TableSettings, kinds: tuple[str, ...], against: str = ORIGINAL.name
) -> Best | None:
    """The best row of these kinds, corrected for the choice among all modifications; None when the grid has none."""
    every = [name for name in settings.rows if ROWS[name].kind in TYPES]
    names = [name for name in every if ROWS[name].kind in kinds]
    if not names:
        return None
    scores = {name: torch.from_numpy(values) for name, values in _scores(table, task, settings).items()}
    return best_row(" or ".join(kinds), names, scores, _folds(table, task, settings), every, against)


def _said(best: Best, of: str = ", gain") -> str:
    return f"{best.row}{of} {best.gain.mean:+.3f} (p = {best.p:.2g}; nested gain {best.nested.gain:+.3f})"


def _test(n_tasks: int, gain: str = "the gain") -> str:
    level = f"{SIGNIFICANT}" if n_tasks == 1 else f"{SIGNIFICANT} / {n_tasks} (one task would do)"
    return (
        f"{gain}, paired by seed, has p ≤ {level} after correction for the choice among all rows, and on seeds and "
        "examples that did not choose its 95 % interval lies above 0"
    )


def _condition(table: Table, held: list[str], n_asked: int) -> str:
    """What the claim holds under: real data of all that was asked need no condition."""
    which = "" if len(held) == n_asked else f"it is {', '.join(held)}"
    generated = "the data are small generated ones, not GLUE" if any(table.only("score").unique("generated")) else ""
    return "; ".join(part for part in (generated, which) if part)


def _global(table: Table, settings: TableSettings) -> Verdict:
    held, numbers, n_tasks = [], [], len(settings.tasks)
    for task in settings.tasks:
        best = _best(table, task, settings, TYPES)
        if best is not None:
            numbers.append(f"{_title(table, task)}: {_said(best)}")
            if best.beats(n_tasks):
                held.append(_title(table, task))
    return GLOBAL_BEST.judged(bool(held), "; ".join(numbers), _test(n_tasks), _condition(table, held, n_tasks))


def _local(table: Table, settings: TableSettings) -> Verdict:
    held, numbers, asked, n_tasks = [], [], 0, len(settings.tasks)
    for task in settings.tasks:
        for kind in TYPES:
            best = _best(table, task, settings, (kind,))
            if best is None:
                continue
            asked += 1
            numbers.append(f"{_title(table, task)}: {_said(best)}")
            # The correction for all rows serves all types of a task at once.
            if best.beats(n_tasks):
                held.append(f"{kind} on {_title(table, task)}")
    return LOCAL_BEST.judged(bool(held), "; ".join(numbers), _test(n_tasks), _condition(table, held, asked))


def _beyond(table: Table, settings: TableSettings) -> Verdict:
    held, numbers, asked, n_tasks = [], [], 0, len(settings.tasks)
    for task in settings.tasks:
        scores = _scores(table, task, settings)
        controls = [name for name in scores if ROWS[name].kind == "control"]
        if not controls:
            continue
        # The choice of the control is against the claim and needs no correction; that of the row is for it.
        control = max(controls, key=lambda name: float(scores[name].mean()))
        best = _best(table, task, settings, TYPES, control)
        if best is None:
            continue
        asked += 1
        numbers.append(f"{_title(table, task)}: {_said(best, f' minus {control}')}")
        if best.beats(n_tasks):
            held.append(_title(table, task))
    if not asked:
        return BEYOND.untested("The grid has no control.")
    return BEYOND.judged(
        bool(held),
        "; ".join(numbers),
        _test(n_tasks, "the gain over the control"),
        _condition(table, held, asked),
    )


def _title(table: Table, task: str) -> str:
    """The task's name, marked where its data are generated."""
    return str(table.where(task=task).only("score").unique("title")[0])
