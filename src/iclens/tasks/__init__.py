"""What is to be learnt in context."""

from iclens.tasks.draws import fixed_normal, integers, normal, subsets, uniform
from iclens.tasks.function_first import FunctionFirst
from iclens.tasks.linear_in_features import LinearInFeatures
from iclens.tasks.options import require_at_least_zero, require_counts, require_one_of, require_positive
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shifts import SHIFTS, Shift, shifted
from iclens.tasks.task import TASKS, Optimal, Task, build_task

__all__ = [
    "SHIFTS",
    "TASKS",
    "FunctionFirst",
    "LinearInFeatures",
    "Optimal",
    "PromptBatch",
    "Shift",
    "Task",
    "build_task",
    "fixed_normal",
    "integers",
    "normal",
    "require_at_least_zero",
    "require_counts",
    "require_one_of",
    "require_positive",
    "shifted",
    "subsets",
    "uniform",
]
