"""Turns a question that names a response, or asks for one, into a question that reads it."""

from __future__ import annotations

from dataclasses import replace

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.read.margin import MEASURES
from iclens.lens.read.question import Question
from iclens.lens.read.response import Response, check_room, generate, read_response
from iclens.lens.read.response_options import ResponseOptions


def responding(lens_model: LensModel, question: Question, *, write: bool = True) -> Question:
    """The same question, of which a whole response is explained, instead of answers, where its `writing` says so.

    Args:
        lens_model: the model; its weights are used only to generate.
        question: the prompt, with its response options in `writing`.
        write: whether the model may write a response; without it such a question is checked and stays as it is.

    Raises:
        UserError: options that contradict each other, or a response, statement or foil that cannot be read.
    """
    wanted = question.writing
    if wanted is None:
        return question
    _check(question, wanted)
    tokenized, limit = question.tokenized, lens_model.context_length
    if wanted.response is None:
        assert wanted.generate is not None
        check_room(tokenized, wanted.generate, limit)
        if not write:
            return question
        read = generate(lens_model, tokenized, wanted.generate, wanted.seed)
    else:
        read = read_response(wanted.response, tokenized, lens_model.tokenizer, limit)
    read = replace(read.stated(wanted.statement), measure=wanted.measure)
    asked = replace(question, response=read, readout=read.readout, writing=None)
    if wanted.foil is None:
        return asked
    other = _foil(read, wanted.foil, question, lens_model)
    return replace(asked, foil=replace(question, response=other, readout=other.readout, writing=None))


def _check(question: Question, wanted: ResponseOptions) -> None:
    for name in ("statement", "foil"):
        value = getattr(wanted, name)
        if value is not None and not isinstance(value, str):
            raise UserError(f"the {name} is a {type(value).__name__}: give it as text.")
    if wanted.generate is not None and (isinstance(wanted.generate, bool) or not isinstance(wanted.generate, int)):
        raise UserError(f"generate is {wanted.generate!r}: give a whole number of tokens.")
    if wanted.response is None and wanted.generate is None:
        given = {"statement": wanted.statement, "foil": wanted.foil}
        given["measure"] = None if wanted.measure == MEASURES[0] else wanted.measure
        for name, value in given.items():
            if value is not None:
                raise UserError(f"the {name} {value!r} is for a response: give response, or generate.")
    if wanted.response is not None and wanted.generate is not None:
        raise UserError("a response is given and another is to be generated: take one of the two.")
    if question.answers.candidates or question.readout is not None:
        raise UserError("a response takes the place of answers: give response or answers, not both.")
    if wanted.measure not in MEASURES:
        raise UserError(f"the measure is {wanted.measure!r}: give {' or '.join(map(repr, MEASURES))}.")
    if wanted.foil is not None and wanted.measure != MEASURES[0]:
        raise UserError("a foil is compared by log-probability: leave the measure out.")


def _foil(read: Response, foil: str, question: Question, lens_model: LensModel) -> Response:
    """Return the foil: a response of its own, or the response up to the statement with it in that one's place.

    Raises:
        UserError: it is empty, or what it is compared with.
    """
    tokenized, tokenizer, limit = question.tokenized, lens_model.tokenizer, lens_model.context_length
    if read.statement is None:
        other = read_response(foil, tokenized, tokenizer, limit, called="foil")
    else:
        wanted = foil.strip()
        if not wanted:
            raise UserError("the foil is empty: give a text to compare the statement with.")
        text = "".join(read.tokens)[: read.before] + wanted
        other = read_response(text, tokenized, tokenizer, limit, called="foil", as_is=True)
        other = other.part(read.before, len(text))
    if read.token_ids[: read.last] == other.token_ids[: other.last]:
        what = "response" if read.statement is None else "statement"
        raise UserError(f"the foil is the {what} itself: give another one to compare it with.")
    return other
