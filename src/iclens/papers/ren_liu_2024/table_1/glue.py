"""Tasks of GLUE: their columns, their classes and their metrics.

CoLA (is this sentence acceptable?), MRPC (do two sentences say the same?), STS-B (how similar are they, 0 to 5?) and
RTE (does the first entail the second?) are the columns of Table 1 of Ren & Liu 2024; Wang et al. 2019 (GLUE) define
the metrics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from iclens.errors import UserError


@dataclass(frozen=True)
class GlueTask:
    """One of GLUE's tasks.

    Attributes:
        name: GLUE's configuration name.
        title: as papers print it, and as GLUE's own folder is called.
        columns: the text columns, one or two.
        n_classes: number of classes; 1 for a graded label.
        metrics: what GLUE reports, in its order.
        in_files: what GLUE's own files call the text columns and then the label.
        classes: what they call the classes, in order; empty where they are numbers.
        no_header: the columns of GLUE's own files where their first line does not name them.
        validation: the hub's name of the validation split.
        dev: GLUE's own file of it, without its ending.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    n_classes: int
    metrics: tuple[str, ...]
    in_files: tuple[str, ...]
    classes: tuple[str, ...] = ()
    no_header: tuple[str, ...] = ()
    validation: str = "validation"
    dev: str = "dev"

    @property
    def graded(self) -> bool:
        """Whether the label is a number and not a class."""
        return self.n_classes == 1


_PAIR = ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "cola", "CoLA", ("sentence",), 2, ("matthews",), ("sentence", "label"),
            no_header=("source", "label", "mark", "sentence"),
        ),
        GlueTask("mrpc", "MRPC", _PAIR, 2, ("f1", "accuracy"), ("#1 String", "#2 String", "Quality")),
        GlueTask("stsb", "STS-B", _PAIR, 1, ("pearson", "spearman"), (*_PAIR, "score")),
        GlueTask("rte", "RTE", _PAIR, 2, ("accuracy",), (*_PAIR, "label"), _ENTAILS),
        GlueTask("sst2", "SST-2", ("sentence",), 2, ("accuracy",), ("sentence", "label")),
        GlueTask(
            "qnli", "QNLI", ("question", "sentence"), 2, ("accuracy",), ("question", "sentence", "label"), _ENTAILS
        ),
        GlueTask(
            "mnli", "MNLI", ("premise", "hypothesis"), 3, ("accuracy",), (*_PAIR, "gold_label"),
            ("entailment", "neutral", "contradiction"), validation="validation_matched", dev="dev_matched",
        ),
        GlueTask("wnli", "WNLI", _PAIR, 2, ("accuracy",), (*_PAIR, "label")),
    )
}  # fmt: skip
"""Classes as in GLUE: CoLA 1 = acceptable; MRPC 1 = the same meaning; RTE 0 = entailment, 1 = no entailment."""

TABLE_1 = ("cola", "mrpc", "stsb", "rte")
"""The paper's columns."""


@dataclass(frozen=True)
class Example:
    """One labelled sentence or pair.

    Attributes:
        texts: one or two sentences.
        label: the class as a number, or the grade.
        kind: how a generated example was made; empty for real data.
    """

    texts: tuple[str, ...]
    label: float
    kind: str = ""


@dataclass(frozen=True)
class TaskData:
    """A task with its examples.

    Attributes:
        task: which task.
        train: what is trained on.
        validation: what is measured on.
        source: where the examples are from, as tables print it.
        generated: whether the examples are of our own generator and not of GLUE.
    """

    task: GlueTask
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    source: str
    generated: bool

    @property
    def title(self) -> str:
        """The task's name as a table prints it; of generated examples it always says so."""
        return f"{self.task.title} (generated)" if self.generated else self.task.title

    @cached_property
    def digest(self) -> str:
        """A fingerprint of all examples."""
        text = json.dumps(
            [self.task.name, *([[list(e.texts), e.label] for e in part] for part in (self.train, self.validation))]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def task_named(name: str) -> GlueTask:
    """The task of this name.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}. Known: {', '.join(TASKS)}.")
    return TASKS[name]


def metrics(task: GlueTask, predictions: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
    """GLUE's metrics of a task, by scikit-learn and SciPy.

    Where a metric is undefined (constant predictions or labels for a correlation, no positive for F1) it is 0, as a
    predictor without information deserves.

    Args:
        task: which task.
        predictions: classes, or grades.
        labels: the right ones.

    Returns:
        the task's metrics: Matthews, Pearson and Spearman in [−1, 1], F1 and accuracy in [0, 1].

    Raises:
        UserError: lengths that differ, nothing to measure on, or a value that is not finite.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    given, right = np.asarray(predictions, dtype=float), np.asarray(labels, dtype=float)
    if given.shape != right.shape or given.ndim != 1 or len(given) == 0:
        raise UserError(f"{given.shape} predictions do not fit {right.shape} labels: give one of each per example.")
    if not (np.isfinite(given).all() and np.isfinite(right).all()):
        raise UserError(f"{task.name}: a prediction or a label is not finite.")
    constant = len(given) < 2 or np.ptp(given) == 0 or np.ptp(right) == 0
    computed = {
        "matthews": lambda: 0.0 if constant else matthews_corrcoef(right, given),
        "f1": lambda: f1_score(right, given, zero_division=0.0),
        "accuracy": lambda: accuracy_score(right, given),
        "pearson": lambda: 0.0 if constant else pearsonr(given, right).statistic,
        "spearman": lambda: 0.0 if constant else spearmanr(given, right).statistic,
    }
    return {name: float(computed[name]()) for name in task.metrics}


def headline(task: GlueTask, predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The task's one number: the mean of its metrics, as in GLUE's own average."""
    return float(np.mean(list(metrics(task, predictions, labels).values())))
