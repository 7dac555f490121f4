"""A file is written whole or not at all."""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.work import check_new_folder, check_writable, make_folder, whole_folder, write_atomically

LEFT = f".iclens-{platform.node()}-"
"""How the temporary files of this machine begin; the number of their process and .tmp follow."""


# The disk is waited for.
@settings(deadline=None)
@given(content=st.one_of(st.text(), st.binary()))
def test_what_was_written_is_read_back(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for left in (f"{LEFT}{ended.pid}.tmp", f"{LEFT}{ended.pid}_12.tmp"):
        (tmp_path / left).write_text("half")
    for kept in (f"{LEFT}{os.getppid()}_3.tmp", f".iclens-another-machine-{ended.pid}.tmp", f"{LEFT}x.tmp"):
        (tmp_path / kept).write_text("")
    write_atomically(tmp_path / "file", "all")
    assert len(list(tmp_path.iterdir())) == 4
    assert not list(tmp_path.glob(f"{LEFT}{ended.pid}*"))


def test_a_leftover_of_no_possible_process_is_in_nobodys_way(tmp_path):
    for number in (10**20, "²"):
        (tmp_path / f"{LEFT}{number}.tmp").write_text("")
    write_atomically(tmp_path / "file", "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{LEFT}².tmp", "file"]


def test_the_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """What it was made from may be deleted next."""
    flushed, renamed = {}, []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor):
        sync(descriptor)
        flushed[os.fstat(descriptor).st_ino] = os.fstat(descriptor).st_size

    def replaced(self, target):
        renamed.append(flushed.get(self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "file", "all of it")
    assert renamed == [len("all of it")]


def test_a_new_file_has_the_mode_that_open_gives(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "file", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_a_symbolic_link_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_directly(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_bad_paths_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path: "it is a folder; give the name of a file",
        tmp_path / "missing" / "x": "missing does not exist; create it first",
        tmp_path / "file" / "x": "file is not a folder",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            check_writable(path)
        with pytest.raises(UserError, match=message):
            write_atomically(path, "x")
    assert not (tmp_path / "missing").exists()


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # Root may write everywhere, so the permission is taken from the answer, not from the folder.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission to write in the folder"):
        check_writable(tmp_path / "x")


def test_a_folder_is_made_with_its_parents_once(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot create the folder .*file: a file has that name"):
        make_folder(tmp_path / "file")


def test_threads_of_one_process_write_in_one_folder(tmp_path):
    def write(number):
        for _ in range(20):
            write_atomically(tmp_path / f"{number}", f"{number}" * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"{n}": f"{n}" * 1000 for n in range(4)}


def test_a_folder_appears_when_all_of_it_is_written(tmp_path):
    with whole_folder(tmp_path / "new") as made:
        (made / "file").write_text("all")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new" / "file").read_text() == "all"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new", tmp_path / "new" / "file")]
    assert modes == [0o755, 0o644]


def fill_half(path, error):
    with whole_folder(path) as made:
        (made / "file").write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), UserError),
        (ValueError(), ValueError),
        (KeyboardInterrupt(), BaseException),
    ],
)
def test_a_folder_that_is_not_finished_leaves_nothing(error, told, tmp_path):
    with pytest.raises(told):
        fill_half(tmp_path / "new", error)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_new_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    cases = {
        tmp_path: "exists already: give the name of a new folder",
        tmp_path / "link": "exists already",
        tmp_path / "missing" / "x": "missing is not a folder; create it first",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=message):
            check_new_folder(path)
        with pytest.raises(UserError, match=message), whole_folder(path):
            pytest.fail("the work was begun")
