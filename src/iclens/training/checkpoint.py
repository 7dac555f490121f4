"""Checkpoints of runs that are not finished: one file, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from iclens.errors import UserError
from iclens.work.sealed import is_whole, sealed
from iclens.work.whole_files import make_folder, write_atomically

_UNREADABLE = (SafetensorError, KeyError, TypeError, AttributeError, OSError, ValueError, RuntimeError, RecursionError)
"""What reading a file that is not a checkpoint, or a part of one, may raise."""


_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors refuses a longer one."""


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
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.state.items()}
    content = {"keys": keys, "metrics": checkpoint.metrics, "seconds": checkpoint.seconds}
    meta = sealed({**content, "tensors": _digest(tensors)})
    make_folder(path.parent)
    write_atomically(path, save(tensors, {"iclens": json.dumps(meta)}))


def read_checkpoint(path: Path, keys: list[str]) -> Checkpoint | None:
    """Return the checkpoint of exactly these runs, or None where there is none.

    Raises:
        UserError: the file is not a checkpoint, is damaged, or belongs to other runs.
    """
    from safetensors.torch import load

    try:
        # One read: `safe_open` opens a file more than once, and another process may replace it in between.
        with path.open("rb") as file:
            content = file.read()
        meta, state = _meta(io.BytesIO(content)), load(content)
        found = Checkpoint(state, meta["metrics"], meta["seconds"])
        sound = is_whole(meta) and meta["tensors"] == _digest(state)
    except FileNotFoundError:
        # Also when another process that trained these runs took it away just now.
        return None
    except _UNREADABLE as error:
        raise _damaged(path) from error
    if not sound:
        raise _damaged(path)
    if meta.get("keys") != keys:
        raise UserError(f"{path} is the checkpoint of other runs; remove it or use another folder.")
    return found


def checkpoint_keys(path: Path) -> list[str]:
    """Return the keys of the runs of a checkpoint, in their order; empty if the file is none, or is damaged."""
    try:
        with path.open("rb") as file:
            meta = _meta(file)
        return [str(key) for key in meta["keys"]] if is_whole(meta) else []
    except _UNREADABLE:
        return []


def _meta(file: io.BufferedIOBase) -> Any:
    """Return what `write_checkpoint` has put beside the tensors."""
    n_header = int.from_bytes(file.read(8), "little")
    if n_header > _LONGEST_HEADER:
        raise ValueError(f"a header of {n_header} bytes")
    return json.loads(json.loads(file.read(n_header))["__metadata__"]["iclens"])


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is no checkpoint of iclens, or is damaged; remove it to start again.")


def _digest(state: Mapping[str, Tensor]) -> str:
    # safetensors would take up a flipped bit as it is.
    digest = hashlib.sha256()
    for name in sorted(state):
        # The header's words as well: other shapes and types of the same bytes are other numbers.
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
