"""Where and with what something was computed."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from iclens.work.workers import usable_cores


def machine(threads: int) -> dict[str, str]:
    """CPU model, usable cores, threads of each process, GPU if there is one, versions of Python, torch and iclens."""
    found = {
        "CPU": _cpu(),
        "cores": str(usable_cores()),
        "torch threads": str(threads),
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found | {"Python": platform.python_version(), "torch": torch.__version__, "iclens": version("iclens")}


def _cpu() -> str:
    # platform.processor() is empty or just the architecture on Linux.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
