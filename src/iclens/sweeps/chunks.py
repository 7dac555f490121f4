"""How many runs to train at once: measured, under a cap of memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from iclens.training.config import Chosen, Curriculum, RunConfig
from iclens.training.ensemble import Ensemble
from iclens.training.shapes import shape_key

_WORSE = 1.15
"""Stop trying larger chunks once two in turn cost so much more a run than the best: one may have been held up."""

Seconds = Callable[[Sequence[RunConfig], str, int], float]
"""Seconds of a step of these runs together, on this device, measured over a number of steps."""

_BESIDE_SAVED = 1.75
"""Memory of a step over what the backward pass saves: gradients of activations and scratch space of operations."""


@dataclass(frozen=True)
class ChunkPlan:
    """How a group of runs of one shape is cut.

    Attributes:
        size: runs trained at once.
        seconds: measured time of a step of one chunk.
        bytes_per_run: estimated memory that one more run takes.
        measured: seconds a run and step for every size that was tried.
    """

    size: int
    seconds: float
    bytes_per_run: int
    measured: dict[int, float]


def groups(configs: Sequence[RunConfig]) -> list[list[RunConfig]]:
    """Runs that can train together, in the order in which their shapes first appear."""
    found: dict[str, list[RunConfig]] = {}
    for one in configs:
        found.setdefault(shape_key(one), []).append(one)
    return list(found.values())


def seconds_per_step(configs: Sequence[RunConfig], device: str, steps: int) -> float:
    """Measure the least time of a step of these runs trained together, after one step to warm up.

    On one thread of a CPU it is the thread's own time, in which other work on the machine has no part: by the clock on
    the wall a busy machine makes a larger chunk, which takes longer, look worse than it is. Elsewhere other work only
    adds to a time, so that the least is the step's own.

    Args:
        configs: runs of one shape.
        device: where they train.
        steps: how many are timed.
    """
    ensemble = Ensemble([_full(one) for one in configs], device)
    ensemble.step()
    is_alone = ensemble.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if is_alone else time.perf_counter
    times = []
    for _ in range(steps):
        start = clock()
        ensemble.step()
        if ensemble.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times)


def plan(
    group: Sequence[RunConfig],
    memory: int,
    *,
    device: str = "cpu",
    steps: int = 3,
    seconds: Seconds = seconds_per_step,
) -> ChunkPlan:
    """Measure chunks of 1, 2, 4, … runs and choose the one with the least time a run.

    Stacking pays as long as a run's own operations are too small to keep the machine busy, and stops paying when a
    chunk's activations leave the caches; where that is depends on the machine, so it is measured. What is measured is
    thrown away.

    Args:
        group: runs of one shape.
        memory: the cap in bytes.
        device: where they will train.
        steps: steps timed for each size, after one to warm up.
        seconds: how the time of a step is measured.
    """
    each = bytes_per_run(_largest(group), device)
    most = max(1, min(len(group), memory // max(each, 1)))
    measured: dict[int, float] = {}
    size, worse = 1, 0
    while True:
        measured[size] = seconds(group[:size], device, steps) / size
        worse = worse + 1 if measured[size] > _WORSE * min(measured.values()) else 0
        if size >= most or worse == 2:
            break
        size = min(2 * size, most)
    best = min(measured, key=lambda one: measured[one])
    return ChunkPlan(best, best * measured[best], each, measured)


def bytes_per_run(config: RunConfig, device: str = "cpu") -> int:
    """Memory of one run: what its backward pass saves, scratch space, parameters, the optimiser's state, prompts."""
    # Compiling takes long and keeps no more than this.
    plain = dataclasses.replace(_full(config), training=dataclasses.replace(config.training, compile=False))
    ensemble = Ensemble([plain], device)
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        ensemble.step()
    state = ensemble.optimizer.values.numel() * ensemble.optimizer.values.element_size()
    return int(_BESIDE_SAVED * saved) + 5 * state + ensemble.stream.n_bytes


def _largest(group: Sequence[RunConfig]) -> RunConfig:
    """A run as large as any of the group is made in an ensemble: as many demonstrations and heads as the largest."""
    first = group[0]
    longest = max(one.training.n_context for one in group)
    config = dataclasses.replace(first, training=dataclasses.replace(first.training, n_context=longest))
    if not first.model.options.get("head_width"):
        return config
    heads = max(one.to_dict()["model"]["n_heads"] for one in group)
    return dataclasses.replace(config, model=Chosen(first.model.name, {**first.model.options, "n_heads": heads}))


def _full(config: RunConfig) -> RunConfig:
    """Return the run with prompts of full length from the start: the costliest, and most of its steps."""
    return dataclasses.replace(config, curriculum=Curriculum())
