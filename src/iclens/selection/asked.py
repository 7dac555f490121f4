"""A query as tokens: what is read behind it, whatever demonstrations stand before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt import Prompt
from iclens.lens.read.margin import Readout
from iclens.lens.read.question import ask
from iclens.selection.examples import Example

MOST_LABELS = 10
"""Different outputs up to which they are the candidates, where none are named and most occur several times."""


@dataclass(frozen=True)
class Query:
    """An example whose answer is known, with its candidate answers as tokens.

    Attributes:
        example: the example.
        answers: the candidates, or the right answer alone.
        ids: their tokens behind a prompt.
        right: which of them is right.
        readout: what is differentiated: the logit of the right answer over the others' mean; of a free answer its
            log-probability.
    """

    example: Example
    answers: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    right: int
    readout: Readout

    @property
    def is_free(self) -> bool:
        """Whether any text may be the answer."""
        return len(self.answers) == 1


def read_query(lens_model: LensModel, prompt: Prompt, example: Example, candidates: Sequence[str]) -> Query:
    """Find the tokens of a query's answers behind a prompt; behind another one they are the same.

    Args:
        lens_model: the model.
        prompt: a prompt with this query.
        example: the query; its own candidates take the place of the task's.
        candidates: those of the task; none for free answers.

    Raises:
        UserError: the answer is unknown, is none of the candidates, or cannot be read.
    """
    among = example.candidates or tuple(candidates)
    if example.output is None:
        raise UserError(f"the example {example.input[:40]!r} has no output: its right answer must be known.")
    check_candidate(example.output, among, f"the example {example.input[:40]!r}")
    question = ask(lens_model, prompt, among or None, example.output)
    built = question.answers
    right = built.explained
    assert right is not None
    ids = tuple(one.read_ids for one in built.candidates)
    readout = question.settled if len(ids) > 1 else _log_probability(ids[0], example.output)
    assert readout is not None
    return Query(example, tuple(one.text for one in built.candidates), ids, right, readout)


def _log_probability(ids: tuple[int, ...], answer: str) -> Readout:
    """The log-probability of a whole answer."""
    return Readout(((0, ids[0], 0.0),), ids, answer=answer, measure="log_probability")


def check_candidate(output: str, candidates: Sequence[str], whose: str) -> None:
    """Refuse an output that is none of the candidates, where there are any.

    Raises:
        UserError: it is none.
    """
    if candidates and output.strip() not in [one.strip() for one in candidates]:
        named = ", ".join(map(repr, candidates))
        raise UserError(f"{whose} has the output {output!r}, which is none of the candidates ({named}).")


def candidates_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The outputs that occur, where they are few and most occur several times; else none: answers are free."""
    outputs = [one.output.strip() for one in examples if one.output is not None]
    known = tuple(sorted(set(outputs)))
    return known if 2 <= len(known) <= min(MOST_LABELS, len(outputs) / 2) else ()
