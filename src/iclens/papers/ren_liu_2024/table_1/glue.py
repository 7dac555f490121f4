"""Four tasks of GLUE: their columns, their metrics, and how their data are read.

CoLA (is this sentence acceptable?), MRPC (do two sentences say the same?), STS-B (how similar are they, 0 to 5?) and
RTE (does the first entail the second?) are the columns of Table 1 of Ren & Liu 2024; Wang et al. 2019 (GLUE) define
the metrics.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iclens.errors import UserError


@dataclass(frozen=True)
class GlueTask:
    """One of GLUE's tasks.

    Attributes:
        name: GLUE's configuration name.
        title: as papers print it.
        columns: the text columns, one or two.
        n_classes: number of classes; 1 for a graded label.
        metrics: what GLUE reports, in its order.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    n_classes: int
    metrics: tuple[str, ...]

    @property
    def graded(self) -> bool:
        """Whether the label is a number and not a class."""
        return self.n_classes == 1


TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask("cola", "CoLA", ("sentence",), 2, ("matthews",)),
        GlueTask("mrpc", "MRPC", ("sentence1", "sentence2"), 2, ("f1", "accuracy")),
        GlueTask("stsb", "STS-B", ("sentence1", "sentence2"), 1, ("pearson", "spearman")),
        GlueTask("rte", "RTE", ("sentence1", "sentence2"), 2, ("accuracy",)),
    )
}
"""Classes as in GLUE: CoLA 1 = acceptable; MRPC 1 = the same meaning; RTE 0 = entailment, 1 = no entailment."""


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
        task: which of the four.
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

    @property
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


def load_task(name: str, source: str) -> TaskData:
    """Real data of a task.

    Args:
        name: which task.
        source: `"glue"` for the hub's data set of that name, read with the optional library `datasets`; or a folder
            that holds, for each task, a subfolder of its name: either saved by `datasets` (`save_to_disk`) or with
            `train` and `validation` as `.jsonl` or `.csv`, columns as in GLUE (`sentence`, or `sentence1` and
            `sentence2`, and `label`).

    Raises:
        UserError: the data cannot be had, or lack a column, a label or a split.
    """
    task = task_named(name)
    splits = _from_hub(task) if source == "glue" else from_folder(task, Path(source))
    parts = {}
    for part in ("train", "validation"):
        if part not in splits:
            raise UserError(f"{source}: the task {name} has no split {part!r}; it has {', '.join(splits) or 'none'}.")
        parts[part] = tuple(examples_of(task, splits[part], f"{source}, {name}, {part}"))
        if not parts[part]:
            raise UserError(f"{source}: the split {part!r} of the task {name} is empty.")
    return TaskData(task, parts["train"], parts["validation"], "GLUE" if source == "glue" else source, False)


def _datasets(why: str) -> Any:
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(
            f"{why} needs the library datasets: pip install datasets; or use --data generated, or a folder with "
            "train.jsonl and validation.jsonl for every task."
        ) from error
    return datasets


def _from_hub(task: GlueTask) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    datasets = _datasets("reading GLUE from the hub")
    try:
        return dict(datasets.load_dataset("glue", task.name))
    # Whatever the network, the cache or the library raises, the answer for the user is the same.
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"GLUE's {task.name} cannot be had from the hub ({first_line}); save it to a folder and give that, or use "
            "--data generated."
        ) from error


def from_folder(task: GlueTask, folder: Path) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Find a task's splits in a folder and read their rows.

    Raises:
        UserError: the folder or a split is missing, or cannot be read.
    """
    place = folder / task.name
    if not place.is_dir():
        raise UserError(
            f"--data {folder}: {'it has no folder ' + task.name if folder.is_dir() else 'it is not a folder'}; give "
            "'generated', 'glue', or a folder with a subfolder for every task."
        )
    if (place / "dataset_dict.json").is_file():
        return dict(_datasets(f"reading {place}").load_from_disk(str(place)))
    splits = {}
    for part in ("train", "validation"):
        for suffix, read in ((".jsonl", _jsonl), (".csv", _csv)):
            file = place / f"{part}{suffix}"
            if file.is_file() and part not in splits:
                splits[part] = list(read(file))
    if not splits:
        raise UserError(f"{place}: found neither train.jsonl nor train.csv, nor a data set saved by datasets.")
    return splits


def _jsonl(file: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: not JSON ({getattr(error, 'msg', error)}).") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: expected an object with the columns and the label.")
        yield row


def _csv(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(_text(file), newline="")), 1):
            if None in row:
                raise UserError(f"{file}, example {number}: it has more cells than the first line has names.")
            yield row
    except csv.Error as error:
        raise UserError(f"{file}: no table of comma-separated values ({error}).") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


def examples_of(task: GlueTask, rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[Example]:
    """Make a task's examples of rows with its columns.

    Raises:
        UserError: a row lacks a column, or has a label of another kind; `where` names its place.
    """
    for number, row in enumerate(rows, 1):
        missing = [column for column in (*task.columns, "label") if row.get(column) is None]
        if missing:
            raise UserError(f"{where}, example {number}: the column {missing[0]!r} is missing.")
        try:
            label = float(row["label"])
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}, example {number}: the label {row['label']!r} is not a number.") from error
        if task.graded and not 0 <= label <= 5:
            raise UserError(f"{where}, example {number}: the grade {label:g} is not between 0 and 5.")
        if not task.graded and label not in range(task.n_classes):
            raise UserError(
                f"{where}, example {number}: the label {label:g} is none of 0 … {task.n_classes - 1}; GLUE hides the "
                "labels of its test sets (−1)."
            )
        yield Example(tuple(str(row[column]) for column in task.columns), label)
