"""Examples that are set aside: they take no part in a choice, and tell afterwards what it is worth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iclens.errors import UserError
from iclens.selection.examples import Example

HELD_OUT = 0.5
"""The part of the development examples that is set aside."""


def split_off(
    examples: Sequence[Example], part: float = HELD_OUT, seed: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide examples by their numbers: those to choose by, labels taking turns, and those that are set aside.

    Each label is divided in the same proportion, at random; nothing but the outputs is looked at.

    Raises:
        UserError: the part leaves one of the two empty.
    """
    if not 0 < part < 1:
        raise UserError(f"the part that is set aside is {part:g}: give a number between 0 and 1.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator).tolist()
    aside: set[int] = set()
    taken, seen = 0, 0
    for label in dict.fromkeys(one.output for one in examples):
        own = [i for i in order if examples[i].output == label]
        # Rounded over all labels together, so that many small ones do not all go to one side.
        seen += len(own)
        count = round(part * seen) - taken
        taken += count
        aside |= set(own[:count])
    chosen = in_turns([i for i in order if i not in aside], examples)
    if not chosen or not aside:
        raise UserError(
            f"{len(examples)} development examples are too few to set some aside: give more, or other examples as "
            "held_out."
        )
    return tuple(chosen), tuple(sorted(aside))


def in_turns(numbers: Sequence[int], examples: Sequence[Example]) -> list[int]:
    """Examples with their labels taking turns, so that any first few hold all labels alike."""
    of_each: dict[str | None, list[int]] = {}
    for i in numbers:
        of_each.setdefault(examples[i].output, []).append(i)
    return [own[turn] for turn in range(len(numbers)) for own in of_each.values() if turn < len(own)]
