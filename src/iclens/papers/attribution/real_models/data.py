"""Prompts of public data, from a folder that the user names: tasks of pairs, and prompts with a settling demonstration.

The folder's layout: `icl/TASK.json`, a list of `{"input", "output"}`; `icl/sst2/stsa.binary.train`, lines `0 text` and
`1 text`; `icl/cb/train.jsonl` and `val.jsonl` of CommitmentBank, as SuperGLUE has it; of `selection/superglue-rte`
`train.jsonl`, `dev.jsonl` and `test.jsonl`, with `input`, where `[SEP]` stands between premise and hypothesis, and
`output`; `disambiguation/FAMILY/10_shots/*.json`, of Ye et al. 2024.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from iclens.errors import UserError
from iclens.lens import Lens, LensModel
from iclens.lens.prompt.prompt import Prompt
from iclens.papers.attribution.scoring import Subject

Pair = tuple[str, str]

MOST_LABELS = 8
"""A task with no more different outputs than this asks for one of them: the others are the alternatives."""

_TEMPLATES = {
    "sentiment": "Review: {input}\nSentiment: {output}",
    "sst2": "Review: {input}\nSentiment: {output}",
    "ag_news": "Article: {input}\nTopic: {output}",
    "cb": "{input} True, false or neither?\nAnswer: {output}",
    "superglue-rte": "{input} True or false?\nAnswer: {output}",
}
_SAYS = {"entailment": "true", "contradiction": "false", "neutral": "neither"}
_TEMPLATE = "Q: {input}\nA: {output}"
_SHOTS = "10_shots"


@dataclass(frozen=True)
class Asked:
    """A prompt with its right answer.

    Attributes:
        prompt: demonstrations and a query.
        answer: the right one.
        labels: all answers that there are, where they are few; empty for a task with free answers.
        demonstrations: the pairs of the prompt.
    """

    prompt: Prompt
    answer: str
    labels: tuple[str, ...]
    demonstrations: tuple[Pair, ...]


def answering(lens_model: LensModel, asked: Asked, clock: Callable[[], float] = time.process_time) -> Subject:
    """Return a prompt of which the right answer is explained.

    Without labels, what is explained is its logit over those of the nine likeliest other tokens.
    """
    lens = Lens(lens_model, asked.prompt, answers=asked.labels or None, answer=asked.answer, held=False)
    return Subject(lens_model, asked.prompt, lens.readout, clock)


@dataclass(frozen=True)
class Task:
    """Pairs of input and output, and how a prompt of them is written.

    Raises:
        UserError: from `drawn` and `flipped`, for more pairs than there are, or labels that cannot be flipped.
    """

    name: str
    pairs: tuple[Pair, ...]
    template: str

    @property
    def labels(self) -> tuple[str, ...]:
        """The different outputs, where they are few; else none."""
        known = dict.fromkeys(output for _, output in self.pairs)
        return tuple(known) if len(known) <= MOST_LABELS else ()

    def drawn(self, generator: torch.Generator, count: int) -> list[Pair]:
        """Draw `n` different pairs in random order."""
        if count > len(self.pairs):
            raise UserError(f"the task {self.name} has {len(self.pairs)} pairs, but {count} are needed.")
        return [self.pairs[i] for i in torch.randperm(len(self.pairs), generator=generator)[:count].tolist()]

    def asked(self, demonstrations: Sequence[Pair], query: Pair) -> Asked:
        """Return the prompt of some demonstrations that asks for a pair's output."""
        prompt = Prompt.from_examples(list(demonstrations), query[0], self.template)
        return Asked(prompt, query[1], self.labels, tuple(demonstrations))

    def flipped(self, pairs: Sequence[Pair], count: int, generator: torch.Generator) -> tuple[list[Pair], list[bool]]:
        """Return the pairs with another label for `count` of them, and which these are."""
        if len(self.labels) < 2:
            raise UserError(f"the task {self.name} has no few labels, one of which could be exchanged for another.")
        chosen = set(torch.randperm(len(pairs), generator=generator)[:count].tolist())
        made = []
        for i, (given, label) in enumerate(pairs):
            others = [one for one in self.labels if one != label]
            made.append((given, others[int(torch.randint(len(others), (1,), generator=generator))]))
            if i not in chosen:
                made[-1] = given, label
        return made, [i in chosen for i in range(len(pairs))]


