"""Finished fine-tuning runs on disk: one JSON file each, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iclens.errors import UserError


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        task: the task's name.
        row: the row's name.
        seed: of the head, the order of the examples and the dropout.
        scores: GLUE's metrics on the validation examples.
        predictions: the class or grade of every validation example, in order.
        losses: the training loss of every step.
        n_parameters: trained parameters.
        seconds: wall-clock time.
        diverged: whether an output was not finite; such outputs count as 0.
        fingerprint: of everything that determines the run.
    """

    task: str
    row: str
    seed: int
    scores: dict[str, float]
    predictions: list[float]
    losses: list[float]
    n_parameters: int
    seconds: float
    diverged: bool
    fingerprint: str


def run_file(folder: Path, task: str, row: str, seed: int) -> Path:
    """Where a run is kept."""
    slug = re.sub(r"[^a-z0-9.+-]+", "_", row.lower().replace("−", "-")).strip("_")
    return folder / "runs" / f"{task}--{slug}--{seed}.json"


def save_run(folder: Path, run: Run) -> None:
    """Write a finished run, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    target = run_file(folder, run.task, run.row, run.seed)
    payload = asdict(run)
    text = json.dumps({"schema_version": 1, "checksum": _checksum(payload), "run": payload}, allow_nan=False)
    temporary = target.with_name(f".iclens-{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        if temporary.exists():
            temporary.unlink()


def load_run(folder: Path, task: str, row: str, seed: int, expected: str) -> Run | None:
    """A run that is finished already, or None.

    Args:
        folder: the output folder of the grid.
        task: the task's name.
        row: the row's name.
        seed: the seed.
        expected: the fingerprint that the run must have.

    Raises:
        UserError: the file is damaged, or of a run with other settings, data or weights.
    """
    file = run_file(folder, task, row, seed)
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        payload = document["run"]
        whole = document["checksum"] == _checksum(payload)
        run = Run(**payload)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{file} is damaged; delete it, and the run is made again.") from error
    if not whole:
        raise UserError(f"{file} is damaged (its checksum is wrong); delete it, and the run is made again.")
    if run.fingerprint != expected:
        raise UserError(f"{file} is of a run with other settings, data or weights; choose another output folder.")
    return run


def _checksum(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]
