"""What did this model learn? Everything that `iclens match` prints, as one result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.intervals import Estimate, estimate
from iclens.matching.distances import (
    alignment,
    implied_weight_difference,
    implied_weights,
    sensitivity,
    squared_prediction_difference,
)
from iclens.matching.dual_layers import HeadDual, dual_heads
from iclens.matching.layers import LayerMatch, layer_matches
from iclens.matching.predictor import Predictor, of_estimator, of_model
from iclens.matching.ridge_parameter import RidgeFit, best_ridge
from iclens.models.transformer import PromptTransformer
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.task import Task
from iclens.training.config import RunConfig
from iclens.training.ensemble import run_model
from iclens.training.prompts import derived_seed

ESTIMATORS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "zero": ("ridge", {"alpha": 1e12}),
    "mean": ("mean", {}),
    "averaging": ("averaging", {}),
    "3 nearest neighbours": ("nearest-neighbours", {"n_neighbors": 3}),
    "least squares": ("least-squares", {}),
    "gradient descent, 1 step": ("gradient-descent", {"n_steps": 1}),
    "newton, 3 steps": ("newton", {"n_steps": 3}),
    "newton, 10 steps": ("newton", {"n_steps": 10}),
}
"""What a model is compared with, besides the task's best estimator and the nearest ridge regression."""


@dataclass(frozen=True)
class Comparison:
    """A model beside one estimator.

    Attributes:
        estimator: its name here.
        error: the estimator's own mean squared error.
        spd: E ‖difference of predictions‖², with its 95 % interval over prompts.
        ilwd: E ‖difference of implied weights‖², likewise.
        alignment: mean cosine of the sensitivities ∂ŷ/∂x at the query.
    """

    estimator: str
    error: float
    spd: Estimate
    ilwd: Estimate
    alignment: float


@dataclass(frozen=True, repr=False)
class Match:
    """What a model learned.

    Attributes:
        error: the model's mean squared error, over the answers that it gives, with its 95 % interval over prompts.
        linearity: mean R² of the implied linear weights: 1 for a model that is linear in the query.
        comparisons: one for each estimator, the nearest first.
        ridge: the nearest ridge regression.
        bayes_alpha: σ²/τ², where the task's best estimator is a ridge regression on the inputs.
        layers: what each layer knows; empty for models that are not transformers.
        heads: the dual model of each head; empty likewise.
        n_prompts: number of prompts.
        n_context: demonstrations of each.
    """

    error: Estimate
    linearity: float
    comparisons: list[Comparison]
    ridge: RidgeFit
    bayes_alpha: float | None
    layers: list[LayerMatch]
    heads: list[HeadDual]
    n_prompts: int
    n_context: int

    def __repr__(self) -> str:
        nearest = ", ".join(f"{one.estimator} {one.spd.mean:.3g}" for one in self.comparisons[:3])
        return f"<Match on {self.n_prompts} prompts: error {self.error.mean:.4g}; nearest by spd: {nearest}>"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        data = dataclasses.asdict(self)
        data["ridge"] = self.ridge._asdict()
        return data


