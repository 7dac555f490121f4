"""What tests start ends with them, also what got a session of its own meanwhile."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from tests.house.started import marked, started

PROGRAM = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("begun", flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_program_that_a_failed_test_started():
    with suppress(KeyError), started([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as (one, mark):
        one.stdout.readline()
        assert len(list(marked(mark))) == 2
        raise KeyError
    assert list(marked(mark)) == []
    assert one.returncode == -9
