"""Contexts with a question: sentences that contradict what models know, and passages of RTE."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from iclens.errors import UserError
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.retrieval import DEFAULT_DOCUMENTS
from iclens.papers.attribution.contexts.facts import RELATIONS, Relation

PASSAGES = ("rte-train", "rte-dev")
"""Tasks whose passages are premises of RTE; their questions are about rows of this file."""

ABOUT = "What do the documents say about this: {hypothesis}"
MOST_WORDS = 20
"""Words of a premise at most, so that a hundred of them fit a context."""

_HEAD = ["index", "sentence1", "sentence2", "label"]
_ENTAILED = "entailment"

T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A context with a question.

    Attributes:
        prompt: the documents and the question.
        holder: the document that holds what is asked for.
        answer: what it says against what models know; None where the model is to write what it likes.
    """

    prompt: Prompt
    holder: int
    answer: str | None = None


def case(
    folder: str,
    task: str,
    size: int,
    generator: torch.Generator,
    relations: Mapping[str, Relation] = RELATIONS,
) -> Case:
    """Draw a context of `n` documents.

    Args:
        folder: of the data, for passages.
        task: one of `PASSAGES`, or one of the relations.
        size: documents.
        generator: the only source of randomness.
        relations: by name, what the documents of facts are about.

    Raises:
        UserError: there is no such task, a file is missing or has another form, or there are too few documents.
    """
    if task in PASSAGES:
        return _passages(folder, task, size, generator)
    if task not in relations:
        raise UserError(f"there is no task {task!r}: there are {', '.join((*relations, *PASSAGES))}.")
    return _facts(relations, task, size, generator)


def _facts(relations: Mapping[str, Relation], name: str, size: int, generator: torch.Generator) -> Case:
    """One document holds the fact that is asked for; of the others about half have its form.

    Every document says something false of its own subject, no two the same, and no other one mentions what is
    asked for or its answer. The prompt ends with the beginning of the answer's sentence, so that the answer comes next.
    """
    relation = relations[name]
    (subject,) = _some(list(relation.truth), 1, generator)
    (answer,) = _some([one for one in relation.answers if one != relation.truth[subject]], 1, generator)
    alike = [(name, other) for other in relation.truth if other != subject]
    unlike = [(other, one) for other in relations if other != name for one in relations[other].truth]
    pools = [_some(pool, len(pool), generator) for pool in (alike, unlike)]
    left = {other: _some(list(one.answers), len(one.answers), generator) for other, one in relations.items()}
    others: list[str] = []
    said = {answer}
    while len(others) < size - 1:
        pool = pools[int(torch.rand(1, generator=generator) < 0.5)] or pools[0] or pools[1]
        if not pool:
            raise UserError(f"there are {len(others) + 1} documents of facts for {name}, but {size} are needed.")
        other, about = pool.pop()
        free = [one for one in left[other] if one not in said and one != relations[other].truth[about]]
        if not free:
            continue
        sentence = relations[other].said(about, free[0])
        if subject.lower() in sentence.lower() or answer.lower() in sentence.lower():
            continue
        said.add(free[0])
        others.append(sentence)
    place = int(torch.randint(size, (1,), generator=generator))
    documents = [*others[:place], relation.said(subject, answer), *others[place:]]
    template = f"{DEFAULT_DOCUMENTS} {relation.stem(subject)}"
    return Case(Prompt.from_documents(documents, relation.asked(subject), template), place, answer)


@dataclass(frozen=True)
class Row:
    """A premise of RTE and what is said to follow from it."""

    premise: str
    hypothesis: str
    follows: bool


def _passages(folder: str, task: str, size: int, generator: torch.Generator) -> Case:
    """Premises of different rows; the question is about the hypothesis that follows from one of them."""
    rows = [row for row in read_rows(folder, task) if row.follows]
    (asked,) = _some(rows, 1, generator)
    # The training rows fill up what the smaller file lacks.
    pool = [row.premise for name in dict.fromkeys((task, PASSAGES[0])) for row in read_rows(folder, name)]
    others = [premise for premise in dict.fromkeys(pool) if premise != asked.premise]
    if len(others) < size - 1:
        raise UserError(f"{task} has {len(others) + 1} passages of {MOST_WORDS} words, but {size} are needed.")
    chosen = _some(others, size - 1, generator)
    place = int(torch.randint(size, (1,), generator=generator))
    documents = [*chosen[:place], asked.premise, *chosen[place:]]
    return Case(Prompt.from_documents(documents, ABOUT.format(hypothesis=asked.hypothesis)), place)


@cache
def read_rows(folder: str, task: str) -> tuple[Row, ...]:
    """Return the short premises of one of the files of RTE, each once.

    Raises:
        UserError: the file is missing or has another form.
    """
    path = _file(folder, task)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as rows of RTE: {error}.") from error
    if not lines or lines[0] != _HEAD or any(len(line) != len(_HEAD) for line in lines):
        raise UserError(f"{path} is no file of RTE: its columns are {', '.join(_HEAD)}, between tabs.")
    found = {
        line[1].strip(): Row(line[1].strip(), line[2].strip(), line[3] == _ENTAILED) for line in reversed(lines[1:])
    }
    return tuple(row for row in reversed(found.values()) if 0 < len(row.premise.split()) <= MOST_WORDS)


def missing(folder: str, tasks: Sequence[str]) -> str:
    """Return what the folder lacks for these tasks, in one sentence; empty when everything is there."""
    paths = list(_files(folder, tasks))
    if paths and not folder:
        return "The data are named by data=FOLDER; docs/attribution.md says which files it holds."
    lacking = [str(path) for path in paths if not path.exists()]
    return f"The folder of the data lacks {lacking[0]}." if lacking else ""


def digest(folder: str, tasks: Sequence[str]) -> str:
    """Return a digest of the files that are read."""
    found = hashlib.sha256()
    for path in _files(folder, tasks):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _files(folder: str, tasks: Sequence[str]) -> Iterator[Path]:
    wanted = [name for name in PASSAGES if name in tasks]
    for name in dict.fromkeys((*wanted, *PASSAGES[: 1 if wanted else 0])):
        yield _file(folder, name)


def _file(folder: str, task: str) -> Path:
    return Path(folder, "glue", "RTE", f"{task.removeprefix('rte-')}.tsv")


def _some(entries: Sequence[T], count: int, generator: torch.Generator) -> list[T]:
    """Draw `n` different entries in random order."""
    return [entries[i] for i in torch.randperm(len(entries), generator=generator)[:count].tolist()]
