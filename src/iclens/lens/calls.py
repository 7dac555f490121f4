"""What a caller hands over, checked before any work: the model, the prompt, groups of sources, names of scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, SupportsIndex

from iclens.errors import UserError
from iclens.lens.building import SCORES
from iclens.lens.model.loading import LensModel, load
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.question import Question
from iclens.lens.scores.method import ATTRIBUTIONS

_OURS = ("gradient_step", "path", "knock_out", "influence", "shares", "rerun")


def reading_model(model: Any, tokenizer: Any = None) -> LensModel:
    """The model that a user named, loaded or wrapped, with its tokenizer.

    Raises:
        UserError: it cannot be handled exactly, explains nothing, or has no tokenizer.
    """
    lens_model = load(model, tokenizer=tokenizer)
    if lens_model.tokenizer is None:
        raise UserError("a tokenizer is needed to read the prompt: explain(model, prompt, tokenizer=tokenizer).")
    lens_model.require_causal()
    return lens_model


def check_call(name: str, prompt: Any, misplaced: Sequence[Any], noun: str = "prompt") -> None:
    """Refuse another argument in the prompt's place, such as a tokenizer, which came second in earlier versions.

    Raises:
        UserError: it shows the call that is right.
    """
    right = f"{name}(model, {noun}, answers=[...]), with tokenizer=... for a Hugging Face model"
    if not isinstance(prompt, Prompt | Question | str | Iterable):
        verb = "is" if noun == "prompt" else "are"
        raise UserError(f"the {noun} {verb} a {type(prompt).__name__}: call {right}.")
    if misplaced:
        raise UserError(f"{name} takes model and {noun} by place, and the rest by name: call {right}.")


def check_sets(sets: Iterable[Iterable[SupportsIndex | str]], prompt: Prompt) -> list[tuple[int, ...]]:
    """Sets of sources, by number or by name, each sorted and without repetitions.

    Raises:
        UserError: a source that does not exist, or an empty set.
    """
    sets, n, noun = list(sets), len(prompt.sources), prompt.noun
    if any(isinstance(group, int | str) for group in sets):
        raise UserError(f"the groups to knock out are {sets!r}: give a list of groups, e.g. [(0,), (3, 7)].")
    named = {key: i for i, name in enumerate(prompt.source_names) for key in (str(name), name.id)}

    def number(member: SupportsIndex | str) -> int:
        if not isinstance(member, str):
            return index(member)
        if member not in named and not member.isdecimal():
            raise UserError(f"cannot knock out {member!r}: the prompt has no {noun} of that name: name one by number.")
        return named[member] if member in named else int(member)

    checked = [tuple(sorted({number(member) for member in group})) for group in sets]
    for members in checked:
        if not members:
            raise UserError(f"a group to knock out is empty: name at least one {noun}, e.g. 3,7.")
        for member in members:
            if not 0 <= member < n:
                raise UserError(f"cannot knock out {noun} {member}: the prompt has {n}, numbered from 0 to {n - 1}.")
    return checked


def check_scores(scores: Sequence[str]) -> list[str]:
    """Names of scores that are methods of the registry, the lens's own left out.

    Raises:
        UserError: no score, a name twice, or an unknown one.
    """
    if isinstance(scores, str):
        raise UserError(f"the scores are the text {scores!r}: give a list, e.g. scores=[{scores!r}].")
    if not scores:
        raise UserError(f"there are no scores: name at least one, e.g. {SCORES[0]}.")
    for name in scores:
        if list(scores).count(name) > 1:
            raise UserError(f"the score {name!r} is named twice: name each once.")
    others = [name for name in scores if name not in _OURS]
    for name in others:
        _ = ATTRIBUTIONS[name]
    return others
