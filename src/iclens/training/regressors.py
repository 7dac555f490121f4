"""The bundled in-context regressors of the explorer's Lab view: one small transformer for each attention variant.

They read points (x, y) of one input dimension and answer a query. The task is a sum of two waves with noise, whose
best answer is known: ridge regression on the waves. All are trained alike but for their attention, by the lab's own
`train`; weights are rounded to float16 and the errors that are recorded are those of the rounded weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iclens import bundled
from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.intervals import estimate
from iclens.models.model import PromptModel
from iclens.tasks.task import Task
from iclens.training.config import RunConfig
from iclens.training.default_dtype import default_dtype
from iclens.training.loop import train
from iclens.training.reproducibly import reproducibly

VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regularized": {"alpha": 0.2},
    "augmented": {"g1": {"name": "adapter", "hidden": 16}},
    "negative": {"n_negatives": 1, "beta": 0.2},
}
"""The attention variants and their options."""

MOST_POINTS = 20
"""Demonstrations of the longest prompt that they read."""

STEPS = 5000
N_MEASURED = 4096
_MEASURED_AT = (1, 2, 4, 6, 8, 12, 16, 20)
_RECIPE = "recipe.json"


def folder() -> Path:
    """The folder of the weights that ship."""
    return bundled.path() / "regressors"


def config(variant: str, *, seed: int = 0, steps: int = STEPS) -> RunConfig:
    """How the regressor of one attention variant is trained.

    Raises:
        UserError: a variant that is not in `VARIANTS`.
    """
    return RunConfig.from_dict(
        {
            "seed": seed,
            "task": {
                "name": "trigonometric",
                "d": 1,
                "n_frequencies": 2,
                "frequency": 2.2,
                "cosines": True,
                "weight_std": 0.7,
                "noise_std": 0.2,
                "inputs": "uniform",
            },
            "model": {
                "name": "transformer",
                "n_layers": 3,
                "n_heads": 2,
                "width": 32,
                "ffn_width": 64,
                "activation": "relu",
                "positions": "learned",
                "max_points": MOST_POINTS + 1,
                "attention": variant,
                "attention_options": _options_of(variant),
            },
            "training": {
                "steps": steps,
                "batch": 32,
                "n_context": MOST_POINTS,
                "learning_rate": 3e-3,
                "warmup": 100,
                "schedule": "cosine",
                "clip": 1.0,
                "betas": [0.9, 0.98],
                "evaluate_every": 0,
                "evaluation_prompts": 1024,
            },
        }
    )


def _options_of(variant: str) -> dict[str, Any]:
    if variant not in VARIANTS:
        raise UserError(f"there is no bundled regressor with attention {variant!r}: there are {', '.join(VARIANTS)}.")
    return VARIANTS[variant]


def regressor_task() -> Task:
    """The task that all of them are trained on."""
    return config("softmax").make_task()


@cache
def load_regressor(variant: str = "softmax") -> PromptModel:
    """A bundled regressor in float64, in evaluation mode: one run that reads up to `MOST_POINTS` demonstrations.

    The model is shared by all callers and must not be changed.

    Raises:
        UserError: no such variant, or a damaged installation.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    chosen = config(variant)
    file = folder() / f"{variant}.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the bundled regressor {file} cannot be read ({error}): install iclens again.") from None
    return _model(chosen, tensors).eval().requires_grad_(False)


def _model(chosen: RunConfig, tensors: Mapping[str, Tensor]) -> PromptModel:
    """A run's model in float64, made without a change of the process's default dtype, on which other threads rely."""
    made = chosen.model_class()(1, 1, [chosen.seed], **chosen.model.options).double()
    made.load_state_dict({name: tensor.double().unsqueeze(0) for name, tensor in tensors.items()})
    return made


def recorded() -> dict[str, Any]:
    """What the shipped `recipe.json` says: the recipe, and the errors measured on new prompts."""
    return json.loads((folder() / _RECIPE).read_text(encoding="utf-8"))


def train_regressors(
    target: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    n_measured: int = N_MEASURED,
    advance: Callable[[str, int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train all of them one after the other and write their weights and `recipe.json` into an empty folder.

    One thread; equal seeds give equal weights on one machine.

    Args:
        target: an existing, empty folder.
        seed: of parameters and prompts.
        steps: optimiser steps of each.
        n_measured: new prompts on which each is measured.
        advance: called now and then with the variant, steps done, steps in all, and the training loss.

    Returns:
        What `recipe.json` holds.
    """
    from safetensors.torch import save_file

    records: dict[str, Any] = {}
    for variant in VARIANTS:
        chosen = config(variant, seed=seed, steps=steps)
        report = None if advance is None else _named(advance, variant)
        with reproducibly(seed, threads=1):
            run = train([chosen], advance=report)[0]
        if run.status != "finished":
            raise UserError(f"the training of {variant} diverged at step {run.diverged_at}: try another --seed.")
        rounded = {name: tensor.half().contiguous() for name, tensor in run.tensors.items()}
        file = target / f"{variant}.safetensors"
        save_file(rounded, file)
        records[variant] = {
            "config": chosen.to_dict(),
            "n_parameters": sum(tensor.numel() for tensor in rounded.values()),
            "seconds": round(run.seconds, 1),
            "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "error": errors(_model(chosen, rounded).eval(), n_measured),
        }
    document = {
        "torch": torch.__version__,
        "error": "mean squared error of the answer to the N-th prefix against the noisy label, on new prompts",
        "n_prompts": n_measured,
        "ridge": errors(None, n_measured),
        "regressors": records,
    }
    text = json.dumps(document, indent=1, default=dict) + "\n"
    (target / _RECIPE).write_text(text, encoding="utf-8")
    return document


@torch.no_grad()
def errors(model: PromptModel | None, n_prompts: int = N_MEASURED) -> dict[str, dict[str, float]]:
    """Mean squared errors by number of demonstrations, with 95 % intervals over prompts that no training saw.

    Args:
        model: a regressor in float64; None for the task's best estimator, ridge on the waves.
        n_prompts: how many prompts, the same for all.
    """
    from iclens.training.prompts import derived_seed

    learnt = regressor_task()
    generator = torch.Generator().manual_seed(derived_seed(0, "regressors measured"))
    with default_dtype(torch.float64):
        prompt = learnt.sample(generator, n_prompts, MOST_POINTS)
    if model is None:
        best = learnt.optimal()
        answers = build_estimator(best.estimator, best.options).prefixes(prompt.inputs, prompt.labels)
    else:
        pieces = zip(prompt.inputs.split(512), prompt.labels.split(512), strict=True)
        answers = torch.cat([model(x.unsqueeze(0), y.unsqueeze(0))[0] for x, y in pieces])
    squared = (answers - prompt.labels).square().sum(-1)
    found = {n: asdict(estimate(squared[:, n])) for n in _MEASURED_AT}
    return {str(n): {key: round(one[key], 5) for key in ("mean", "low", "high")} for n, one in found.items()}


def _named(advance: Callable[[str, int, int, float], None], variant: str) -> Callable[[int, int, float], None]:
    return lambda done, total, loss: advance(variant, done, total, loss)
