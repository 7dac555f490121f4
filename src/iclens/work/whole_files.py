"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iclens.errors import UserError
from iclens.work.workers import is_alive


def check_writable(path: Path) -> None:
    """Refuse a path that `write_atomically` could not write, before the work is done.

    Raises:
        UserError: the path is a folder, its folder is missing, or the folder cannot be written to.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file.")
    folder = path.parent
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"cannot write {path}: {folder} {problem}; create it first.")
    if not os.access(folder, os.W_OK) and not _is_device(path):
        raise UserError(f"cannot write {path}: no permission to write in the folder {folder}.")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it has either its old content or all of the new, never a part.

    The content goes to a temporary file beside the target, which then takes the target's name. A device or a
    pipe such as `/dev/stdout` is written directly.

    Args:
        path: the target; a symbolic link is followed.
        content: text (written as UTF-8) or bytes.

    Raises:
        UserError: the target cannot be written.
    """
    check_writable(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_device(path):
            path.write_bytes(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error


def make_folder(path: Path) -> None:
    """Create a folder with its parents, if it is not there yet.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has that name" if path.is_file() else error.strerror
        raise UserError(f"cannot create the folder {path}: {reason}.") from error


def check_new_folder(path: Path) -> None:
    """Refuse a folder that `whole_folder` could not create, before the work is done.

    Raises:
        UserError: it exists already, or its parent is missing or read-only.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already: give the name of a new folder.")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"cannot create {path}: {parent} is not a folder; create it first.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"cannot create {path}: no permission to write in {parent}.")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Create a folder that is there with all of its files after the `with` block, or not at all.

    Args:
        path: the folder; it must not exist.

    Yields:
        an empty folder beside it, to be filled; it takes the name `path` at the end of the block.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    check_new_folder(path)
    parent = path.absolute().parent
    temporary = parent / f"{_temporary_name()}{os.getpid()}_{secrets.token_hex(8)}.tmp"
    try:
        _clear_leftovers(parent)
        temporary.mkdir()
        yield temporary
        # Files of safetensors are private; the result is an ordinary folder.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        temporary.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file()


def _replace(target: Path, data: bytes) -> None:
    _clear_leftovers(target.parent)
    temporary = target.with_name(f"{_temporary_name()}{os.getpid()}_{threading.get_ident()}.tmp")
    try:
        # Opened rather than made by `tempfile`, whose private mode would survive the renaming.
        with temporary.open("wb") as file:
            file.write(data)
            # What this was made from may be deleted next: a power failure must not take both.
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_name() -> str:
    return f".iclens-{platform.node()}-"


def _clear_leftovers(folder: Path) -> None:
    """Remove what processes of this machine left that were killed while they wrote."""
    for path in folder.glob(f"{_temporary_name()}*.tmp"):
        number = path.name.removeprefix(_temporary_name()).removesuffix(".tmp").partition("_")[0]
        if not number.isdecimal() or is_alive(int(number)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
