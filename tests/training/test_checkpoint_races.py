"""A checkpoint that goes while it is opened was not there, and one that is replaced is read as it was."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.training.tiny_runs import tiny

from iclens.training.checkpoint import Checkpoint, checkpoint_keys, read_checkpoint, write_checkpoint
from iclens.training.loop import train

KEPT = Checkpoint({"values": torch.arange(5.0)}, [[]], 1.0)


def taken_away(path, monkeypatch):
    """Another process that has finished the same runs removes their checkpoint just before this one opens it."""
    plain = Path.open

    def late(self, *rest):
        if self == path:
            path.unlink(missing_ok=True)
        return plain(self, *rest)

    monkeypatch.setattr(Path, "open", late)


def test_a_checkpoint_that_goes_while_it_is_opened_was_not_there(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, ["a"], KEPT)
    taken_away(path, monkeypatch)
    assert read_checkpoint(path, ["a"]) is None
    assert checkpoint_keys(path) == []


def test_a_checkpoint_that_is_replaced_after_it_was_opened_is_read_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, ["a"], KEPT)
    plain = Path.open

    def early(self, *rest):
        opened = plain(self, *rest)
        if self == path:
            monkeypatch.setattr(Path, "open", plain)
            write_checkpoint(path, ["a"], Checkpoint({"values": torch.arange(7.0)}, [[]], 2.0))
        return opened

    monkeypatch.setattr(Path, "open", early)
    assert torch.equal(read_checkpoint(path, ["a"]).state["values"], KEPT.state["values"])
    assert read_checkpoint(path, ["a"]).seconds == 2.0


def test_training_then_begins_anew(tmp_path, monkeypatch):
    config, path = tiny(), tmp_path / "checkpoint.safetensors"
    (whole,) = train([config], checkpoint=path)
    assert path.exists()
    taken_away(path, monkeypatch)
    (again,) = train([config], checkpoint=path)
    assert all(torch.equal(value, whole.tensors[name]) for name, value in again.tensors.items())
