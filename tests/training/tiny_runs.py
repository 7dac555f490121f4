"""Configurations of runs that train in milliseconds."""

from __future__ import annotations

from iclens.training.config import RunConfig

TASK = {"name": "linear", "d": 3, "noise_std": 0.1}
MODEL = {"name": "transformer", "width": 8, "n_heads": 2, "ffn_width": 8}
TRAINING = {
    "steps": 6,
    "batch": 4,
    "n_context": 5,
    "learning_rate": 1e-2,
    "dtype": "float64",
    "evaluate_every": 0,
    "evaluation_prompts": 16,
}


def tiny(*, seed=0, task=(), model=(), training=(), **rest):
    """A configuration whose tables are those above with these values changed."""
    tables = {
        "task": {**TASK, **dict(task)},
        "model": {**MODEL, **dict(model)},
        "training": {**TRAINING, **dict(training)},
    }
    return RunConfig.from_dict({"seed": seed, **tables, **rest})
