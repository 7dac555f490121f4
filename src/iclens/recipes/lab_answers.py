"""Trained models of the lab and estimators side by side, on fresh prompts in double precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import build_estimator
from iclens.models.model import PromptModel
from iclens.recipes.table import Cell
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.task import Task
from iclens.training.default_dtype import default_dtype
from iclens.training.ensemble import run_model
from iclens.training.loop import TrainedRun
from iclens.training.prompts import derived_seed

_CHUNK = 1000
"""Prompts answered at once."""

_FEW = 50
"""Prompts held at once where they are long."""


def fresh_prompts(task: Task, seed: int, n_prompts: int, n_context: int) -> PromptBatch:
    """Prompts in float64 that no run with this seed was trained or evaluated on."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "fresh prompts of a recipe"))
    with default_dtype(torch.float64):
        return task.sample(generator, n_prompts, n_context)


def excess_error(model: PromptModel, task: Task, seed: int, n_prompts: int, n_context: int) -> float:
    """Mean of (ŷ − f(x))² at the query, without the label's noise, on fresh prompts of which few are held at once.

    The squared error less σ² has the same mean, but where a model is good its spread is that of the noise.

    Args:
        model: with one run, in float64.
        task: the prompts'.
        seed: of the prompts.
        n_prompts: how many.
        n_context: demonstrations.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "fresh prompts of a recipe"))
    total = 0.0
    for start in range(0, n_prompts, _FEW):
        with default_dtype(torch.float64):
            prompt = task.sample(generator, min(_FEW, n_prompts - start), n_context)
        truth = task.values(prompt.query.unsqueeze(-2), prompt.function)[:, 0]
        total += float((answers_of(model, prompt)[:, -1] - truth).square().sum())
    return total / n_prompts


def double_model(run: TrainedRun) -> PromptModel:
    """Return the model of a run, in float64."""
    return run_model(run.config, {name: value.double() for name, value in run.tensors.items()})


@torch.no_grad()
def answers_of(model: PromptModel, prompt: PromptBatch) -> Float[Tensor, "batch n_answers d_y"]:
    """Return what a model with one run answers."""
    pairs = zip(prompt.inputs.split(_CHUNK), prompt.labels.split(_CHUNK), strict=True)
    return torch.cat([model(inputs.unsqueeze(0), labels.unsqueeze(0))[0] for inputs, labels in pairs])


def one_step(prompt: PromptBatch, *, debiased: bool = False) -> Float[Tensor, "batch d_y"]:
    """(1/N) Σ_i y_i ⟨x_i, x⟩ at the query, with x_i − x̄ in place of x_i if `debiased`: a gradient step with η = 1."""
    return build_estimator("gradient-descent", {"n_steps": 1, "learning_rate": 1.0, "debiased": debiased}).predict(
        prompt
    )


def nearest_rate(answers: Tensor, step: Tensor) -> float:
    """Return the η whose step is nearest to the answers: a step from 0 is linear in η, so it is a projection."""
    return float((answers * step).sum() / step.square().sum())


def squared_error(one: Tensor, other: Tensor) -> float:
    """Mean of (one − other)²."""
    return float((one - other).square().mean())


def loss_rows(run: TrainedRun, **cells: Cell) -> list[dict[str, Cell]]:
    """Return the training curve of a run as rows with `step` and `loss`."""
    return [{**cells, "step": step, "loss": value} for step, name, _, value in run.metrics if name == "loss"]
