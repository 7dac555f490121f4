"""Run recipes: their parts in worker processes, each kept as soon as it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.recipes.contract import Part, Recipe
from iclens.recipes.machine import machine
from iclens.recipes.parts import PartStore, work_key
from iclens.recipes.reproduction import TABLE, Reproduction, finished
from iclens.recipes.table import Table
from iclens.work.whole_files import write_atomically
from iclens.work.workers import Tell, each, worth_starting

PARTS = "parts"
"""The folder of finished parts beside the table."""

THREADS = 1
"""Torch threads of every part, whatever runs beside it: another number would round sums otherwise."""

Watch = Callable[[float, str], None]
"""Called as work proceeds with the share that is done, from 0 to 1, and a few words."""


def unwatched(share: float, message: str) -> None:
    """A `Watch` that tells nobody."""


@dataclass(frozen=True)
class Order:
    """A recipe to be run.

    Attributes:
        recipe: which.
        preset: the name of one of its presets.
        folder: its own output folder, which must exist.
        command: the command line, for the record.
        settings: what overrides the preset's; None for the preset's own.
    """

    recipe: Recipe[Any]
    preset: str
    folder: Path
    command: str = ""
    settings: Any = None

    @property
    def chosen(self) -> Any:
        """The settings that it is run with."""
        return self.recipe.presets[self.preset].settings if self.settings is None else self.settings

    @property
    def needs_gpu(self) -> str:
        """Why it needs a GPU, in a few words; settings of the user's run where they say."""
        preset = self.recipe.presets[self.preset]
        return preset.needs_gpu if self.chosen == preset.settings else ""

    @cached_property
    def seconds(self) -> float | int:
        """How long it takes on one thread, as the preset says or the recipe estimates."""
        preset = self.recipe.presets[self.preset]
        if self.chosen == preset.settings or self.recipe.lacking(self.chosen):
            return preset.seconds
        return self.recipe.estimate(self.chosen, preset)

    @property
    def key(self) -> str:
        """What its finished work belongs to, but for what it reads."""
        return work_key(self.recipe, self.chosen, version("iclens"))

    @cached_property
    def inputs(self) -> str:
        """The digest of what it reads; empty where that cannot be had."""
        return "" if self.recipe.lacking(self.chosen) else self.recipe.inputs(self.chosen)

    def key_of(self, part: Part) -> str:
        """What a finished part belongs to, with what it reads."""
        bearing = self.recipe.bearing(part, self.chosen)
        whole = bearing == self.chosen or not self.inputs
        return work_key(self.recipe, bearing, version("iclens")) + (
            self.inputs if whole else self.recipe.inputs(bearing)
        )


@dataclass(frozen=True)
class Outcome:
    """What became of an order: one of the two.

    Attributes:
        order: the order.
        made: the reproduction, of which `table.json` is written.
        error: why there is none.
    """

    order: Order
    made: Reproduction | None
    error: UserError | None = None


@dataclass(frozen=True)
class Cost:
    """What an order will cost.

    Attributes:
        n_parts: parts of its work.
        n_finished: those that lie in its folder.
        seconds: estimated for the rest, on one thread.
    """

    n_parts: int
    n_finished: int
    seconds: float | int


def cost(order: Order) -> Cost:
    """Count what is finished and estimate the rest; nothing is computed, but for steps that a recipe may time."""
    preset, parts = order.recipe.presets[order.preset], order.recipe.parts(order.chosen)
    store = PartStore(order.folder / PARTS, order.key_of)
    done = finished(order.folder, order.key, order.inputs) is not None
    missing = [not done and store.load(part) is None for part in parts]
    n_finished = len(parts) - sum(missing)
    if order.recipe.lacking(order.chosen):
        return Cost(len(parts), n_finished, preset.seconds * sum(missing) / max(1, len(parts)))
    seconds = order.recipe.seconds_by_part(order.chosen, preset) if any(missing) else []
    return Cost(len(parts), n_finished, sum(compress(seconds, missing)))


def reproduce_all(
    orders: Sequence[Order], *, resume: bool = False, jobs: int = 1, watch: Watch = unwatched
) -> Generator[Outcome, None, None]:
    """Run recipes, and give each as soon as all of its parts are finished.

    The parts of all recipes share the processes, those that take long first. What must run alone comes last, in this
    process. The numbers do not depend on `jobs`.

    Args:
        orders: what to run.
        resume: take finished parts, or the finished table, of the same settings and version from the folder instead of
            computing them again.
        jobs: processes.
        watch: called as work proceeds.

    Raises:
        UserError: another process is at work in one of the folders, or a folder cannot be written to.
    """
    with ExitStack() as held:
        runs = [_Run(order) for order in orders]
        for run in runs:
            held.enter_context(run.store.held())
        yield from _reproduced(runs, resume, jobs, watch)


