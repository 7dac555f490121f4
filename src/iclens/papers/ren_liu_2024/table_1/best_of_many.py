"""The paper's fine-tuning table: GLUE's four task types, the original attention and every modification of it.

Rows, grids and the shape of the table are those of Table 1 of Ren & Liu 2024 as far as they can be read; beside them
stand controls, intervals over seeds, and corrections for choosing the best of many rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.intervals import Estimate
from iclens.papers.ren_liu_2024.table_1.glue import TaskData, headline
from iclens.papers.ren_liu_2024.table_1.rows import ORIGINAL, PRESETS, ROWS, TYPES, chosen_rows, task_data
from iclens.papers.ren_liu_2024.table_1.training import (
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
from iclens.recipes.selection import Nested, halves, max_statistic, nested, over_seeds
from iclens.recipes.verdict import Verdict

__all__ = [
    "ORIGINAL",
    "PRESETS",
    "ROWS",
    "TYPES",
    "Best",
    "Cost",
    "Plan",
    "Results",
    "best_row",
    "chosen_rows",
    "cost",
    "fold_scores",
    "run",
    "task_data",
]

SIGNIFICANT = 0.05


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
        device: where the runs are trained.
    """

    backbone: Backbone
    data: tuple[TaskData, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    settings: Settings
    out: Path
    device: str = "cpu"

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
            seconds[like] = seconds_per_run(plan.backbone, data, row, plan.settings, plan.device)
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
        made = train(plan.backbone, data, row, seed, plan.settings, plan.device)
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
        gain: its differences to the original, or to the control that it was held against; biased upwards, since the row
            was chosen by them.
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

    def beats(self, n_asked: int = 1) -> bool:
        """Whether both corrections find a gain: p ≤ 0.05 / n_asked, and the nested gain's interval above 0.

        Args:
            n_asked: among how many such answers one would do, e.g. tasks.
        """
        return self.p <= SIGNIFICANT / n_asked and self.nested.gain.low > 0


def best_row(
    of: str,
    names: Sequence[str],
    scores: Mapping[str, Float[Tensor, " n_seeds"]],
    folds: Mapping[str, Float[Tensor, "n_seeds n_folds 2"]],
    corrected_for: Sequence[str] = (),
    against: str = ORIGINAL.name,
) -> Best:
    """The row with the highest mean score, with what the choice among many does to its gain.

    Args:
        of: what the rows are, for the answer.
        names: the rows to choose from.
        scores: headline numbers by row, those of `against` among them.
        folds: `fold_scores` by row.
        corrected_for: the rows for which p and the simultaneous interval are corrected, `names` among them; `names`
            when empty.
        against: the row that gains are differences to.
    """
    asked = list(corrected_for or names)
    gains = torch.stack([scores[name] for name in asked]) - scores[against]
    places = [asked.index(name) for name in names]
    place = places[int(gains[places].mean(-1).argmax())]
    parts = torch.stack([folds[name] for name in names]) - folds[against]
    return Best(
        of=of,
        row=asked[place],
        score=over_seeds(scores[asked[place]]),
        gain=over_seeds(gains[place]),
        simultaneous=over_seeds(gains[place], len(asked)),
        p=float(max_statistic(gains)[place]),
        # The folds come in pairs of halves: what reports in one chooses in the other.
        nested=nested(parts[..., 0], parts[..., 1]),
        n_rows=len(names),
    )


def fold_scores(data: TaskData, predictions: Sequence[Sequence[float]]) -> Float[Tensor, "n_seeds n_folds 2"]:
    """Headline numbers on random halves of the validation examples: the one that chooses, and the one that reports.

    Args:
        data: the task.
        predictions: of every seed, for all validation examples.
    """
    labels = torch.tensor([example.label for example in data.validation], dtype=torch.float64)
    given = torch.tensor(predictions, dtype=torch.float64)
    return torch.tensor(
        [
            [
                [headline(data.task, one[half].tolist(), labels[half].tolist()) for half in pair]
                for pair in halves(len(labels))
            ]
            for one in given
        ],
        dtype=torch.float64,
    )


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

    def best(self, task: str, kind: str, against: str = ORIGINAL.name) -> Best | None:
        """The best row of a type (or of `"all"` types), with what the choice among many does to its gain over a row.

        The original is not among the candidates; controls are neither. None when the grid has no such row.
        """
        kinds = TYPES if kind == "all" else (kind,)
        names = [row.name for row in self.plan.rows if row.kind in kinds]
        if not names:
            return None
        rows = [row.name for row in self.plan.rows]
        scores = {name: self.scores(task, name) for name in rows}
        folds = {name: self._folds[task, name] for name in rows}
        return best_row(kind, names, scores, folds, against=against)

    @cached_property
    def _folds(self) -> dict[tuple[str, str], Tensor]:
        """`fold_scores` of every task and row."""
        return {
            (data.task.name, row.name): fold_scores(
                data, [self.runs[data.task.name, row.name, seed].predictions for seed in self.plan.seeds]
            )
            for data in self.plan.data
            for row in self.plan.rows
        }

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
                    best.beats(),
                    f"{best.row}: gain {best.gain}, corrected p = {best.p:.3f} with {len(self.plan.seeds)} seeds, "
                    f"nested gain {best.nested.gain}",
                )
            )
            controls = [row.name for row in self.plan.rows if row.kind == "control"]
            if controls:
                control = max(controls, key=lambda name: self.score(task, name).mean)
                # The choice of the control is against the claim and needs no correction; that of the row is for it.
                beside = self.best(task, "all", control)
                assert beside is not None
                found.append(
                    Verdict(
                        f"{title}: the best row is better than the best control (p ≤ 0.05, corrected for the choice, "
                        "and the nested gain's interval above 0)",
                        beside.beats(),
                        f"{beside.row} minus {control}: {beside.gain}, corrected p = {beside.p:.3f}, nested gain "
                        f"{beside.nested.gain}",
                    )
                )
        return tuple(found)
