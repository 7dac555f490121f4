"""The stream of training prompts of an ensemble: every run draws from its own generator, alone or not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from iclens.errors import UserError
from iclens.tasks.input_shifts import InputShift
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs
from iclens.tasks.task import Task
from iclens.training.config import RunConfig, Training
from iclens.training.default_dtype import default_dtype

BLOCK = 8
"""Steps whose prompts are drawn in one call: part of what a run is, since it fixes the order of the draws."""


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed of its own for every purpose, so that parameters, prompts and evaluations do not share draws."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:7])


def prompt_dtype(settings: Training) -> torch.dtype:
    """Return the dtype of prompts and parameters."""
    return torch.float64 if settings.dtype == "float64" else torch.float32


def evaluation_prompts(config: RunConfig, task: Task) -> PromptBatch:
    """Return the prompts on which a run is evaluated, always the same: full length, all coordinates."""
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "evaluation"))
    with default_dtype(prompt_dtype(config.training)):
        return task.sample(generator, config.training.evaluation_prompts, config.training.n_context)


class PromptStream:
    """Training prompts of several runs, a block of steps at a time.

    Args:
        configs: one for each run.
        tasks: their tasks.
        device: where the prompts go.

    Raises:
        UserError: a curriculum that narrows the inputs of a task whose inputs cannot be.
    """

    def __init__(self, configs: Sequence[RunConfig], tasks: Sequence[Task], device: torch.device) -> None:
        self.configs, self.tasks, self.device = list(configs), list(tasks), device
        for one, task in zip(configs, tasks, strict=True):
            narrowed(task, one.curriculum.stage(0, task.d, one.training.n_context)[0])
        self.generators = [torch.Generator().manual_seed(derived_seed(one.seed, "prompts")) for one in configs]
        self._block: tuple[int, Tensor, Tensor] | None = None
        self._before = self._states()

    def at(self, step: int) -> tuple[Float[Tensor, "runs batch n d"], Float[Tensor, "runs batch n d_y"]]:
        """Inputs and labels of one step; steps must be asked for in order, from the start or a restored state.

        Runs with fewer points are padded with zeros at the end, which a causal model's earlier answers do not see.
        """
        block = self._block_of(step)
        if self._block is None or self._block[0] != block:
            self._before = self._states()
            self._block = (block, *self._drawn(block * BLOCK))
        place = 0 if self.configs[0].training.optimizer == "gd" else step % BLOCK
        return self._block[1][:, place], self._block[2][:, place]

    @property
    def n_bytes(self) -> int:
        """Memory of the prompts that are drawn at present."""
        return 0 if self._block is None else sum(part.numel() * part.element_size() for part in self._block[1:])

    def n_points(self, step: int) -> list[int]:
        """Points of every run's prompts at a step, the query counted."""
        first = step - step % BLOCK
        return [
            one.curriculum.stage(first, task.d, one.training.n_context)[1] + 1
            for one, task in zip(self.configs, self.tasks, strict=True)
        ]

    def _drawn(self, first: int) -> tuple[Tensor, Tensor]:
        prompts = []
        for one, task, generator in zip(self.configs, self.tasks, self.generators, strict=True):
            d, n_context = one.curriculum.stage(first, task.d, one.training.n_context)
            steps = 1 if one.training.optimizer == "gd" else BLOCK
            prompts.append(narrowed(task, d).sample(generator, (steps, one.training.batch), n_context))
        longest = max(prompt.n_context for prompt in prompts)
        inputs, labels = (
            torch.stack([pad(getattr(prompt, name), (0, 0, 0, longest - prompt.n_context)) for prompt in prompts])
            for name in ("inputs", "labels")
        )
        return inputs.to(self.device), labels.to(self.device)

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self.generators]

    def _block_of(self, step: int) -> int:
        return 0 if self.configs[0].training.optimizer == "gd" else step // BLOCK

    def state(self, step: int) -> Tensor:
        """State of the generators before the block of the step that is asked for next, (runs, bytes)."""
        drawn = self._block is not None and self._block[0] == self._block_of(step)
        return torch.stack(self._before if drawn else self._states())

    def restore(self, state: Tensor) -> None:
        """Go on from a state; the next step asked for must be the one that the state is for."""
        for generator, row in zip(self.generators, state, strict=True):
            generator.set_state(row.clone())
        self._block = None
        self._before = self._states()


def narrowed(task: Task, d: int) -> Task:
    """The task with all coordinates of the inputs after the first `d` set to zero; the task itself for all of them.

    Raises:
        UserError: a task that draws inputs and functions together, such as classification.
    """
    if d >= task.d:
        return task
    if type(task).sample is not Task.sample:
        raise UserError(
            f"{type(task).__name__} draws inputs and functions together, so that its inputs cannot be narrowed: set "
            f"curriculum.d_start={task.d} or more, the width of its inputs."
        )
    return _Narrowed(task, d)


class _Narrowed(InputShift):
    def __init__(self, task: Task, n_active: int) -> None:
        super().__init__(task)
        self.n_active = n_active

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:
        inputs[..., self.n_active :] = 0.0
        return inputs
