"""A disk that is full, a folder that cannot be written, a clock that jumps, too little memory: one clear message each.

What was finished stays, nothing half-written does, and once there is room the same command ends as if nothing had
happened.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.faults.commands import WORKS


def mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)


def remount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


@pytest.fixture
def disk():
    """A function that makes an empty disk of a size; those who may not mount one are told so."""
    made = []

    def make(options: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="iclens-disk-"))
        folder.chmod(0o755)
        made.append(folder)
        try:
            mount(options, folder)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a disk of its own size can be mounted by root on Linux only")
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def one_message(outcome) -> None:
    """It failed, and said why in one line; a sweep says so once for every chunk that failed for a reason of its own."""
    assert outcome.orphans == 0
    assert outcome.status in (1, 2), outcome.said
    assert "Traceback" not in outcome.said, outcome.said
    told = [line for line in outcome.said.splitlines() if line.startswith(("error:", "not trained:"))]
    assert len(told) == len(set(told)) >= 1, outcome.said
    assert len(told) == 1 or all(line.startswith("not trained:") for line in told), outcome.said


def check_full(name, options, more, disk, commands, uninterrupted, counts):
    """Whether the disk was too small."""
    work = WORKS[name]
    expected, _ = uninterrupted(work)
    folder = disk(options)
    work.prepare(folder)
    outcome = commands.run(folder, *work.arguments)
    counts["full disks"] += outcome.status != 0
    if outcome.status == 0:
        assert work.result(folder) == expected
        return False
    one_message(outcome)
    whole = work.finished(folder)
    remount(more, folder)
    outcome = commands.run(folder, *work.arguments)
    assert outcome.statuses == [0], outcome.said
    harmed = work.harmed(whole, folder)
    counts["lost or changed"] += len(harmed)
    assert harmed == []
    assert work.result(folder) == expected
    assert work.left(folder) == []
    return True


def test_a_full_disk_is_one_message(disk, commands, uninterrupted, counts):
    assert check_full("train", "size=40k", "size=4m", disk, commands, uninterrupted, counts)


@pytest.mark.faults
@pytest.mark.parametrize("name", WORKS)
def test_disks_of_all_sizes(name, disk, commands, uninterrupted, counts):
    sizes = [*range(12, 128, 8), *range(128, 800, 32)]
    full = [check_full(name, f"size={size}k", "size=4m", disk, commands, uninterrupted, counts) for size in sizes]
    assert full[0]
    assert not full[-1]


@pytest.mark.faults
@pytest.mark.parametrize("name", WORKS)
def test_disks_with_room_for_so_many_files(name, disk, commands, uninterrupted, counts):
    full = [
        check_full(name, f"size=4m,nr_inodes={number}", "nr_inodes=1000", disk, commands, uninterrupted, counts)
        for number in range(3, 64, 4)
    ]
    assert full[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize("name", ["train", pytest.param("sweep", marks=pytest.mark.faults),
                                  pytest.param("reproduce", marks=pytest.mark.faults)])  # fmt: skip
def test_a_disk_that_is_read_only_is_one_message_and_stays_readable(name, disk, commands, uninterrupted, counts):
    work = WORKS[name]
    expected, _ = uninterrupted(work)
    folder = disk("size=4m")
    work.prepare(folder)
    remount("ro", folder)
    one_message(commands.run(folder, *work.arguments))
    counts["read-only folders"] += 1
    remount("rw", folder)
    assert commands.run(folder, *work.arguments).statuses == [0]
    before = contents(folder)
    remount("ro", folder)
    if name != "reproduce":
        assert commands.run(folder, "runs", "list").statuses == [0]
        assert commands.run(folder, "runs", "verify").statuses == [0]
        one_message(commands.run(folder, *work.arguments[:2], "training.steps=3", *work.arguments[2:]))
    assert contents(folder) == before
    assert work.result(folder) == expected


@pytest.mark.faults
@pytest.mark.parametrize("name", WORKS)
def test_a_folder_without_permission_is_one_message(name, commands, uninterrupted, counts):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    work = WORKS[name]
    uninterrupted(work)
    # Not below pytest's own folder, which others may not even enter.
    folder = Path(tempfile.mkdtemp(prefix="iclens-ours-"))
    folder.chmod(0o755)
    try:
        work.prepare(folder)
        before = contents(folder)
        one_message(commands.run(folder, *work.arguments, before=["as nobody"]))
        assert contents(folder) == before
        counts["folders without permission"] += 1
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["train", pytest.param("sweep", marks=pytest.mark.faults),
                                  pytest.param("reproduce", marks=pytest.mark.faults)])  # fmt: skip
def test_a_clock_that_jumps_changes_no_result(name, commands, uninterrupted, tmp_path, counts):
    work = WORKS[name]
    expected, _ = uninterrupted(work)
    work.prepare(tmp_path)
    outcome = commands.run(tmp_path, *work.arguments, before=["clock jumps"])
    assert outcome.statuses == [0], outcome.said
    assert work.result(tmp_path) == expected
    assert work.left(tmp_path) == []
    # What was made a year ahead or a day ago is as good as ever.
    whole = work.finished(tmp_path)
    assert commands.run(tmp_path, *work.arguments).statuses == [0]
    assert work.harmed(whole, tmp_path) == []
    counts["clocks that jumped"] += 1


@pytest.mark.parametrize(
    "fault", ["one task lacks memory", pytest.param("one task is killed", marks=pytest.mark.faults)]
)
def test_one_task_without_memory_keeps_no_other_from_its_end(fault, commands, uninterrupted, tmp_path, counts):
    work = WORKS["sweep"]
    expected, _ = uninterrupted(work)
    work.prepare(tmp_path)
    outcome = commands.run(tmp_path, *work.arguments, before=[fault])
    one_message(outcome)
    assert "memory" in outcome.said
    counts["tasks without memory"] += 1
    whole = work.finished(tmp_path)
    # Chunks of two, and two runs of the seed: at most four are missing.
    assert len(expected) - 4 <= len(whole) < len(expected)
    assert all(work.result(tmp_path)[name] == expected[name] for name in whole)
    assert commands.run(tmp_path, *work.arguments).statuses == [0]
    assert work.harmed(whole, tmp_path) == []
    assert work.result(tmp_path) == expected
    assert work.left(tmp_path) == []


@pytest.mark.faults
@pytest.mark.parametrize("arguments", [("training.batch=400000",), ("model.width=65536", "model.n_heads=2")])
def test_a_run_that_does_not_fit_is_one_message(arguments, commands, uninterrupted, tmp_path, counts):
    work = WORKS["train"]
    uninterrupted(work)
    work.prepare(tmp_path)
    outcome = commands.run(tmp_path, *work.arguments[:2], *arguments, *work.arguments[2:], before=["little memory"])
    one_message(outcome)
    assert "memory" in outcome.said
    counts["tasks without memory"] += 1
