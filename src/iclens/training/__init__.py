"""Training of small models on in-context tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.training.baseline import optimal_errors
    from iclens.training.config import Chosen, Curriculum, RunConfig, Training
    from iclens.training.config_file import read_config
    from iclens.training.ensemble import run_model
    from iclens.training.language.accuracy import accuracy_on_words
    from iclens.training.loop import TrainedRun, train
    from iclens.training.metric import Metric
    from iclens.training.prompts import evaluation_prompts
    from iclens.training.regressors import load_regressor, regressor_task

__all__ = [
    "Chosen",
    "Curriculum",
    "Metric",
    "RunConfig",
    "TrainedRun",
    "Training",
    "accuracy_on_words",
    "evaluation_prompts",
    "load_regressor",
    "optimal_errors",
    "read_config",
    "regressor_task",
    "run_model",
    "train",
]

# On first use: the store of runs needs `Metric` alone, and lists its runs without torch.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "baseline": "optimal_errors",
        "config": "Chosen Curriculum RunConfig Training",
        "config_file": "read_config",
        "ensemble": "run_model",
        "loop": "TrainedRun train",
        "metric": "Metric",
        "prompts": "evaluation_prompts",
        "regressors": "load_regressor regressor_task",
        "language.accuracy": "accuracy_on_words",
    },
)
