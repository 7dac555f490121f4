"""Checkpoints of runs that are not finished: one file, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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

    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()}
    meta = {"keys": keys, "metrics": checkpoint.metrics, "seconds": checkpoint.seconds, "sha256": _digest(tensors)}
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
        found = Checkpoint(state, meta["metrics"], meta["seconds"])
        sound = meta["sha256"] == _digest(state)
    except (SafetensorError, KeyError, TypeError, OSError, ValueError) as error:
        raise _damaged(path) from error
    if not sound:
        raise _damaged(path)
    if meta.get("keys") != keys:
        raise UserError(f"{path} is the checkpoint of other runs; remove it or use another folder.")
    return found


def checkpoint_keys(path: Path) -> list[str]:
    """The keys of the runs of a checkpoint, in their order; empty if the file is none, or is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return [str(key) for key in json.loads((file.metadata() or {})["iclens"])["keys"]]
    except (SafetensorError, KeyError, TypeError, OSError, ValueError):
        return []


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is no checkpoint of iclens, or is damaged; remove it to start again.")


def _digest(state: Mapping[str, Tensor]) -> str:
    # safetensors would take up a flipped bit as it is.
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
