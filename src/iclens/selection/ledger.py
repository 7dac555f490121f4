"""What ran already, kept under a key that says what it was made from: a run that was stopped goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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
        """What was spent so far."""
        return self.tokens / self.unit

    def numbers(self, what: Any, compute: Callable[[], tuple[Any, int]]) -> Any:
        """Take numbers from the disk, or compute them and keep them; their tokens count either way.

        Args:
            what: all that they depend on beside `about`, as plain data.
            compute: gives the numbers, as plain data, and the tokens that were read for them.
        """
        key = hashlib.sha256(json.dumps([self.about, what], sort_keys=True).encode()).hexdigest()[:40]
        kept = None if self.parts is None else self.parts.read(key)
        if kept is None:
            numbers, tokens = compute()
            if self.parts is not None:
                self.parts.write(key, json.dumps([numbers, tokens]).encode())
        else:
            numbers, tokens = json.loads(kept)
        self.tokens += tokens
        self.tell(self.passes)
        return numbers
