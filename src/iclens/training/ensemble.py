"""Runs of one shape that train together, each as it would alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.models.model import PromptModel
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training.config import RunConfig, Training
from iclens.training.default_dtype import default_dtype
from iclens.training.distributed import Processes
from iclens.training.losses import point_losses
from iclens.training.optimizer import RunsOptimizer
from iclens.training.prompts import PromptStream, evaluation_prompts, prompt_dtype
from iclens.training.shapes import ensemble_model, shape_key, tensors_of_run

_LARGEST_UPDATE = 1e15
"""A rate times a gradient beyond this is a divergence, before single precision overflows."""


class Ensemble:
    """Several runs with one leading axis.

    Run r sees the prompts, the parameters and the updates that it would see alone: its own generators, its own rows
    of every parameter, its own rate and clipping. The sum of the losses has as its gradient the gradients of the runs
    side by side. What differs from a run alone is rounding, by the order of sums within a matrix product.

    A run whose loss or gradient is not finite, or whose update would overflow, has diverged: it keeps its last finite
    parameters, and the others go on.

    Args:
        configs: runs of one shape (`iclens.training.shapes.shape_key`).
        device: where to train.
        processes: those that take a share of every batch each; their device counts. None for this one alone.

    Raises:
        UserError: no run, runs of different shapes, an impossible configuration, a device that this machine lacks, or
            fewer prompts than processes.

    Attributes:
        step_count: steps done.
        alive: runs that have not diverged.
        diverged_at: for every run the step at which it diverged, or −1.
    """

    def __init__(
        self, configs: Sequence[RunConfig], device: str | torch.device = "cpu", processes: Processes | None = None
    ) -> None:
        if not configs:
            raise UserError("an ensemble needs at least one run.")
        if len({shape_key(one) for one in configs}) > 1:
            raise UserError("the runs of an ensemble must have one shape; group them first.")
        self.configs = list(configs)
        self.processes = processes
        self.device = usable_device(device if processes is None else processes.device)
        self.settings = [one.training for one in configs]
        self.first = self.settings[0]
        self._share = slice(None) if processes is None else processes.share(self.first.batch)
        self._weight = 1.0 if processes is None else processes.weight(self.first.batch)
        self.dtype = prompt_dtype(self.first)
        with self._precision():
            self.tasks = [one.make_task() for one in configs]
            self.model: PromptModel = ensemble_model(configs, self.tasks[0]).to(self.device)
        for one in configs:
            one.check_model(self.model)
        self.optimizer = RunsOptimizer(self.model, self.settings)
        self.stream = PromptStream(configs, self.tasks, self.device)
        self.step_count = 0
        self.alive = torch.ones(len(configs), dtype=torch.bool, device=self.device)
        self.diverged_at = torch.full((len(configs),), -1, dtype=torch.long, device=self.device)
        self._answer: Callable[..., Tensor] = torch.compile(self.model) if self.first.compile else self.model

    def step(self) -> Float[Tensor, " runs"]:
        """One optimiser step on every run; the losses before it, NaN for runs that have diverged.

        Nothing waits for the device.
        """
        step = self.step_count
        with self._precision():
            inputs, labels = self.stream.at(step)
            self.optimizer.zero_grad()
            losses = self._weight * self.losses(inputs[:, self._share], labels[:, self._share], step)
            # A diverged run must not reach the others, and its own gradients are dropped below.
            torch.where(self.alive, losses, torch.zeros_like(losses)).sum().backward()
            norms = self.optimizer.gather()
            if self.processes is not None:
                losses = self.processes.sum(self.optimizer.gradients, losses.detach())
                norms = self.optimizer.norms()
            schedule = self._column([_schedule(one, step) for one in self.settings])
            update = norms * self.optimizer.rate.squeeze(1) if self.first.optimizer in ("sgd", "gd") else norms
            finite = losses.detach().isfinite() & norms.isfinite() & (update < _LARGEST_UPDATE)
            self.diverged_at.masked_fill_(self.alive & ~finite, step)
            self.alive &= finite
            self.optimizer.step(step, schedule, norms, self.alive)
        self.step_count += 1
        return losses.detach().masked_fill(~self.alive, math.nan)

    def losses(self, inputs: Tensor, labels: Tensor, step: int) -> Float[Tensor, " runs"]:
        """Return the mean loss of every run on these prompts, before its gradient is taken."""
        mixed = self.first.dtype == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext():
            predictions = self._answer(inputs, labels)
        each = point_losses(predictions.to(labels.dtype), labels, self.first.loss_kind)
        if self.first.loss == "query":
            return each[..., -1].mean(-1)
        points = self.stream.n_points(step)
        if min(points) == max(points):
            return each.mean((-2, -1))
        counted = self._column(points)
        known = torch.arange(each.shape[-1], device=self.device) < counted.unsqueeze(1)
        return (each.mean(-2) * known).sum(-1) / counted

    @torch.no_grad()
    def evaluate(self, runs: Sequence[int] | None = None) -> list[Float[Tensor, " n_answers"]]:
        """For every run the mean loss of each answer on its evaluation prompts, which are always the same.

        The prompts have the run's full `n_context` and no curriculum.

        Args:
            runs: only these; all when None.
        """
        chosen = range(len(self.configs)) if runs is None else runs
        with self._precision():
            prompts = [evaluation_prompts(*one) for one in zip(self.configs, self.tasks, strict=True)]
            if len({one.inputs.shape for one in prompts}) > 1:
                return [self._errors_of(run, prompts[run]) for run in chosen]
            errors = self._errors_together(prompts)
            return [errors[run] for run in chosen]

    def _errors_together(self, prompts: Sequence[PromptBatch]) -> list[Tensor]:
        inputs, labels = (torch.stack([getattr(one, name) for one in prompts]) for name in ("inputs", "labels"))
        errors = []
        # No more memory than a step takes, however many prompts there are.
        for some in zip(inputs.split(self.first.batch, 1), labels.split(self.first.batch, 1), strict=True):
            x, y = (one.to(self.device) for one in some)
            errors.append(point_losses(self.model(x, y).to(y.dtype), y, self.first.loss_kind))
        return list(torch.cat(errors, 1).mean(1))

    def _errors_of(self, run: int, prompt: PromptBatch) -> Tensor:
        inputs, labels = prompt.inputs.to(self.device), prompt.labels.to(self.device)
        model, errors = self.alone(run), []
        for x, y in zip(*(tensor.split(max(64, self.first.batch)) for tensor in (inputs, labels)), strict=True):
            errors.append(point_losses(model(x.unsqueeze(0), y.unsqueeze(0))[0], y, self.first.loss_kind))
        return torch.cat(errors).mean(0)

    def alone(self, run: int) -> PromptModel:
        """Return a copy of one run's model."""
        return run_model(self.configs[run], self.tensors(run)).to(self.device)

    def tensors(self, run: int) -> dict[str, Tensor]:
        """Parameters of one run as the run alone has them, without the axis of runs, on the CPU."""
        return tensors_of_run(self.model, self.configs, run)

    def _column(self, values: Sequence[float] | Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _precision(self) -> AbstractContextManager[None]:
        return default_dtype(self.dtype)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, for a checkpoint."""
        return {
            "values": self.optimizer.values,
            **{f"optimizer.{name}": value for name, value in self.optimizer.state.items()},
            "generators": self.stream.state(self.step_count),
            "step": torch.tensor(self.step_count),
            "alive": self.alive,
            "diverged_at": self.diverged_at,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state: the following steps are those that would have followed it, bit for bit.

        Raises:
            UserError: the state is that of other runs.
        """
        own = self.state()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
            raise UserError("the checkpoint was made by other runs; remove it to start again.")
        for name, value in own.items():
            if name not in ("generators", "step"):
                value.copy_(state[name])
        self.step_count = int(state["step"])
        self.stream.restore(state["generators"])


def usable_device(name: str | torch.device) -> torch.device:
    """Return the device of this name.

    Raises:
        UserError: no such kind of device, or none on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _unknown(name) from None
    if device.type not in ("cpu", "cuda"):
        raise _unknown(name)
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        gpus = "no GPU that torch can use" if not found else f"{found} GPUs" if found > 1 else "1 GPU"
        raise UserError(f"there is no device {str(name)!r}: this machine has {gpus}.")
    return device


def _unknown(device: str | torch.device) -> UserError:
    return UserError(f"unknown device {str(device)!r}: use cpu, cuda, or cuda:1 for the second GPU.")


def run_model(config: RunConfig, tensors: dict[str, Tensor]) -> PromptModel:
    """Return the model of one finished run.

    Args:
        config: of the run.
        tensors: its parameters, without the axis of runs.

    Raises:
        UserError: parameters that do not fit the configuration.
    """
    task = config.make_task()
    dtype = next(iter(tensors.values())).dtype
    with default_dtype(dtype):
        model = config.model_class()(task.d, task.d_y, [config.seed], **config.model.options)
    try:
        model.load_state_dict({name: value.unsqueeze(0) for name, value in tensors.items()})
    except RuntimeError as error:
        raise UserError(f"the stored parameters do not fit the configuration: {str(error).splitlines()[-1]}") from None
    return model.eval()


def _schedule(settings: Training, step: int) -> float:
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "constant":
        return warm
    done = step / settings.steps
    return warm * (1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2)
