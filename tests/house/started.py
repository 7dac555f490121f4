"""Programs that tests start: found by a mark in their environment, and ended with all that they started themselves."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "ICLENS_TEST_MARK"


def marked(mark):
    """(process id, command line) of every process that was started with this mark, and of their own ones."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}\0".encode() in folder.joinpath("environ").read_bytes():
                yield int(folder.name), folder.joinpath("cmdline").read_bytes().decode(errors="replace")


@contextmanager
def started(command, env=None, **options):
    """A process in a session of its own, and its mark; nothing of it is left afterwards.

    Its group alone would not do: torchrun and Ray give their processes groups of their own.
    """
    mark = secrets.token_hex(8)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {}), MARK: mark}
    with subprocess.Popen(command, env=environment, start_new_session=True, **options) as process:
        try:
            yield process, mark
        finally:
            # What is ended may have started another meanwhile.
            while left := [one for one, _ in marked(mark)]:
                for one in left:
                    with suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
                time.sleep(0.02)


def wait_for(there, seconds=300):
    """Waits until `there()` is true; the deadline only ends what would hang."""
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
