"""Ren & Liu's Table 1: fine-tuning an encoder with the original attention and with every modification of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch

from iclens.errors import UserError
from iclens.intervals import Estimate
from iclens.papers.ren_liu_2024.table_1.backbone import Backbone, load_backbone
from iclens.papers.ren_liu_2024.table_1.best_of_many import SIGNIFICANT, Best, best_row, fold_scores
from iclens.papers.ren_liu_2024.table_1.glue import TABLE_1, TaskData, task_named
from iclens.papers.ren_liu_2024.table_1.rows import ORIGINAL, PAPERS_ROWS, PRESETS, ROWS, TYPES, chosen_rows, task_data
from iclens.papers.ren_liu_2024.table_1.training import Settings, seconds_per_run, train
from iclens.recipes.contract import Part, Progress, Recipe, recipe
from iclens.recipes.contract import Preset as RecipePreset
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, option, place, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

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
    """The grid; the rest of a run's settings are those of `PRESETS`.

    Raises:
        UserError: an unknown task, preset or row, or fewer than one step or seed.
    """

    data: str = place(
        "glue", 'a folder with GLUE\'s files, "glue" for the hub, "generated" for small ones made by iclens'
    )
    tasks: tuple[str, ...] = stated(TABLE_1, "Table 1: CoLA, MRPC, STS-B, RTE")
    preset: str = chosen("paper", "batch, learning rate, layers, examples")
    rows: tuple[str, ...] = chosen(tuple(ROWS), "the paper's grids as far as they can be read, strengths, controls")
    model: str = place("minilm", "the paper's backbone could not be read")
    steps: int = chosen(PRESETS["paper"].settings.n_steps, "of a run")
    n_seeds: int = chosen(8, "with fewer no p of sign flips reaches 0.05 / 4 beside a row that is worse at every seed")
    device: str = option("", "cpu or cuda; by the preset when empty")

    def __post_init__(self) -> None:
        for task in self.tasks:
            task_named(task)
        if self.preset not in PRESETS:
            raise UserError(f"preset={self.preset!r} is not known. Known: {', '.join(PRESETS)}.")
        # A kind stands for its rows.
        object.__setattr__(self, "rows", tuple(row.name for row in chosen_rows(self.rows)))
        for name in ("steps", "n_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: it must be at least 1.")


@recipe("ren-liu-table-1")
class FinetuneTable(Recipe[TableSettings]):
    """An encoder fine-tuned on GLUE's tasks, once for every attention and seed.

    A row's score is the mean of its task's metrics (CoLA: Matthews; MRPC: F1 and accuracy; STS-B: Pearson and
    Spearman; RTE: accuracy). Gains over the original attention are paired by seed; p-values of the best rows are
    corrected for the choice among all of them (sign flips of whole seeds, largest mean). The quick preset takes small
    generated data; the presets small and paper take real GLUE, which must be at hand (data=FOLDER).
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
    more: ClassVar = {
        "small": RecipePreset(
            TableSettings(
                tasks=("stsb", "mrpc", "cola"),
                preset="small",
                rows=PAPERS_ROWS,
                steps=PRESETS["small"].settings.n_steps,
            ),
            seconds=65_000,
        )
    }
    revision = 3

    def lacking(self, settings: TableSettings) -> str:
        """Why the data or the encoder cannot be had."""
        try:
            for task in settings.tasks:
                self.data(task, settings)
            self.backbone(settings)
        except UserError as error:
            return f"The data or the encoder are missing here: {error}"
        return ""

    def inputs(self, settings: TableSettings) -> str:
        """The examples' and the encoder's digests."""
        data = [self.data(task, settings).digest for task in settings.tasks]
        return "-".join([self.backbone(settings).digest, *data])

    def device(self, settings: TableSettings) -> str:
        """Where runs are trained."""
        return settings.device or super().device(settings)

    def estimate(self, settings: TableSettings, preset: RecipePreset[TableSettings]) -> float:
        """By a timed step of every task and kind of row."""
        return sum(self.seconds_by_part(settings, preset))

    def seconds_by_part(self, settings: TableSettings, preset: RecipePreset[TableSettings]) -> list[float]:
        """By a timed step of every task and kind of row."""
        backbone, device = self.backbone(settings), self.device(settings)
        seconds: dict[tuple[str, str, str | None], float] = {}
        found = []
        for part in self.parts(settings):
            task, row = str(part["task"]), ROWS[str(part["row"])]
            like = (task, row.kind, row.variant)
            if like not in seconds:
                seconds[like] = self.timed(backbone, self.data(task, settings), row, _of_run(settings), device)
            found.append(seconds[like])
        return found

    def data(self, task: str, settings: TableSettings) -> TaskData:
        """Load or generate the examples of a task."""
        return _data(task, settings.data, settings.preset)

    def backbone(self, settings: TableSettings) -> Backbone:
        """Load the encoder."""
        return _backbone(settings.model, PRESETS[settings.preset].layers)

    trained, timed = staticmethod(train), staticmethod(seconds_per_run)

    def parts(self, settings: TableSettings) -> list[Part]:
        """One a run: seed after seed of a task, so that what is finished early is whole rows of few seeds."""
        grid = product(settings.tasks, range(settings.n_seeds), settings.rows)
        return [{"task": task, "seed": seed, "row": row} for task, seed, row in grid]

    def bearing(self, part: Part, settings: TableSettings) -> TableSettings:
        """A run is the same whatever other tasks, rows and seeds are asked for."""
        return dataclasses.replace(settings, tasks=(str(part["task"]),), rows=(str(part["row"]),), n_seeds=1)

    def measure(self, part: Part, settings: TableSettings, progress: Progress) -> Table:
        """Score and metrics of a run, also on halves of the validation examples."""
        task, row, seed = str(part["task"]), ROWS[str(part["row"])], int(str(part["seed"]))
        data, backbone = self.data(task, settings), self.backbone(settings)
        progress(0, 1, f"{data.title}, {row.name}, seed {seed}")
        made = self.trained(backbone, data, row, seed, _of_run(settings), self.device(settings))
        score = sum(made.scores.values()) / len(made.scores)
        named = {"title": data.title, "kind": row.kind, "generated": data.generated, "diverged": made.diverged}
        folds = enumerate(fold_scores(data, [made.predictions])[0].tolist())
        return Table(
            [
                {"score": score, **named, **made.scores, "n_parameters": made.n_parameters},
                *({"fold": fold, "chooses": chooses, "reports": reports} for fold, (chooses, reports) in folds),
            ]
        )

    def check(self, table: Table, settings: TableSettings) -> list[Verdict]:
        """The best rows, corrected for the choice, and against the controls."""
        return _verdicts(table, settings)

    def summaries(self, table: Table, settings: TableSettings) -> dict[str, Table]:
        """Every row's metrics and its difference to the original, task by task; then the best rows."""
        found = {}
        for task in settings.tasks:
            what = f"{_title(table, task)}: {_source(table, task)}"
            found[f"{what}. Means with 95 % intervals over {settings.n_seeds} seeds"] = Table(
                _metric_rows(table, task, settings)
            )
        best = [row for task in settings.tasks for row in _best_rows(table, task, settings)]
        return found | {"Best of many: the choice biases the plain gain, not the corrected columns": Table(best)}

    def plot(self, table: Table, settings: TableSettings) -> Figure:
        """A panel a task: every row's score minus the original's."""
        figure = new_figure(5.5 * len(settings.tasks), 1.4 + 0.3 * len(settings.rows))
        axes = figure.subplots(1, len(settings.tasks), squeeze=False)[0]
        colours = dict(zip((*TYPES, "control"), ("C0", "C1", "C2", "0.5"), strict=True))
        for ax, task in zip(axes, settings.tasks, strict=True):
            scores = _scores(table, task, settings)
            names = [name for name in scores if name != ORIGINAL.name]
            for height, name in enumerate(names):
                found = seed_mean(scores[name] - scores[ORIGINAL.name])
                reach = np.nan_to_num([[max(found.mean - found.low, 0.0)], [max(found.high - found.mean, 0.0)]])
                ax.errorbar(found.mean, height, xerr=reach, fmt="o", color=colours[ROWS[name].kind], ms=5)
            ax.set_yticks(range(len(names)), names, fontsize="small")
            ax.invert_yaxis()
            ax.axvline(0.0, color="0.5", linewidth=0.8)
            original = seed_mean(scores[ORIGINAL.name])
            what = f"{_title(table, task)}: {_source(table, task)}"
            ax.set(
                xlabel="score minus the original's, by seed",
                title=f"{what}\noriginal {original:.3f}, {settings.n_seeds} seeds",
            )
        return figure


