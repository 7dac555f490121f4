"""The one exception that a user's mistake raises, and the hint that it may carry."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 2; a library caller catches it
    as a `ValueError`.
    """


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A sentence with the known name nearest to a mistaken one, with a space before it; empty when none is near."""
    close = difflib.get_close_matches(str(name), [str(one) for one in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
