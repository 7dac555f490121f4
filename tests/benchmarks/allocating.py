"""Calls for a process of its own, of which it is known how much memory they take."""

from __future__ import annotations

import torch

MEBIBYTE = 1 << 20


def block(mebibytes: int):
    """A call that makes a tensor of so many MiB and holds it until it returns."""
    return lambda: torch.ones(mebibytes * MEBIBYTE // 4, dtype=torch.float32)


def built(mebibytes: int):
    """The tensor is made before the call, which takes nothing."""
    kept = torch.ones(mebibytes * MEBIBYTE // 4, dtype=torch.float32)
    return lambda: kept.sum()


def failing(mebibytes: int):
    raise RuntimeError("there is no such thing")
