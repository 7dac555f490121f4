"""Train an ensemble to the end: metrics, checkpoints, resumption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from iclens.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from iclens.training.config import RunConfig
from iclens.training.distributed import Processes
from iclens.training.ensemble import Ensemble
from iclens.training.interruption import held_interrupts
from iclens.training.metric import Metric

Advance = Callable[[int, int, float], None]
"""(steps done, steps in all, mean training loss of the runs that are alive) after every few steps."""


@dataclass(frozen=True, eq=False, repr=False)
class TrainedRun:
    """One finished run.

    Attributes:
        config: what it was.
        tensors: its final parameters, without the axis of runs; the last finite ones if it diverged.
        metrics: training losses and errors on evaluation prompts, in the order in which they were measured; the last
            one is the final error, the mean over all answers.
        status: `finished` or `diverged`.
        diverged_at: the step at which it diverged, or None.
        seconds: its share of the time.
    """

    config: RunConfig
    tensors: dict[str, Tensor]
    metrics: list[Metric]
    status: Literal["finished", "diverged"]
    diverged_at: int | None
    seconds: float

    def __repr__(self) -> str:
        what = f"{self.config.model.name} on {self.config.task.name}"
        steps = self.config.training.steps if self.diverged_at is None else self.diverged_at
        last = "".join(f", {one.name} {one.value:.4g}" for one in self.metrics[-1:])
        return f"<TrainedRun {self.config.key()}: {what}, {self.status} at step {steps}{last}>"


@dataclass
class _Curves:
    """Training losses since the last metric, and all metrics of each run."""

    rows: list[list[Metric]]
    total: Tensor
    count: int = 0


def train(
    configs: Sequence[RunConfig],
    *,
    device: str = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    advance: Advance | None = None,
    processes: Processes | None = None,
    loss_points: int = 100,
) -> list[TrainedRun]:
    """Train runs of one shape together.

    With `checkpoint`, the state is written there every `checkpoint_seconds` and on an interruption, and a file that is
    there is taken up: on one machine and with one number of threads the result is bit for bit that of an uninterrupted
    training. It is written once more after the last step, and removed by the caller once results are safe. Ctrl-C takes
    effect at the end of a step; pressed twice it takes effect at once, and the checkpoint stays as it was. SIGTERM
    takes effect at the end of a step as well, and then does what it did before.

    Args:
        configs: the runs.
        device: where to train.
        checkpoint: file for the unfinished state.
        checkpoint_seconds: time between two checkpoints.
        advance: called with every point of the training curve; a `KeyboardInterrupt` that it raises is an
            interruption as well.
        processes: the processes that train together, each of which calls this. Only the first evaluates and reads and
            writes the checkpoint, of any number of processes; the others' runs have no errors among their metrics. A
            Ctrl-C or SIGTERM in one takes effect in all, after the same step.
        loss_points: about how many points the training curve has; each is the mean loss of the steps since the last.

    Raises:
        UserError: runs that cannot train together, an impossible configuration, or a checkpoint that cannot be used.
    """
    ensemble = Ensemble(configs, device, processes)
    keys = [one.key() for one in configs]
    curves = _Curves([[] for _ in configs], torch.zeros(len(configs), dtype=torch.float64, device=ensemble.device))
    first = processes is None or processes.first
    file = checkpoint if first else None
    found = _taken_up(file, keys, ensemble, curves)
    spent = 0.0 if found is None else found.seconds
    started = saved = time.perf_counter()

    def save() -> None:
        if file is not None:
            seconds = spent + time.perf_counter() - started
            write_checkpoint(file, keys, Checkpoint(_state(ensemble, curves), curves.rows, seconds))

    settings = ensemble.first
    every = max(1, settings.steps // loss_points)
    # Processes that train together have to wait for each other before they end.
    with held_interrupts(pass_on=processes is None) as interruption:
        while ensemble.step_count < settings.steps:
            if processes is not None:
                processes.asked = interruption.pressed
            curves.total += ensemble.step()
            curves.count += 1
            step = ensemble.step_count
            mean = _losses(curves, step) if step % every == 0 or step == settings.steps else None
            if first and settings.evaluate_every and step % settings.evaluate_every == 0 and step < settings.steps:
                _errors(curves, ensemble)
            try:
                # All of this step is done here, and nothing of the next one.
                if first and advance is not None and mean is not None:
                    advance(step, settings.steps, mean)
            except KeyboardInterrupt:
                interruption.pressed = True
            # Other processes are on their way into the next step already, and hear of it there.
            if interruption.pressed if processes is None else processes.stop(step):
                save()
                if processes is not None:
                    # torchrun ends all as soon as one has ended, and would so end the one that writes.
                    processes.wait()
                raise KeyboardInterrupt
            if mean is not None and not bool(ensemble.alive.any()):
                break
            if file is not None and time.perf_counter() - saved > checkpoint_seconds:
                save()
                saved = time.perf_counter()
        save()
        if first:
            _errors(curves, ensemble, at_the_end=True)
    seconds = (spent + time.perf_counter() - started) / len(configs)
    diverged = ensemble.diverged_at.tolist()
    return [
        TrainedRun(
            config,
            ensemble.tensors(run),
            curves.rows[run],
            "finished" if diverged[run] < 0 else "diverged",
            None if diverged[run] < 0 else diverged[run],
            seconds,
        )
        for run, config in enumerate(configs)
    ]


def _state(ensemble: Ensemble, curves: _Curves) -> dict[str, Tensor]:
    return {**ensemble.state(), "loss_total": curves.total, "loss_count": torch.tensor(curves.count)}


def _taken_up(path: Path | None, keys: list[str], ensemble: Ensemble, curves: _Curves) -> Checkpoint | None:
    """Go on from the checkpoint if there is one: the first process's, and then all from its state."""
    processes = ensemble.processes
    if processes is not None:
        processes.same(keys)
    with nullcontext() if processes is None else processes.leading():
        found = None if path is None else read_checkpoint(path, keys)
        if found is not None:
            _restore(found.state, ensemble, curves)
            curves.rows = [[Metric(*row) for row in rows] for rows in found.metrics]
    if processes is not None:
        _restore(processes.from_first(_state(ensemble, curves)), ensemble, curves)
    return found


