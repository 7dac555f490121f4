"""Two prompts of one pool side by side: what was dropped, what was added, and the fewest that changed their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iclens.lens.differences.places import unmoved
from iclens.lens.prompt.prompt import Prompt
from iclens.selection import Example, Selection
from iclens.selection.writing import Writing

DROPPED, ADDED, MOVED, KEPT = "dropped", "added", "moved", "kept"

_QUERY = "\N{OBJECT REPLACEMENT CHARACTER}"
_TURNS = "User: {input}\nAssistant: {output}"


@dataclass(frozen=True)
class Block:
    """A demonstration where it stands in one of two prompts.

    Attributes:
        index: its number in the pool.
        text: as it is written there.
        fate: `"dropped"`, `"added"`, `"moved"` or `"kept"`.
        place: its place in this prompt, from 0.
        other: its place in the other one, or None.
    """

    index: int
    text: str
    fate: str
    place: int
    other: int | None


@dataclass(frozen=True)
class Written:
    """A prompt as it is shown.

    Attributes:
        instruction: what stands before the demonstrations, or None.
        blocks: its demonstrations.
        query: the query's text, cut where the input that is asked stands.
    """

    instruction: str | None
    blocks: tuple[Block, ...]
    query: tuple[str, ...]


def beside(found: Selection) -> tuple[Written, Written]:
    """The starting prompt and the chosen one."""
    still = unmoved(found.start, found.indices)
    before = _written(found, found.start, found.indices, still, DROPPED)
    return before, _written(found, found.indices, found.start, still, ADDED)


def _writing(found: Selection) -> Writing:
    """How pairs stand on the page: as in the prompt; of a chat by who says them, without the template's tokens."""
    if found.template is not None and found.separator is not None:
        return Writing(found.template, found.instruction, found.separator)
    return Writing(_TURNS, found.instruction)


def _written(found: Selection, order: Sequence[int], other: Sequence[int], still: set[int], lacking: str) -> Written:
    shots = [Example(found.demonstrations[i].input, found.demonstrations[i].output) for i in order]
    prompt: Prompt = _writing(found).prompt(shots, _QUERY)
    places = {index: i for i, index in enumerate(other)}
    blocks = tuple(
        Block(
            index,
            span.of(prompt.text),
            lacking if index not in places else KEPT if index in still else MOVED,
            place,
            places.get(index),
        )
        for place, (index, span) in enumerate(zip(order, prompt.demonstrations, strict=True))
    )
    instruction = None if prompt.instruction is None else prompt.instruction.of(prompt.text)
    return Written(instruction, blocks, tuple(prompt.query.of(prompt.text).split(_QUERY)))