def _reproduced(runs: Sequence[_Run], resume: bool, jobs: int, watch: Watch) -> Generator[Outcome, None, None]:
    begun = [(run, run.begin(resume)) for run in runs]
    yield from (outcome for _, outcome in begun if outcome is not None)
    runs = [run for run, outcome in begun if outcome is None]
    progress = _Shares(runs, watch)
    waiting = [(run, part) for run in runs for part in run.missing]
    waiting.sort(key=lambda one: one[0].seconds_per_part, reverse=True)
    together = [one for one in waiting if not one[0].alone(one[1])]
    alone = [one for one in waiting if one[0].alone(one[1])]
    for wave, workers in ((together, jobs), (alone, 1)):
        seconds = sum((run.seconds_per_part for run, _ in wave), 0.0)
        calls = [(run.order.recipe, part, run.settings) for run, part in wave]

        def report(place: int, share: float, message: str, wave: list[tuple[_Run, Part]] = wave) -> None:
            progress.tell(*wave[place], share, message)

        with closing(each(_measure, calls, workers=worth_starting(workers, seconds), report=report)) as ends:
            for ended in ends:
                run, part = wave[ended.place]
                progress.tell(run, part, 1.0, "")
                outcome = run.take(part, ended.result)
                if outcome is not None:
                    yield outcome


class _Run:
    """A recipe on its way."""

    def __init__(self, order: Order) -> None:
        self.order, self.settings, self.needs_gpu = order, order.chosen, order.needs_gpu
        self._failed = False
        self.store = PartStore(order.folder / PARTS, order.key_of)
        self._parts = list(order.recipe.parts(self.settings))
        self._done: dict[int, tuple[Table, float]] = {}
        self.seconds_per_part = order.seconds / max(1, len(self._parts))

    @property
    def missing(self) -> list[Part]:
        """The parts that are still to be measured."""
        return [part for place, part in enumerate(self._parts) if place not in self._done]

    def alone(self, part: Part) -> bool:
        """Whether nothing may run beside the part: it watches the clock, or fills the GPU."""
        return bool(self.needs_gpu) or self.order.recipe.alone(part, self.settings)

    def begin(self, resume: bool) -> Outcome | None:
        """Take up what there is; an outcome if that is all there will be."""
        import torch

        lacking = self.order.recipe.lacking(self.settings)
        if self.needs_gpu and not torch.cuda.is_available():
            lacking = f"This preset needs a GPU ({self.needs_gpu}), and there is none here."
        if not (resume or lacking):
            self.store.clear()
        for place, part in enumerate(self._parts):
            found = self.store.load(part)
            if found is not None:
                self._done[place] = found
        # Where there are parts, a run was interrupted that was begun after the table was finished.
        if (resume and not self._done) or lacking:
            # A table that was made elsewhere is not thrown away for want of a GPU or of data here.
            kept = finished(self.order.folder, self.order.key, self.order.inputs)
            if kept is not None:
                if not self._done:
                    # A run that was killed amid its last step has left their folder.
                    self.store.remove()
                return Outcome(self.order, kept)
        if lacking:
            self._done.clear()
            return self._finish(lacking)
        return None if self.missing else self._finish()

    def take(self, part: Part, result: Callable[[], tuple[Table, float]]) -> Outcome | None:
        """Keep a part that has ended; the outcome when it was the last, or the first that failed."""
        try:
            table, seconds = result()
            self.store.save(part, table, seconds)
            self._done[self._parts.index(part)] = table, seconds
            return None if self.missing else self._finish()
        except UserError as error:
            # The others are kept all the same, for the next time.
            before, self._failed = self._failed, True
            return None if before else Outcome(self.order, None, error)

    def _finish(self, not_run: str = "") -> Outcome:
        table, seconds = Table(), 0.0
        for place in sorted(self._done):
            table, seconds = table + self._done[place][0], seconds + self._done[place][1]
        made = Reproduction(
            self.order.recipe,
            self.order.preset,
            self.settings,
            table,
            round(seconds, 3),
            machine(THREADS),
            datetime.now(UTC).isoformat(timespec="seconds"),
            self.order.command,
            version("iclens"),
            not_run,
            self.order.inputs,
        )
        write_atomically(self.order.folder / TABLE, json.dumps(made.document(), indent=1, allow_nan=False))
        if not not_run and not self.store.holds_others(self._parts):
            self.store.remove()
        return Outcome(self.order, made)


class _Shares:
    """What share of the work is done, by the stated times of the presets."""

    def __init__(self, runs: Sequence[_Run], watch: Watch) -> None:
        self._watch = watch
        self._done = {(id(run), _name(part)): 0.0 for run in runs for part in run.missing}
        self._weight = {(id(run), _name(part)): run.seconds_per_part for run in runs for part in run.missing}

    def tell(self, run: _Run, part: Part, share: float, message: str) -> None:
        """So much of this part is done."""
        self._done[id(run), _name(part)] = share
        total = sum(self._weight[one] * done for one, done in self._done.items())
        self._watch(total / sum(self._weight.values()), f"{run.order.recipe.id} {message}")


def _name(part: Part) -> str:
    return json.dumps(dict(part), sort_keys=True)


def _measure(recipe: Recipe[Any], part: Part, settings: Any, tell: Tell) -> tuple[Table, float]:
    """One part's rows, and the seconds they took."""
    start = time.perf_counter()
    table = recipe.measure_part(part, settings, lambda done, total, message: tell(done / max(total, 1), message))
    return table, time.perf_counter() - start
