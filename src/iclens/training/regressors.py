"""The bundled in-context regressors of the explorer's Lab view: one small transformer for each attention variant.

They read points (x, y) of one input dimension and answer a query. The task is a sum of two waves with noise, whose
best answer is known: ridge regression on the waves. All are trained alike except for their attention, by the lab's own
`train`; weights are rounded to float16 and the errors that are recorded are those of the rounded weights.
`scripts/train_regressors.py` of the repository made them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from iclens import bundled
from iclens.errors import UserError
from iclens.models.model import PromptModel
from iclens.tasks.task import Task
from iclens.training.config import RunConfig

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
RECIPE = "recipe.json"


def folder() -> Path:
    """Return the folder of the weights that ship."""
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
    """Return the task that all of them are trained on."""
    return config("softmax").make_task()


@cache
def load_regressor(variant: str = "softmax") -> PromptModel:
    """Return a bundled regressor in float64, in evaluation mode: one run that reads up to `MOST_POINTS` demonstrations.

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
    # Not `run_model`: it changes the process's default dtype, on which other threads rely.
    model = chosen.model_class()(1, 1, [chosen.seed], **chosen.model.options).double()
    model.load_state_dict({name: tensor.double().unsqueeze(0) for name, tensor in tensors.items()})
    return model.eval().requires_grad_(False)


def recorded() -> dict[str, Any]:
    """Return what the shipped `recipe.json` says: the recipe, and the errors measured on new prompts."""
    return json.loads((folder() / RECIPE).read_text(encoding="utf-8"))
