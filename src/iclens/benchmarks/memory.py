"""Peak memory of one call, in a fresh process and above what it holds before the call.

    python -m iclens.benchmarks.memory module:function '{"argument": 1}' '{"argument": 0}' --threads 1

prints the peak in bytes. A peak needs a fresh process: memory that an earlier call has freed stays with the process and
would hide it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from iclens.benchmarks.case import Probe
from iclens.errors import UserError

_RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What is freed goes back to the system at once, so that the peak is what lives at one moment, and not how the C
library happened to lay it out; for glibc."""

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def peak_bytes(probe: Probe, *, threads: int = 1, device: str = "cpu") -> int | None:
    """Bytes that one call of the probe takes at most, above what its process held before; None where unmeasurable.

    Args:
        probe: what to call.
        threads: torch threads of the process.
        device: on `"cuda"` the memory of the GPU is measured, on `"cpu"` the process's own, which needs Linux.

    Raises:
        UserError: the process failed, with the end of what it said.
    """
    if device == "cpu" and not _CLEAR_REFS.exists():
        return None
    command = [sys.executable, "-m", "iclens.benchmarks.memory", probe.target, json.dumps(dict(probe.arguments))]
    command += [json.dumps(dict(probe.warm_up)), "--threads", str(threads), "--device", device]
    command += ["--with-building"] * probe.with_building
    environment = os.environ | _RETURNED | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the peak memory of {probe.target} could not be measured: {last}")
    return int(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure one probe and print its peak in bytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("arguments", type=json.loads)
    parser.add_argument("warm_up", type=json.loads)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--with-building", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.stdout.write(f"{_measured(options)}\n")
    return 0


def _measured(options: argparse.Namespace) -> int:
    module, _, name = options.target.partition(":")
    build: Callable[..., Callable[[], object]] = getattr(importlib.import_module(module), name)
    if options.warm_up:
        build(**(options.arguments | options.warm_up))()
    call = None if options.with_building else build(**options.arguments)
    gc.collect()
    reset, held, peak = _ON_GPU if options.device == "cuda" else _ON_CPU
    reset()
    before = held()
    kept = (call or build(**options.arguments))()
    found = peak() - before
    del kept
    return max(0, found)


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _reset_gpu() -> None:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()


_ON_GPU = (_reset_gpu, torch.cuda.memory_allocated, torch.cuda.max_memory_allocated)
# Imports have a peak of their own, which would hide a smaller one; "5" sets it back (man 5 proc).
_ON_CPU = (lambda: _CLEAR_REFS.write_text("5"), lambda: _status("VmRSS:"), lambda: _status("VmHWM:"))


if __name__ == "__main__":
    raise SystemExit(main())
