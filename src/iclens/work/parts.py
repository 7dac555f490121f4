"""Finished parts of long work on disk, until the whole is written: each under a key that says what it was made from.

A part's file holds the SHA-256 of its content and the content; it is written under another name and then renamed. So a
part is there whole or not at all, and one that belongs to other input, settings or weights is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from iclens.errors import UserError
from iclens.work.whole_files import write_atomically

_DIGEST = hashlib.sha256().digest_size
_ENDING = ".part"
_GRACE = 2.0
"""Seconds that a lock may be held by what a killed process leaves: its workers take a moment to see that it is gone."""

_LOCK = "lock"

_TRIES = 100
"""How often the lock is tried again because another process finished, and took the folder away, in that moment."""


class Parts:
    """The parts of one piece of work.

    Args:
        folder: where they are; it is made when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder is there inside, and no other process works on it.

        Raises:
            UserError: it cannot be made, or another process has it.
        """
        for _ in range(_TRIES):
            descriptor = self._opened_lock()
            if descriptor is None:
                continue
            try:
                if self._is_held_by(descriptor):
                    try:
                        yield
                    finally:
                        self._leave()
                    return
            finally:
                os.close(descriptor)
        raise self._busy()

    def read(self, key: str) -> bytes | None:
        """Return the content of a part; None when it is not there or not whole."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        digest, content = data[:_DIGEST], data[_DIGEST:]
        return content if hashlib.sha256(content).digest() == digest else None

    def write(self, key: str, content: bytes) -> None:
        """Keep a part.

        Raises:
            UserError: it cannot be written.
        """
        try:
            write_atomically(self._path(key), hashlib.sha256(content).digest() + content)
        except UserError as error:
            raise UserError(f"{error} What is finished is kept; the same command goes on.") from error

    def others(self, keys: set[str]) -> int:
        """Return how many parts are there of other prompts, options or weights."""
        return sum(path.stem not in keys for path in self.folder.glob("*" + _ENDING))

    def clear(self) -> None:
        """Take away all parts, whatever they belong to."""
        # Among them what a process that was killed while it wrote has left.
        for pattern in ("*" + _ENDING, ".iclens-*.tmp"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take away all parts and the lock, and the folder unless something else is in it."""
        self.clear()
        (self.folder / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _leave(self) -> None:
        """Take the folder away unless parts, or something else, are in it."""
        if self.folder.is_dir() and [path.name for path in self.folder.iterdir()] == [_LOCK]:
            self.remove()

    def _opened_lock(self) -> int | None:
        """Return the lock's file, open; None when the folder was taken away in that moment."""
        try:
            self.folder.mkdir(exist_ok=True)
            return os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError as error:
            if self.folder.parent.is_dir():
                return None
            reason = error.strerror
        except OSError as error:
            reason = "a file has that name" if self.folder.is_file() else error.strerror
        raise UserError(f"cannot keep finished parts in {self.folder}: {reason}.")

    def _is_held_by(self, descriptor: int) -> bool:
        """Lock the open file; False when the lock has another file by now, as after its holder has finished.

        Raises:
            UserError: another process holds it.
        """
        import fcntl

        deadline = time.monotonic() + _GRACE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._busy() from None
                time.sleep(_GRACE / 40)
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.folder / _LOCK))
        except FileNotFoundError:
            return False

    def _busy(self) -> UserError:
        return UserError(f"another process is at work on {self.folder}: let it finish, or give another --out.")

    def _path(self, key: str) -> Path:
        return self.folder / (key + _ENDING)