def match(
    config: RunConfig,
    tensors: Mapping[str, Tensor],
    *,
    n_prompts: int = 256,
    n_context: int | None = None,
    seed: int = 0,
    estimators: Sequence[str] = (),
) -> Match:
    """Compare a trained model with known algorithms, on fresh prompts of its own task, in double precision.

    Gradient descent with one step has the rate that brings it nearest to the model.

    Args:
        config: of the run.
        tensors: its parameters.
        n_prompts: number of prompts.
        n_context: demonstrations; those of the training when None.
        seed: of the prompts.
        estimators: registered names to compare with, besides the standard ones.

    Raises:
        UserError: a classification task, an unknown estimator, or too many demonstrations for the model.
    """
    if config.training.loss_kind != "squared":
        raise UserError("match compares predictions of numbers; this run was trained on classes (cross-entropy).")
    if n_prompts < 8:
        raise UserError(f"n_prompts={n_prompts} must be at least 8.")
    task = config.make_task()
    model = run_model(config, {name: value.double() for name, value in tensors.items()})
    n_context = config.training.n_context if n_context is None else n_context
    model.check_points(n_context + 1)
    generator = torch.Generator().manual_seed(derived_seed(seed, "match"))
    prompt = _double(task.sample(generator, n_prompts, n_context))
    queries = task.sample_inputs(generator, (n_prompts,), max(4 * task.d, 8)).double()
    own = of_model(model)
    with torch.no_grad():
        answers = own(prompt.inputs, prompt.labels)
        weights, explained = implied_weights(own, prompt, queries)
    own_sensitivity = sensitivity(own, prompt)
    error = squared_prediction_difference(answers, prompt.labels[:, -answers.shape[1] :]).mean(-1)
    ridge = best_ridge(answers, prompt)

    found = []
    for name, predictor in _predictors(task, ridge, answers, prompt, estimators).items():
        with torch.no_grad():
            theirs = predictor(prompt.inputs, prompt.labels)[:, -answers.shape[1] :]
            their_weights, _ = implied_weights(predictor, prompt, queries)
        aligned = alignment(own_sensitivity, sensitivity(predictor, prompt))
        labels = prompt.labels[:, -answers.shape[1] :]
        found.append(
            Comparison(
                name,
                float(squared_prediction_difference(theirs, labels).mean()),
                estimate(squared_prediction_difference(answers, theirs).mean(-1)),
                estimate(implied_weight_difference(weights, their_weights)),
                float(aligned.nanmean()),
            )
        )
    layers: list[LayerMatch] = []
    heads: list[HeadDual] = []
    if isinstance(model, PromptTransformer):
        n_fit = max(n_prompts, 8 * model.width)
        layers = layer_matches(model, _double(task.sample(generator, n_fit, n_context)), prompt)
        heads = dual_heads(model, prompt)
    return Match(
        estimate(error),
        float(explained.mean()),
        sorted(found, key=lambda one: one.spd.mean),
        ridge,
        _bayes_alpha(task),
        layers,
        heads,
        n_prompts,
        n_context,
    )


def _predictors(
    task: Task, ridge: RidgeFit, answers: Tensor, prompt: PromptBatch, further: Sequence[str]
) -> dict[str, Predictor]:
    optimal = task.optimal()
    named = {f"best known: {optimal.estimator}": (optimal.estimator, optimal.options)}
    named |= {f"ridge, nearest α = {ridge.alpha:.3g}": ("ridge", {"alpha": ridge.alpha})}
    named |= dict(ESTIMATORS)
    name = "gradient descent, 1 step"
    named[name] = ("gradient-descent", {"n_steps": 1, "learning_rate": _one_step_rate(answers, prompt)})
    named |= {one: (one, {}) for one in further}
    return {label: of_estimator(build_estimator(one, options)) for label, (one, options) in named.items()}


def _one_step_rate(answers: Tensor, prompt: PromptBatch) -> float:
    """Return the η whose one step from 0 is nearest to the answers: one step is linear in η, so it is a projection."""
    unit = build_estimator("gradient-descent", {"n_steps": 1, "learning_rate": 1.0})
    step = unit.prefixes(prompt.inputs, prompt.labels)[:, -answers.shape[1] :]
    return float((answers * step).sum() / step.square().sum().clamp_min(1e-300))


def _bayes_alpha(task: Task) -> float | None:
    optimal = task.optimal()
    if optimal.estimator != "ridge" or optimal.options.get("features") is not None:
        return None
    alpha = optimal.options["alpha"]
    return float(alpha) if isinstance(alpha, int | float) else None


def _double(prompt: PromptBatch) -> PromptBatch:
    function = {name: value.double() if value.is_floating_point() else value for name, value in prompt.function.items()}
    return PromptBatch(prompt.inputs.double(), prompt.labels.double(), function)
