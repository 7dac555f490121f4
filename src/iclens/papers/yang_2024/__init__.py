"""Yang et al. 2024: one-layer multi-head transformers learn ridge regression on in-context dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.papers.yang_2024.closed_forms import best_possible, excess, optimum, prediction_gap, smallest_loss
    from iclens.papers.yang_2024.deep_model import DeepDictionaryModel
    from iclens.papers.yang_2024.deep_training import DeepDictionaryTrainer
    from iclens.papers.yang_2024.model import DictionaryModel
    from iclens.papers.yang_2024.task import Dictionary, DictionaryTask
    from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining

__all__ = [
    "DeepDictionaryModel",
    "DeepDictionaryTrainer",
    "Dictionary",
    "DictionaryModel",
    "DictionaryTask",
    "DictionaryTrainer",
    "DictionaryTraining",
    "best_possible",
    "excess",
    "optimum",
    "prediction_gap",
    "smallest_loss",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "deep_model": "DeepDictionaryModel",
        "deep_training": "DeepDictionaryTrainer",
        "model": "DictionaryModel",
        "closed_forms": "best_possible excess optimum prediction_gap smallest_loss",
        "task": "Dictionary DictionaryTask",
        "training": "DictionaryTrainer DictionaryTraining",
    },
)
