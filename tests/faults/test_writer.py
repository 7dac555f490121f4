"""The one writer of files and folders, killed at any moment: what it writes is there whole, or not at all."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from iclens.work import whole_folder, write_atomically

WRITER = """
import sys
from itertools import count
from pathlib import Path
from iclens.work import whole_folder, write_atomically

place = Path(sys.argv[1])
print("ready", flush=True)
for number in count():
    write_atomically(place / "file", f"{number}," * 20_000)
    with whole_folder(place / f"folder-{number}") as made:
        for name in "abc":
            (made / name).write_text(f"{number}," * 20_000)
"""


def check_kills(place, kills, seed, counts):
    draw = random.Random(seed)
    for _ in range(kills):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(place)], stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.1))
            writer.kill()
        content = (place / "file").read_text().split(",") if (place / "file").exists() else [""]
        assert len(set(content[:-1])) <= 1
        assert len(content) in (1, 20_001)
        for folder in place.glob("folder-*"):
            assert {path.name for path in folder.iterdir()} == set("abc")
            assert all(len(path.read_text().split(",")) == 20_001 for path in folder.iterdir())
        # The next one who writes there takes away what was left.
        write_atomically(place / "another", "")
        with whole_folder(place / "folder") as made:
            for name in "abc":
                (made / name).write_text("," * 20_000)
        assert not list(place.glob(".iclens-*"))
        for folder in place.glob("folder*"):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        counts["SIGKILL in the writer"] += 1


def test_a_killed_writer_leaves_nothing_half_written(tmp_path, counts):
    check_kills(tmp_path, 2, 1, counts)


@pytest.mark.faults
def test_a_writer_that_is_killed_many_times(tmp_path, counts):
    check_kills(tmp_path, 60, 2, counts)
