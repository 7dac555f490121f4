"""The contexts that a model answers from, and what is explained of each: the whole response."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from iclens.errors import UserError
from iclens.lens import Lens, LensModel
from iclens.papers.attribution.contexts.cases import Case, case
from iclens.papers.attribution.contexts.facts import RELATIONS, Relation
from iclens.papers.attribution.scoring import Subject

MOST_WRITTEN = 24
"""Tokens of a response that the model writes."""

MOST_TRIED = 30
"""Contexts that are drawn for one that the model answers from."""


@dataclass(frozen=True)
class Answered:
    """A context with the response that is explained.

    Attributes:
        case: the context.
        subject: what is explained of it: log p of the whole response.
        response: the response.
        tried: how many contexts were drawn until this one.
    """

    case: Case
    subject: Subject
    response: str
    tried: int


def answered(
    lens_model: LensModel,
    folder: str,
    task: str,
    size: int,
    seed: int,
    clock: Callable[[], float] = time.process_time,
    relations: Mapping[str, Relation] = RELATIONS,
) -> Answered | None:
    """Return the first context drawn that the model answers from; None where it answers from none of `MOST_TRIED`.

    Of facts, the response is the one that the document says, and greedy decoding has to begin with it. Of passages, it
    is the first paragraph that the model writes by itself, and it has to write something.

    Raises:
        UserError: the data cannot be read, or a context does not fit the model.
    """
    generator = torch.Generator().manual_seed(seed)
    for tried in range(1, MOST_TRIED + 1):
        drawn = case(folder, task, size, generator, relations)
        response = drawn.answer or written(lens_model, drawn)
        if not response:
            continue
        readout = Lens(lens_model, drawn.prompt, response=response, held=False).readout
        subject = Subject(lens_model, drawn.prompt, readout, clock)
        if drawn.answer is None or bool(subject.lens().rerun([()]).answered[0]):
            return Answered(drawn, subject, response, tried)
    return None


def written(lens_model: LensModel, drawn: Case) -> str:
    """Return the first paragraph that the model writes to a context; empty where it ends its text at once."""
    try:
        lens = Lens(lens_model, drawn.prompt, generate=MOST_WRITTEN, held=False)
    except UserError as error:
        if "ends its text at once" not in str(error):
            raise
        return ""
    return lens.readout.answer.strip().split("\n")[0].strip()
