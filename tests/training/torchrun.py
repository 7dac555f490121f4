"""Programs started by torchrun, as several processes of one training."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.house.started import started

ROOT = Path(__file__).resolve().parents[2]

COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
"""The environment of the second of two processes."""


@contextmanager
def torchrun(*arguments, size=2):
    """torchrun's own process; all that it started ends with the block."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(size), *arguments]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with started(command, env={"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}, **piped) as (process, _):
        yield process


def said_by(process, seconds=240):
    """What it and its processes said until all ended."""
    return process.communicate(timeout=seconds)[0]
