"""Runs of the lab for a recipe: trained as ensembles, given back in the order in which they were asked for."""

from __future__ import annotations

from collections.abc import Sequence

from iclens.recipes.recipe import Progress
from iclens.sweeps.chunks import groups
from iclens.training.config import RunConfig
from iclens.training.train import TrainedRun, train

_CHUNK = 64
"""Runs trained at once; the small models of recipes gain from every one of them."""


def train_all(configs: Sequence[RunConfig], progress: Progress, *, chunk: int = _CHUNK) -> list[TrainedRun]:
    """Train runs, those of one shape together.

    Args:
        configs: the runs.
        progress: told of the steps done, over all runs.
        chunk: most runs to train at once.
    """
    trained: dict[str, TrainedRun] = {}
    total = sum(one.training.steps for one in configs)
    done = 0
    for group in groups(configs):
        for start in range(0, len(group), chunk):
            part = group[start : start + chunk]

            def advance(step: int, _steps: int, loss: float, before: int = done, n_runs: int = len(part)) -> None:
                progress(before + step * n_runs, total, f"training, loss {loss:.3g}")

            for one in train(part, advance=advance):
                trained[one.config.key()] = one
            done += sum(one.training.steps for one in part)
    return [trained[one.key()] for one in configs]


def final_error(run: TrainedRun, prefix: int | None = None) -> float:
    """The last evaluation error of a run: after `prefix` demonstrations, or the mean over all answers."""
    return [value for _, name, at, value in run.metrics if name == "error" and at == prefix][-1]