def missing(folder: str, tasks: Sequence[str], families: Sequence[str]) -> str:
    """Return what the folder lacks, in one sentence; empty when everything is there."""
    if not folder:
        return "The data are named by data=FOLDER; docs/attribution.md says which files it holds."
    lacking = [str(path) for path in _files(folder, tasks, families) if not path.exists()]
    return f"The folder of the data lacks {lacking[0]}." if lacking else ""


def digest(folder: str, tasks: Sequence[str], families: Sequence[str]) -> str:
    """Return a digest of the files that are read."""
    found = hashlib.sha256()
    for path in _files(folder, tasks, families):
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


@cache
def read_task(folder: str, name: str) -> Task:
    """Read a task's pairs, each input once.

    Raises:
        UserError: the file is missing or has another form.
    """
    rows: list[Pair] = []
    for path in _task_files(folder, name):
        try:
            rows += _rows(path, path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(f"{path} cannot be read as pairs of input and output: {error}.") from error
    known = {given: output for given, output in reversed(rows) if given and output}
    return Task(name, tuple(reversed(known.items())), _TEMPLATES.get(name, _TEMPLATE))


def _rows(path: Path, text: str) -> list[Pair]:
    if path.suffix == ".json":
        return [(str(row["input"]).strip(), str(row["output"]).strip()) for row in json.loads(text)]
    lines = [line for line in text.splitlines() if line.strip()]
    if path.suffix != ".jsonl":
        return [(line[2:].strip(), ("negative", "positive")[int(line[0])]) for line in lines]
    entries = [json.loads(line) for line in lines]
    if "premise" in entries[0]:
        return [(_follows(one["premise"], one["hypothesis"]), _SAYS[one["label"]]) for one in entries]
    return [(_follows(*one["input"].split(" [SEP] ")), one["output"]) for one in entries]


def _follows(premise: str, hypothesis: str) -> str:
    return f"{premise.strip()}\nQuestion: {hypothesis.strip().rstrip('.')}."


def settling_prompts(folder: str, family: str) -> Iterator[tuple[Asked, int]]:
    """Prompts of which one demonstration alone tells which of two rules holds, and its number; files take turns.

    Raises:
        UserError: a file has another form.
    """
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_family(folder, family).glob("*.json"))]
    try:
        for entries in zip(*(file["tasks"] for file in files), strict=False):
            for entry in entries:
                pairs = [_split(line) for line in entry["exemplars"].strip().split("\n")]
                query, _ = _split(entry["target_question"] + " ?")
                answers = (entry["target_answer"], entry["foil_answer"])
                prompt = Prompt.from_examples(pairs, query, "Input: {input} Output: {output}", separator="\n")
                yield Asked(prompt, answers[0], answers, tuple(pairs)), int(entry["exemplar_index_for_diff"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"a file of {_family(folder, family)} is not of the form of Ye et al. 2024: {error}."
        ) from error


def _split(line: str) -> Pair:
    given, label = line.removeprefix("Input: ").split(" Output: ")
    return given, label.strip()


def _task_files(folder: str, name: str) -> list[Path]:
    if name == "sst2":
        return [Path(folder, "icl", "sst2", "stsa.binary.train")]
    if name == "cb":
        return [Path(folder, "icl", "cb", f"{part}.jsonl") for part in ("train", "val")]
    if name == "superglue-rte":
        return [Path(folder, "selection", name, f"{part}.jsonl") for part in ("train", "dev", "test")]
    return [Path(folder, "icl", f"{name}.json")]


def _family(folder: str, name: str) -> Path:
    return Path(folder, "disambiguation", name, _SHOTS)


def _files(folder: str, tasks: Sequence[str], families: Sequence[str]) -> list[Path]:
    return [
        *(path for name in tasks for path in _task_files(folder, name)),
        *(_family(folder, name) for name in families),
    ]
