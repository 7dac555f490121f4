"""The folders of a store's runs: put in place whole, taken away whole."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from iclens.errors import UserError
from iclens.sweeps import run_folder

_KEY = re.compile(r"[0-9a-f]{8,64}")
_TEMPORARY = ".tmp-"


def is_key(name: str) -> bool:
    """Return whether a name may be a run's: 8 to 64 hexadecimal digits."""
    return _KEY.fullmatch(name) is not None


def is_temporary(name: str) -> bool:
    """Whether a name is that of a folder being written or deleted, or left by a process that was killed at that."""
    return name.startswith(_TEMPORARY)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence.

    Args:
        what: what is being done, e.g. `"create the store runs"`.

    Raises:
        UserError: for an `OSError` inside.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot {what}: {reason}. Nothing half-written was left.") from error


@dataclass(frozen=True)
class RunFolders:
    """A folder with one folder for each run, named by its key.

    Attributes:
        path: the folder.
        aside: where damaged runs are put.
    """

    path: Path
    aside: Path

    def __truediv__(self, key: str) -> Path:
        return self.path / key

    def names(self) -> set[str]:
        """Everything that lies there; nothing where the folder is missing.

        Raises:
            UserError: the folder cannot be read.
        """
        try:
            return set(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}.") from None

    def keys(self) -> set[str]:
        """Return the keys of the runs that lie there, damaged ones too."""
        return {name for name in self.names() if is_key(name)}

    def place(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Put a run there in one step.

        Returns:
            False if there is one already, which is left as it is.

        Raises:
            UserError: it cannot be written.
        """
        target, temporary = self / key, self._temporary(key)
        with writing(f"keep the run {key} in {self.path}"):
            try:
                temporary.mkdir()
                run_folder.write(temporary, files)
                try:
                    temporary.rename(target)
                except OSError:
                    if target.exists():
                        return False
                    raise
                run_folder.flush_folder(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return True

    def take_out(self, key: str) -> Path | None:
        """Give a run a temporary name, under which it is no longer there; None where it was not there.

        Raises:
            UserError: it cannot be renamed.
        """
        trash = self._temporary(key)
        with writing(f"delete the run {key} of {self.path}"):
            try:
                (self / key).rename(trash)
            except FileNotFoundError:
                return None
        return trash

    def set_aside(self, key: str) -> Path:
        """Move a damaged run out of the way; its new place.

        Raises:
            UserError: it cannot be moved.
        """
        target = self.aside / f"{key}-{secrets.token_hex(4)}"
        with writing(f"set the damaged run {key} of {self.path} aside"):
            self.aside.mkdir(exist_ok=True)
            (self / key).rename(target)
        return target

    def _temporary(self, key: str) -> Path:
        return self.path / f"{_TEMPORARY}{key}-{secrets.token_hex(8)}"
