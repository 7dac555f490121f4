"""The paper's fine-tuning table: GLUE's four task types, the original attention and every modification of it.

Rows, grids and the shape of the table are those of Table 1 of Ren & Liu 2024 as far as they can be read; beside them
stand controls, intervals over seeds, and corrections for choosing the best of many rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.intervals import Estimate
from iclens.recipes.selection import Nested, halves, max_statistic, nested, over_seeds
from iclens.recipes.verdict import Verdict
from iclens.tasks.glue import TASKS, TaskData, headline, load_task
from iclens.tasks.sentences import generate
from iclens.training.finetune import (
    Backbone,
    Row,
    Run,
    Settings,
    fingerprint,
    load_run,
    save_run,
    seconds_per_run,
    train,
)

ORIGINAL = Row("original", "original", origin="read")

TYPES = ("regularized", "augmented", "negative")
"""The paper's three modifications; "local best" chooses within one, "global best" among all."""

SIGNIFICANT = 0.05


def _rows() -> dict[str, Row]:
    rows = [ORIGINAL]
    for alpha in (0.5, -0.5, 0.1, -0.1, 0.02, -0.02):
        # One strength is legible in the paper, and its sign is not.
        origin = "read, sign unclear" if abs(alpha) == 0.5 else "ours"
        rows.append(Row(f"regularized α={alpha:g}", "regularized", "regularized", {"alpha": alpha}, origin))
    adapters: tuple[tuple[str, dict[str, Any]], ...] = (
        ("g1", {"g1": "adapter"}),
        ("g2", {"g2": "adapter"}),
        ("g1&g2", {"g1": "adapter", "g2": "adapter"}),
    )
    rows += [Row(f"augmented {name}", "augmented", "augmented", options, "read") for name, options in adapters]
    for k in (1, 3):
        for beta in (0.1, 0.5):
            strength = {"k": k, "beta": beta}
            rows.append(Row(f"negative k={k} β={beta:g}", "negative", "negative", strength, "read"))
    for matched in (0.5, 0.1, -0.5):
        rows.append(Row(f"control scale {1 - matched:g}", "control", "scale-matched", {"strength": matched}))
    rows += [Row(f"control parameters {name}", "control", "parameter-matched", options) for name, options in adapters]
    return {row.name: row for row in rows}


ROWS: dict[str, Row] = _rows()
"""All rows by name. Controls: the heads' output scaled by 1 − β (0.9, 0.5) or 1 − α (also 1.5), and adapters with as
many parameters as an augmentation's, after the head's output; they are compared with, never chosen as best."""


@dataclass(frozen=True)
class Preset:
    """How much is trained.

    Attributes:
        settings: of every run.
        n_train: generated training examples, and the most that are used of real ones.
        n_validation: generated validation examples; real validation splits are used whole.
        tasks: the tasks when none are named.
        rows: the rows when none are named.
        seeds: the number of seeds when none is given.
        layers: so many of the encoder's first layers are kept; all when None.
    """

    settings: Settings
    n_train: int
    n_validation: int
    tasks: tuple[str, ...]
    rows: tuple[str, ...]
    seeds: int
    layers: int | None = None