def _restore(state: dict[str, Tensor], ensemble: Ensemble, curves: _Curves) -> None:
    rest = dict(state)
    total, count = rest.pop("loss_total"), rest.pop("loss_count")
    ensemble.restore(rest)
    curves.total, curves.count = total.to(ensemble.device), int(count)


def _losses(curves: _Curves, step: int) -> float:
    """Write the mean losses since the last row; their mean over the runs that are alive."""
    means = (curves.total / curves.count).tolist()
    for run, value in enumerate(means):
        if value == value:
            curves.rows[run].append(Metric(step, "loss", None, value))
    curves.total.zero_()
    curves.count = 0
    known = [value for value in means if value == value]
    return sum(known) / len(known) if known else float("nan")


def _errors(curves: _Curves, ensemble: Ensemble, *, at_the_end: bool = False) -> None:
    """Write the errors on evaluation prompts; those of a run that diverged only at the end, as of that step."""
    diverged = ensemble.diverged_at.tolist()
    runs = [run for run, at in enumerate(diverged) if at < 0 or at_the_end]
    for run, errors in zip(runs, ensemble.evaluate(runs), strict=True):
        values = errors.tolist()
        step = ensemble.step_count if diverged[run] < 0 else diverged[run]
        n_context = ensemble.settings[run].n_context
        for place, value in enumerate(values):
            curves.rows[run].append(Metric(step, "error", n_context - len(values) + 1 + place, value))
        curves.rows[run].append(Metric(step, "error", None, sum(values) / len(values)))
