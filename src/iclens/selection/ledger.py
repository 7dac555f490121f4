"""What ran already, kept under a key that says what it was made from: a run that was stopped goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from iclens.errors import UserError
from iclens.work.parts import Parts


class Spent(UserError):
    """The budget of passes is spent."""


@dataclass
class Ledger:
    """Tokens that were read so far, and finished numbers on disk.

    Attributes:
        unit: tokens of one pass, a reading of the whole pool with one query.
        about: what all keys depend on: the model, the texts, the options.
        parts: where finished numbers are kept; None keeps nothing.
        tell: is called with the passes so far after every piece of work.
        tokens: tokens read so far, backward ones included.
    """

    unit: float
    about: Any = None
    parts: Parts | None = None
    tell: Callable[[float], None] = lambda passes: None
    tokens: int = field(default=0, init=False)

    @property
    def passes(self) -> float:
        """The passes that were spent so far, `tokens` / `unit`."""
        return self.tokens / self.unit

    def numbers(self, what: Any, compute: Callable[[], tuple[Any, int]]) -> Any:
        """Take numbers from the disk, or compute them and keep them; their tokens count either way.

        Args:
            what: all that they depend on beside `about`, as plain data.
            compute: gives the numbers, as plain data, and the tokens that were read for them.
        """
        (found,) = self.all_numbers([what], lambda missing: iter([(0, compute())]))
        return found

    def all_numbers(
        self, whats: Sequence[Any], compute: Callable[[Sequence[int]], Iterator[tuple[int, tuple[Any, int]]]]
    ) -> list[Any]:
        """Take several numbers from the disk, or compute those that are not there; each is kept as soon as it ends.

        Args:
            whats: what each depends on.
            compute: given the places among `whats` that are missing, gives for each its place among those, and the
                numbers and tokens, in any order.
        """
        keys = [self._key(one) for one in whats]
        found: dict[int, Any] = {}
        for place, key in enumerate(keys):
            kept = None if self.parts is None else self.parts.read(key)
            if kept is not None:
                found[place] = self._counted(*json.loads(kept))
        if missing := [place for place in range(len(keys)) if place not in found]:
            for number, (numbers, tokens) in compute(missing):
                place = missing[number]
                if self.parts is not None:
                    self.parts.write(keys[place], json.dumps([numbers, tokens]).encode())
                found[place] = self._counted(numbers, tokens)
        return [found[place] for place in range(len(keys))]

    def _key(self, what: Any) -> str:
        return hashlib.sha256(json.dumps([self.about, what], sort_keys=True).encode()).hexdigest()[:40]

    def _counted(self, numbers: Any, tokens: int) -> Any:
        self.tokens += tokens
        self.tell(self.passes)
        return numbers
