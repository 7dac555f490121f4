"""GLUE's data: from the hub, from a folder in GLUE's own layout, or from JSON lines and tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.glue import Example, GlueTask, TaskData, task_named


def load_task(name: str, source: str) -> TaskData:
    """Real data of a task.

    Args:
        name: which task.
        source: `"glue"` for the hub's data set of that name, read with the optional library `datasets`; or a folder
            that holds a subfolder for each task, called as GLUE does (`CoLA`) or by the task's name (`cola`). In it lie
            GLUE's own `train.tsv` and `dev.tsv`; or `train` and `validation` as `.jsonl` or `.csv`, columns as on the
            hub (`sentence`, or `sentence1` and `sentence2`, and `label`); or what `datasets` has saved
            (`save_to_disk`).

    Raises:
        UserError: the data cannot be had, or lack a column, a label or a split.
    """
    task = task_named(name)
    splits = _from_hub(task) if source == "glue" else from_folder(task, Path(source))
    parts = {}
    for part in ("train", "validation"):
        if part not in splits:
            raise UserError(
                f"{source}: the task {name} has no split {part!r}"
                + ("" if source == "glue" else f" ({', '.join(_files(task, part))})")
                + f"; it has {', '.join(splits) or 'none'}."
            )
        parts[part] = tuple(examples_of(task, splits[part], f"{source}, {name}, {part}"))
        if not parts[part]:
            raise UserError(f"{source}: the split {part!r} of the task {name} is empty.")
    return TaskData(task, parts["train"], parts["validation"], "GLUE" if source == "glue" else source, False)


def _datasets(why: str) -> Any:
    try:
        import datasets  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(
            f"{why} needs the library datasets: pip install datasets; or give data=generated, or data=FOLDER with "
            "GLUE's own train.tsv and dev.tsv for every task."
        ) from error
    return datasets


def _from_hub(task: GlueTask) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    datasets = _datasets("reading GLUE from the hub")
    try:
        return _renamed(task, datasets.load_dataset("glue", task.name))
    # Whatever the network, the cache or the library raises, the answer for the user is the same.
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"GLUE's {task.name} cannot be had from the hub ({first_line}); save it to a folder and give that, or "
            "data=generated."
        ) from error


def _renamed(task: GlueTask, splits: Mapping[str, Any]) -> dict[str, Any]:
    return {"validation" if name == task.validation else name: rows for name, rows in splits.items()}


def from_folder(task: GlueTask, folder: Path) -> Mapping[str, Iterable[Mapping[str, Any]]]:
    """Find a task's splits in a folder and read their rows.

    Raises:
        UserError: the folder or a split is missing, or cannot be read.
    """
    place = _place(task, folder)
    if (place / "dataset_dict.json").is_file():
        return _renamed(task, _datasets(f"reading {place}").load_from_disk(str(place)))
    splits = {}
    for part in ("train", "validation"):
        file = next((place / name for name in _files(task, part) if (place / name).is_file()), None)
        if file is not None:
            splits[part] = list(_READERS[file.suffix](file, task))
    if not splits:
        raise UserError(f"{place}: found none of {', '.join(_files(task, 'train'))}, nor a data set saved by datasets.")
    return splits


def _place(task: GlueTask, folder: Path) -> Path:
    """The subfolder of a task."""
    names = dict.fromkeys((task.title, task.name))
    try:
        found = [] if not folder.is_dir() else [one for one in folder.iterdir() if one.name in names and one.is_dir()]
    except OSError as error:
        raise UserError(f"data={folder} cannot be read: {error.strerror}.") from error
    if len(found) > 1:
        raise UserError(f"data={folder}: it has a folder {' and a folder '.join(names)}; keep one of them.")
    if found:
        return found[0]
    if not folder.is_dir():
        lacks = "it is not a folder"
    elif any((folder / name).is_file() for name in _files(task, "train")):
        lacks = f"it holds a task's files itself; give the folder that holds {task.title}"
    else:
        lacks = f"it has no folder {' or '.join(names)}"
    raise UserError(
        f"data={folder}: {lacks}. data is 'generated', 'glue', or a folder with a subfolder for every task."
    )


def _files(task: GlueTask, part: str) -> tuple[str, ...]:
    """The files that a split may be in; the first that is there counts."""
    return f"{part}.jsonl", f"{part}.csv", ("train" if part == "train" else task.dev) + ".tsv"


def _jsonl(file: Path, task: GlueTask) -> Iterator[Mapping[str, Any]]:
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


def _csv(file: Path, task: GlueTask) -> Iterator[Mapping[str, Any]]:
    try:
        for number, row in enumerate(csv.DictReader(io.StringIO(_text(file), newline="")), 1):
            if None in row:
                raise UserError(f"{file}, example {number}: it has more cells than the first line has names.")
            yield row
    except csv.Error as error:
        raise UserError(f"{file}: no table of comma-separated values ({error}).") from error


def _tsv(file: Path, task: GlueTask) -> Iterator[Mapping[str, Any]]:
    """The rows of one of GLUE's own files, under the hub's names: cells between tabs, in which quotes mean nothing."""
    text = _text(file)
    if not text.strip():
        return
    lines = text.removesuffix("\n").split("\n")
    names, first = (task.no_header, 1) if task.no_header else (tuple(lines[0].split("\t")), 2)
    for column in task.in_files:
        if column not in names:
            wanted = ", ".join(task.in_files)
            raise UserError(f"{file}: its first line names no column {column!r}; GLUE's {task.title} names {wanted}.")
    whose = f"GLUE's {task.title} has, {', '.join(names)}, without a line of names" if first == 1 else "line 1 has"
    for number, line in enumerate(lines[first - 1 :], first):
        cells = line.split("\t")
        if len(cells) != len(names):
            raise UserError(f"{file}, line {number}: {len(cells)} cells between tabs, not {len(names)} as {whose}.")
        row = dict(zip(names, cells, strict=True))
        *texts, label = (row[column] for column in task.in_files)
        if not all(text.strip() for text in texts):
            raise UserError(f"{file}, line {number}: a sentence is empty.")
        if task.classes and label not in task.classes:
            raise UserError(f"{file}, line {number}: the label {label!r} is none of {', '.join(task.classes)}.")
        yield {**dict(zip(task.columns, texts, strict=True)), "label": _number(label, task)}


def _number(label: str, task: GlueTask) -> str | int:
    return task.classes.index(label) if task.classes else label


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error


_READERS = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}


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