_QUICK_ROWS = tuple(
    name
    for name, row in ROWS.items()
    if row.kind in ("augmented", "negative")
    or row.options.get("alpha") in (0.5, -0.5)
    or name in ("control scale 0.5", "control scale 0.9", "control parameters g1&g2")
)

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        Settings(40, 16, 5e-4, max_length=32, frozen_words=True), 640, 200, ("cola", "stsb"), _QUICK_ROWS, 3, layers=2
    ),
    "paper": Preset(Settings(600, 32, 3e-5, max_length=128), 6400, 1000, tuple(TASKS), tuple(ROWS), 5),
}
"""`quick` shows that everything works, in minutes on two cores: two tasks, two layers, 40 steps. `paper` is the size of
BERT's usual fine-tuning (three epochs of batches of 32 at 3e-5). The paper's own settings are unknown: both are ours.
"""


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by name or by kind, the original always first.

    Raises:
        UserError: a name that is neither.
    """
    kinds = {row.kind for row in ROWS.values()}
    chosen = {ORIGINAL.name: ORIGINAL}
    for name in names:
        found = {row.name: row for row in ROWS.values() if name in (row.name, row.kind)}
        if not found:
            kinds_listed = ", ".join(sorted(kinds))
            raise UserError(f"unknown row {name!r}. Give a kind ({kinds_listed}) or a row: {', '.join(ROWS)}.")
        chosen |= found
    return tuple(chosen.values())


def task_data(name: str, source: str, preset: Preset) -> TaskData:
    """The examples of a task: generated, of GLUE, or of a folder (`load_task`).

    Raises:
        UserError: the data cannot be had.
    """
    if source == "generated":
        return generate(name, preset.n_train, preset.n_validation)
    data = load_task(name, source)
    if len(data.train) <= preset.n_train:
        return data
    kept = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: preset.n_train].tolist()
    return TaskData(data.task, tuple(data.train[i] for i in kept), data.validation, data.source, data.generated)


@dataclass(frozen=True)
class Plan:
    """A grid of runs.

    Attributes:
        backbone: where every run starts.
        data: the tasks.
        rows: the attentions, the original first.
        seeds: the seeds.
        settings: of every run.
        out: the folder of finished runs.
    """

    backbone: Backbone
    data: tuple[TaskData, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    settings: Settings
    out: Path

    def __post_init__(self) -> None:
        if not self.seeds or not self.data or not self.rows or self.rows[0] != ORIGINAL:
            raise UserError("a grid needs at least one seed, one task, and the original as its first row.")

    def finished(self) -> dict[tuple[str, str, int], Run]:
        """The runs that are in the folder.

        Raises:
            UserError: a file is damaged or of another grid.
        """
        found = {}
        for data, row, seed in self.cells():
            key = fingerprint(self.backbone, data, row, seed, self.settings)
            run = load_run(self.out, data.task.name, row.name, seed, key)
            if run is not None:
                found[data.task.name, row.name, seed] = run
        return found

    def cells(self) -> list[tuple[TaskData, Row, int]]:
        """All runs of the grid; whole seeds first, so that an interrupted grid can be read."""
        return [(data, row, seed) for seed in self.seeds for data in self.data for row in self.rows]


@dataclass(frozen=True)
class Cost:
    """What a grid will cost.

    Attributes:
        n_runs: runs of the grid.
        n_missing: those that are not finished yet.
        seconds: estimated for the missing ones, from one timed step per task and kind of row.
    """

    n_runs: int
    n_missing: int
    seconds: float


def cost(plan: Plan) -> Cost:
    """Count and time what is still to be done; each missing task and kind of row is tried with two steps.

    Raises:
        UserError: a row's attention does not fit the backbone; or as `Plan.finished`.
    """
    finished = plan.finished()
    seconds: dict[tuple[str, str, str | None], float] = {}
    total, n_missing = 0.0, 0
    for data, row, seed in plan.cells():
        if (data.task.name, row.name, seed) in finished:
            continue
        n_missing += 1
        like = (data.task.name, row.kind, row.variant)
        if like not in seconds:
            seconds[like] = seconds_per_run(plan.backbone, data, row, plan.settings)
        total += seconds[like]
    return Cost(len(plan.cells()), n_missing, total)


def run(plan: Plan, advance: Callable[[str], None] | None = None) -> Results:
    """Train what is missing and gather everything.

    Args:
        plan: the grid.
        advance: called with a description before every run that is trained, and with "" when all are done.

    Raises:
        UserError: as `Plan.finished` and `train`.
    """
    start = time.perf_counter()
    runs = plan.finished()
    for data, row, seed in plan.cells():
        if (data.task.name, row.name, seed) in runs:
            continue
        if advance is not None:
            advance(f"{data.title}, {row.name}, seed {seed}")
        made = train(plan.backbone, data, row, seed, plan.settings)
        save_run(plan.out, made)
        runs[data.task.name, row.name, seed] = made
    if advance is not None:
        advance("")
    return Results(plan, runs, time.perf_counter() - start)


@dataclass(frozen=True)
class Best:
    """The best row of a type, or of all.

    Attributes:
        of: the type, or `"all"`.
        row: the row with the highest mean.
        score: its scores over seeds.
        gain: its differences to the original; biased upwards, since the row was chosen by them.
        simultaneous: the same differences with an interval that holds for all rows of the choice at once (Bonferroni).
        p: of the gain, corrected for the choice (`max_statistic`).
        nested: the gain on seeds and examples that did not choose.
        n_rows: among how many rows it was chosen.
    """

    of: str
    row: str
    score: Estimate
    gain: Estimate
    simultaneous: Estimate
    p: float
    nested: Nested
    n_rows: int


@dataclass(frozen=True)
class Results:
    """A finished grid.

    Attributes:
        plan: what was run.
        runs: by task, row and seed.
        seconds: of this call; runs that were finished already cost nothing.
    """

    plan: Plan
    runs: dict[tuple[str, str, int], Run]
    seconds: float = field(compare=False)

    @property
    def generated(self) -> bool:
        """Whether any of the data are generated."""
        return any(data.generated for data in self.plan.data)

    def scores(self, task: str, row: str) -> Float[Tensor, " n_seeds"]:
        """The task's headline number (the mean of its metrics) of every seed."""
        runs = [self.runs[task, row, seed] for seed in self.plan.seeds]
        return torch.tensor([sum(r.scores.values()) / len(r.scores) for r in runs], dtype=torch.float64)

    def metric(self, task: str, row: str, name: str) -> Estimate:
        """One of the task's metrics over seeds."""
        values = [self.runs[task, row, seed].scores[name] for seed in self.plan.seeds]
        return over_seeds(torch.tensor(values, dtype=torch.float64))

    def score(self, task: str, row: str) -> Estimate:
        """The headline number over seeds."""
        return over_seeds(self.scores(task, row))

    def difference(self, task: str, row: str) -> Estimate:
        """Headline number minus the original's, paired by seed."""
        return over_seeds(self.scores(task, row) - self.scores(task, ORIGINAL.name))

    def best(self, task: str, kind: str) -> Best | None:
        """The best row of a type (or of `"all"` types), with what the choice among many does to it.

        The original is not among the candidates; controls are neither. None when the grid has no such row.
        """
        kinds = TYPES if kind == "all" else (kind,)
        names = [row.name for row in self.plan.rows if row.kind in kinds]
        if not names:
            return None
        gains = torch.stack([self.scores(task, name) for name in names]) - self.scores(task, ORIGINAL.name)
        index = int(gains.mean(-1).argmax())
        folds = torch.stack([self._folds[task, name] for name in names]) - self._folds[task, ORIGINAL.name]
        return Best(
            of=kind,
            row=names[index],
            score=self.score(task, names[index]),
            gain=over_seeds(gains[index]),
            simultaneous=over_seeds(gains[index], len(names)),
            p=float(max_statistic(gains)[index]),
            # The folds come in pairs of halves: what reports in one chooses in the other.
            nested=nested(folds[..., 0], folds[..., 1]),
            n_rows=len(names),
        )

    @cached_property
    def _folds(self) -> dict[tuple[str, str], Tensor]:
        """Headline numbers on halves of the validation examples, (n_seeds, n_folds, 2): choosing and reporting."""
        found = {}
        for data in self.plan.data:
            labels = torch.tensor([example.label for example in data.validation], dtype=torch.float64)
            pairs = halves(len(labels))
            for row in self.plan.rows:
                table = []
                for seed in self.plan.seeds:
                    given = torch.tensor(self.runs[data.task.name, row.name, seed].predictions, dtype=torch.float64)
                    table.append(
                        [
                            [headline(data.task, given[half].tolist(), labels[half].tolist()) for half in pair]
                            for pair in pairs
                        ]
                    )
                found[data.task.name, row.name] = torch.tensor(table, dtype=torch.float64)
        return found

    def verdicts(self) -> tuple[Verdict, ...]:
        """For each task: is the best row better than the original, after correction, and than the best control?

        With one seed there is none: nothing tells an effect from luck.
        """
        found: list[Verdict] = []
        if len(self.plan.seeds) < 2:
            return ()
        for data in self.plan.data:
            task, title = data.task.name, data.title
            best = self.best(task, "all")
            if best is None:
                continue
            found.append(
                Verdict(
                    f"{title}: the best of {best.n_rows} rows is better than the original (p ≤ 0.05, corrected for the "
                    "choice, and the nested gain's interval above 0)",
                    best.p <= SIGNIFICANT and best.nested.gain.low > 0,
                    f"{best.row}: gain {best.gain}, corrected p = {best.p:.3f} with {len(self.plan.seeds)} seeds, "
                    f"nested gain {best.nested.gain}",
                )
            )
            controls = [row.name for row in self.plan.rows if row.kind == "control"]
            if controls:
                control = max(controls, key=lambda name: self.score(task, name).mean)
                against = over_seeds(self.scores(task, best.row) - self.scores(task, control))
                found.append(
                    Verdict(
                        f"{title}: the best row is better than the best control (interval above 0; both chosen, not "
                        "corrected)",
                        against.low > 0,
                        f"{best.row} minus {control}: {against}",
                    )
                )
        return tuple(found)
