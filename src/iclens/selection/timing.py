"""How long a pass takes here: measured before a choice begins, so that its cost is given in seconds too."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from iclens.lens.read.shared_texts import cost_of, read_texts
from iclens.lens.scores.deletions import ids_of
from iclens.selection.reading import MOST_TOKENS
from iclens.selection.task import Task

_QUERIES = 4
"""Queries after the starting prompt, which share it as those of a choice do."""

_SHORT = 2.0
"""Seconds below which it is read again: the first time of a process is slower than the others."""


def seconds_of_pass(task: Task) -> float:
    """Read the starting prompt with a few queries, and tell the seconds of a pass from it; nothing is kept.

    A pass is a reading of the whole pool with one query. Passes forth and back take longer than this by the token, and
    short prompts too, so that the estimate of what a choice takes is about right.
    """
    shots = [replace(one, output=one.output or "?") for one in task.pool.demonstrations]
    written = [task.pool.writing.prompt([shots[i] for i in task.start], one.input) for one in task.dev[:_QUERIES]]
    rows = ids_of(task.lens_model, written)
    ends = torch.tensor([[len(row) - 1] for row in rows])

    def read(numbers: object, logits: Tensor) -> tuple[Tensor]:
        return (logits.amax(-1).cpu(),)

    def timed() -> float:
        began = time.perf_counter()
        read_texts(task.lens_model, rows, ends, read, MOST_TOKENS)
        return time.perf_counter() - began

    seconds = timed()
    if seconds < _SHORT:
        seconds = min(seconds, timed())
    return seconds * task.pass_tokens / cost_of(task.lens_model, rows, MOST_TOKENS)
