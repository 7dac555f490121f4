"""What is to be learnt in context."""

from iclens.tasks.dictionary import Dictionary, DictionaryTask
from iclens.tasks.dictionary_optimum import best_possible, excess, optimum, prediction_gap, smallest_loss
from iclens.tasks.draws import fixed_normal, integers, normal, subsets, uniform
from iclens.tasks.function_first import FunctionFirst
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_at_least_zero, require_counts, require_one_of, require_positive
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.sentences import generate_sentences
from iclens.tasks.shifts import SHIFTS, Shift, shifted
from iclens.tasks.task import TASKS, Optimal, Task, build_task
from iclens.tasks.words import CATEGORY_OF, LABELS, VOCABULARY, WordPrompt, sample_words

__all__ = [
    "CATEGORY_OF",
    "LABELS",
    "SHIFTS",
    "TASKS",
    "VOCABULARY",
    "Dictionary",
    "DictionaryTask",
    "FunctionFirst",
    "LinearInFeatures",
    "Optimal",
    "PromptBatch",
    "Shift",
    "Task",
    "WordPrompt",
    "best_possible",
    "build_task",
    "excess",
    "fixed_normal",
    "generate_sentences",
    "integers",
    "normal",
    "optimum",
    "prediction_gap",
    "require_at_least_zero",
    "require_counts",
    "require_one_of",
    "require_positive",
    "sample_words",
    "shifted",
    "smallest_loss",
    "subsets",
    "uniform",
]
