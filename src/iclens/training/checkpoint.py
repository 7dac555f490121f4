"""Checkpoints of runs that are not finished: one file, whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from iclens.errors import UserError


@dataclass(frozen=True)
class Checkpoint:
    """What training needs to go on.

    Attributes:
        state: `Ensemble.state`.
        metrics: rows of every run so far.
        seconds: time spent so far.
    """

    state: dict[str, Tensor]
    metrics: list[list[Any]]
    seconds: float


def write_checkpoint(path: Path, keys: list[str], checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; a reader finds the old one or the new one, never a part.

    Args:
        path: the file.
        keys: of the runs, so that a checkpoint of others is not taken up.
        checkpoint: what to keep.

    Raises:
        UserError: the file cannot be written; the old checkpoint is still there.
    """
    from safetensors.torch import save_file

    meta = {"keys": keys, "metrics": checkpoint.metrics, "seconds": checkpoint.seconds}
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {"iclens": json.dumps(meta)})
        temporary.replace(path)
    except Exception as error:
        # safetensors reports a full disk by an exception of its own.
        raise UserError(f"cannot write the checkpoint {path}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path, keys: list[str]) -> Checkpoint | None:
    """The checkpoint of exactly these runs, or None where there is none.

    Raises:
        UserError: the file is not a checkpoint, is damaged, or belongs to other runs.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["iclens"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint of iclens, or is damaged; remove it to start again.") from error
    if meta.get("keys") != keys:
        raise UserError(f"{path} is the checkpoint of other runs; remove it or use another folder.")
    return Checkpoint(state, meta["metrics"], meta["seconds"])