def _of_run(settings: TableSettings) -> Settings:
    return dataclasses.replace(PRESETS[settings.preset].settings, n_steps=settings.steps)


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


def _test(n_tasks: int, gain: str) -> str:
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


def _verdicts(table: Table, settings: TableSettings) -> list[Verdict]:
    titles = {task: _title(table, task) for task in settings.tasks}
    controls = {}
    for task in settings.tasks:
        means = {name: float(values.mean()) for name, values in _scores(table, task, settings).items()}
        named = [name for name in means if ROWS[name].kind == "control"]
        if named:
            # The choice of the control is against the claim and needs no correction; that of the row is for it.
            controls[task] = max(named, key=means.__getitem__)
    original = ORIGINAL.name
    tasks = [(titles[task], task, TYPES, original) for task in settings.tasks]
    # The correction for all rows serves all types of a task at once.
    types = [(f"{kind} on {titles[task]}", task, (kind,), original) for task in settings.tasks for kind in TYPES]
    beyond = [(titles[task], task, TYPES, control) for task, control in controls.items()]
    asked = ((GLOBAL_BEST, tasks), (LOCAL_BEST, types), (BEYOND, beyond))
    return [_judged(claim, table, settings, choices) for claim, choices in asked]


def _judged(
    claim: Claim, table: Table, settings: TableSettings, choices: Sequence[tuple[str, str, tuple[str, ...], str]]
) -> Verdict:
    """Whether the best row of some kinds on a task beats another one, for each (name, task, kinds, the other)."""
    held, numbers, n_tasks = [], [], len(settings.tasks)
    for name, task, kinds, against in choices:
        best = _best(table, task, settings, kinds, against)
        if best is not None:
            of = ", gain" if against == ORIGINAL.name else f" minus {against}"
            gains = f"{best.gain.mean:+.3f} (p = {best.p:.2g}; nested gain {best.nested.gain:+.3f})"
            numbers.append(f"{_title(table, task)}: {best.row}{of} {gains}")
            if best.beats(n_tasks):
                held.append(name)
    if claim is BEYOND and not numbers:
        return BEYOND.untested("The grid has no control.")
    test = _test(n_tasks, "the gain over the control" if claim is BEYOND else "the gain")
    return claim.judged(bool(held), "; ".join(numbers), test, _condition(table, held, len(numbers)))


