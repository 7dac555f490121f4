"""One process at a time works on the parts of an output, whatever another does in that moment."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

import pytest

from iclens.errors import UserError
from iclens.work.parts import Parts


def finished_by_another(moment: str, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has another process end its work, and take the folder away, once: before the lock is opened, or is locked."""
    taken: list[str] = []
    module, name = {"opened": (os, "open"), "locked": (fcntl, "flock")}[moment]
    plain = getattr(module, name)

    def late(*arguments: object) -> object:
        if not taken and (moment == "locked" or arguments[0] == parts.folder / "lock"):
            taken.append(moment)
            parts.remove()
            shutil.rmtree(parts.folder, ignore_errors=True)
        return plain(*arguments)

    monkeypatch.setattr(module, name, late)
    return taken


@pytest.mark.parametrize("moment", ["opened", "locked"])
def test_a_lock_that_its_last_holder_took_away_is_no_lock(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path / "o.parquet.parts")
    taken = finished_by_another(moment, parts, monkeypatch)
    with parts.held():
        assert taken == [moment]
        with pytest.raises(UserError, match="another process is at work"), Parts(tmp_path / "o.parquet.parts").held():
            pass
        parts.write("0" * 40, b"content")
        assert parts.read("0" * 40) == b"content"
    with parts.held():
        pass


def test_a_lock_that_is_let_go_soon_is_waited_for(tmp_path: Path) -> None:
    """Workers of a killed process hold its lock until they notice that it is gone."""
    parts = Parts(tmp_path / "o.parquet.parts")
    with parts.held():
        lock = next(path for path in parts.folder.iterdir() if path.name == "lock")
    parts.folder.mkdir(exist_ok=True)
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release = threading.Timer(0.3, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        with parts.held():
            assert release.finished.is_set()
        release.join()


def test_a_folder_that_always_goes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path / "o.parquet.parts")
    plain = fcntl.flock

    def gone(descriptor: int, how: int) -> None:
        parts.remove()
        plain(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", gone)
    with pytest.raises(UserError, match="another process is at work"), parts.held():
        pass


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    missing = Parts(tmp_path / "nowhere" / "o.parquet.parts")
    with pytest.raises(UserError, match=r"cannot keep finished parts in .*: No such file"), missing.held():
        pass
    (tmp_path / "o.parquet.parts").write_text("")
    with pytest.raises(UserError, match="a file has that name"), Parts(tmp_path / "o.parquet.parts").held():
        pass
