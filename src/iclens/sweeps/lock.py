"""A lock between processes that the operating system frees when its holder dies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iclens.errors import UserError

WAIT_SECONDS = 60.0
"""How long to wait for another process."""


@contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock of a file: alone, or together with others that do not ask to be alone.

    Args:
        path: a file that is made where it is missing, and stays.
        exclusive: alone.

    Raises:
        UserError: the file cannot be made or locked, or others held it for too long.
    """
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot lock {path.parent}: {error.strerror}.") from error
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"other processes held {path.parent} locked for {WAIT_SECONDS:.0f} s.") from None
                time.sleep(0.01)
            except OSError as error:
                raise UserError(f"cannot lock {path.parent}: {error.strerror}.") from error
        yield
    finally:
        os.close(descriptor)