def _title(table: Table, task: str) -> str:
    """The task's name, marked where its data are generated."""
    return str(table.where(task=task).only("score").unique("title")[0])


def _source(table: Table, task: str) -> str:
    generated = table.where(task=task).only("score").unique("generated")[0]
    return "GENERATED data, not GLUE" if generated else "GLUE"


def _metric_rows(table: Table, task: str, settings: TableSettings) -> list[dict[str, Any]]:
    """A row of the task's table for each attention."""
    rows, scores, found = table.where(task=task).only("score"), _scores(table, task, settings), []
    for name in settings.rows:
        one = rows.where(row=name)
        metrics = {metric: str(seed_mean(one.column(metric))) for metric in task_named(task).metrics}
        gain = "" if name == ORIGINAL.name else _signed(seed_mean(scores[name] - scores[ORIGINAL.name]))
        diverged = sum(map(bool, one.cells("diverged")))
        found.append({"row": name, **metrics, "minus original": gain, "diverged": diverged})
    return found


def _best_rows(table: Table, task: str, settings: TableSettings) -> list[dict[str, Any]]:
    """The best row of each type, and of all."""
    found = []
    for kinds in (*((kind,) for kind in TYPES), TYPES):
        best = _best(table, task, settings, kinds)
        if best is not None:
            found.append(
                {
                    "task": _title(table, task),
                    "best of": f"{'all' if kinds == TYPES else kinds[0]} ({best.n_rows})",
                    "row": best.row,
                    "score": best.score.mean,
                    "gain, as chosen": _signed(best.gain),
                    "gain, Bonferroni": _signed(best.simultaneous),
                    "p, max statistic": best.p,
                    "gain, nested": _signed(best.nested.gain),
                }
            )
    return found


def _signed(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
