"""`iclens train` in several processes: one keeps the run and speaks, and none stays behind when another is stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from tests.house.started import wait_for
from tests.training import together
from tests.training.torchrun import COMPLETE, said_by, torchrun

from iclens.cli.main import main
from iclens.sweeps.store import Store
from iclens.training.checkpoint import checkpoint_keys, read_checkpoint
from iclens.training.config import RunConfig
from iclens.training.config_file import read_config, toml_text
from iclens.training.ensemble import Ensemble


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "run.toml"
    tables = together.SEVERAL[0].to_dict()
    path.write_text(toml_text({name: tables[name] for name in ("task", "model", "training", "seed")}))
    return path


def arguments(configuration, store, *overrides):
    return ["train", str(configuration), *overrides, "--store", str(store), "--threads", "1"]


@pytest.fixture
def alone_among_many(monkeypatch):
    """The environment of a training in several processes, of which there is one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in {**COMPLETE, "RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)


def test_the_first_process_keeps_the_run_and_shows_it(configuration, tmp_path, monkeypatch, alone_among_many, capsys):
    store = tmp_path / "store"
    assert main(arguments(configuration, store)) == 0
    said = capsys.readouterr()
    assert "30 steps, each shared by 1 processes with 1 threads" in said.err
    assert "squared error" in said.out
    assert main(arguments(configuration, store)) == 0
    assert "already; it is not trained again" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    assert main(arguments(configuration, store)) == 2
    assert "WORLD_SIZE is missing" in capsys.readouterr().err
    for name in COMPLETE:
        monkeypatch.delenv(name, raising=False)
    assert main(arguments(configuration, tmp_path / "alone")) == 0
    (ours,), (theirs,) = Store(store).rows(), Store(tmp_path / "alone").rows()
    assert (ours.key, ours.config, ours.result.final) == (theirs.key, theirs.config, theirs.result.final)
    assert os.listdir(store / "unfinished") == []


def test_a_run_that_diverges_has_its_exit_status(configuration, tmp_path, alone_among_many):
    assert main(arguments(configuration, tmp_path / "store", "training.learning_rate=1e9", "training.clip=0")) == 1


def test_a_dry_run_and_a_store_that_is_a_file(configuration, tmp_path, alone_among_many, capsys):
    assert main([*arguments(configuration, tmp_path / "none"), "--dry-run"]) == 0
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    assert main(arguments(configuration, tmp_path / "file")) == 2
    assert "is a file: a store of runs is a folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_torchrun_that_is_stopped_leaves_the_state_of_one_process(configuration, tmp_path, number):
    store = tmp_path / "store"
    with torchrun("-m", "iclens", *arguments(configuration, store, "training.steps=1000000")) as process:
        wait_for(lambda: training_in(process.pid))
        time.sleep(0.5)
        process.send_signal(number)
        said = said_by(process)
    assert process.returncode != 0
    assert "stopped; the same command goes on from here" in said
    assert "error:" not in said
    (file,) = (store / "unfinished").iterdir()
    config = RunConfig.from_dict(read_config(str(configuration), ["training.steps=1000000"]))
    assert checkpoint_keys(file) == [config.key()]
    state = read_checkpoint(file, [config.key()]).state
    alone = Ensemble([config])
    for _ in range(int(state["step"])):
        alone.step()
    assert alone.step_count > 0
    torch.testing.assert_close(state["values"], alone.state()["values"], rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_killed_process_ends_the_others(configuration, tmp_path):
    store = tmp_path / "store"
    with torchrun("-m", "iclens", *arguments(configuration, store, "training.steps=100000")) as process:
        wait_for(lambda: training_in(process.pid))
        (victim, *_) = children_of(process.pid)
        os.kill(victim, signal.SIGKILL)
        said = said_by(process)
    assert process.returncode != 0
    assert "has lost another one" in said or "Signal 15" in said


def training_in(parent):
    """Whether both processes of a torchrun hold SIGTERM back, as they do while they train."""
    masks = []
    for child in children_of(parent):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{child}/status").read_text()
            masks.append(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16))
    return len(masks) == 2 and all(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def children_of(parent):
    """Processes whose parent this is, from the system's list."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]
