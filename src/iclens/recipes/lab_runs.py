"""Runs of the lab for a recipe: trained as ensembles, given back in the order in which they were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.recipes.contract import Progress
from iclens.sweeps.chunks import groups
from iclens.training.config import RunConfig
from iclens.training.ensemble import Ensemble
from iclens.training.loop import TrainedRun, train

MOST_RUNS = 64
"""Runs trained at once; the small models of recipes gain from every one of them."""

_MOST_NUMBERS = 2**19
"""Numbers in one residual stream of all runs at once: a step on more of them costs more a run than on fewer."""


def lab_run(settings: Any, seed: int, task: Mapping[str, Any], model: Mapping[str, Any], **training: Any) -> RunConfig:
    """Return a run that is evaluated at its end alone, on few prompts.

    Args:
        settings: of a recipe; of `steps`, `batch`, `n_context` and `learning_rate` it has what `training` has not.
        seed: of the weights and the prompts.
        task: its name and options.
        model: its name and options.
        **training: fields of `Training`.
    """
    names = ("steps", "batch", "n_context", "learning_rate")
    usual = {name: getattr(settings, name) for name in names if name not in training}
    usual |= {"evaluate_every": 0, "evaluation_prompts": 16}
    return RunConfig.from_dict({"seed": seed, "task": task, "model": model, "training": usual | training})


def query_run(
    settings: Any, seed: int, task: Mapping[str, Any], model: Mapping[str, Any], **training: Any
) -> RunConfig:
    """A `lab_run` that answers the query only: 50 steps of warm-up, a cosine schedule, gradients clipped at 1."""
    usual = {"loss": "query", "schedule": "cosine", "warmup": min(50, settings.steps), "clip": 1.0}
    return lab_run(settings, seed, task, model, **(usual | training))


def train_all(configs: Sequence[RunConfig], progress: Progress, most_runs: int = MOST_RUNS) -> list[TrainedRun]:
    """Train runs, those of one shape together, as many at once as make a step on one of them cheap.

    Args:
        configs: the runs.
        progress: called with the steps done, over all runs.
        most_runs: trained at once, however small they are.
    """
    trained: dict[str, TrainedRun] = {}
    total = sum(one.training.steps for one in configs)
    done = 0
    for group in groups(configs):
        chunk = min(most_runs, runs_at_once(group[0]))
        for start in range(0, len(group), chunk):
            part = group[start : start + chunk]

            def advance(step: int, _steps: int, loss: float, before: int = done, n_runs: int = len(part)) -> None:
                progress(before + step * n_runs, total, f"training, loss {loss:.3g}")

            for one in train(part, advance=advance):
                trained[one.config.key()] = one
            done += sum(one.training.steps for one in part)
    return [trained[one.key()] for one in configs]


def train_through(
    configs: Sequence[RunConfig], steps: Sequence[int], progress: Progress
) -> list[dict[int, TrainedRun]]:
    """Train runs of one shape together, and keep what they are on the way.

    Args:
        configs: the runs.
        steps: after how many steps a run is kept; those beyond a run's end are not reached.
        progress: called with the steps done.

    Returns:
        for every run, by the number of steps, the run as if it had ended there; without errors among its metrics.
    """
    ensemble = Ensemble(configs)
    kept: list[dict[int, TrainedRun]] = [{} for _ in configs]
    total = ensemble.first.steps
    wanted = {step for step in steps if step <= total}
    while ensemble.step_count < max(wanted, default=0):
        losses = ensemble.step()
        done = ensemble.step_count
        if done % max(1, total // 100) == 0:
            progress(done, total, f"training, loss {float(losses.nanmean()):.3g}")
        if done in wanted:
            for run, (config, diverged) in enumerate(zip(configs, ensemble.diverged_at.tolist(), strict=True)):
                status, at = ("finished", None) if diverged < 0 else ("diverged", diverged)
                kept[run][done] = TrainedRun(config, ensemble.tensors(run), [], status, at, 0.0)  # type: ignore[arg-type]
    return kept


def runs_at_once(config: RunConfig) -> int:
    """How many runs of one shape train together; it rests on sizes alone, so that results are the same every time.

    Stacking stops paying when the activations no longer fit the caches and their memory is allocated again at every
    step: with 4,096 demonstrations five runs at once take twice the time of one after the other.
    """
    task, training = config.make_task(), config.training
    width = int(config.model.options.get("width", task.d + task.d_y))
    numbers = training.batch * (training.n_context + 1) * width
    return max(1, min(MOST_RUNS, _MOST_NUMBERS // numbers))
