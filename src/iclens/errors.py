"""The exception for mistakes of the user, the hint it may carry, and how to tell out-of-memory errors from others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message says what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 2; a library caller catches it
    as a `ValueError`.
    """


def said(error: Exception) -> str:
    """Return an error in one line: a user's mistake by its message alone, any other with its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether Python or PyTorch raised the error because there was not enough memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # PyTorch has no class of its own for the memory of the processor.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A sentence with the known name nearest to a mistaken one, with a space before it; empty when none is near."""
    close = difflib.get_close_matches(str(name), [str(one) for one in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
