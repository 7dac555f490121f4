"""SIGTERM, by which Slurm and Kubernetes end a process, loses no more training than Ctrl-C does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tests.house.started import marked, started
from tests.training.test_train import assert_identical
from tests.training.tiny_runs import tiny

from iclens.cli.main import main
from iclens.cli.resumable import resumable
from iclens.sweeps.chunks import ChunkPlan
from iclens.sweeps.store import Store
from iclens.sweeps.sweep import checkpoint_keys
from iclens.training.checkpoint import read_checkpoint
from iclens.training.config_file import toml_text
from iclens.training.interruption import held_interrupts
from iclens.training.loop import train
from iclens.training.optimizer import RunsOptimizer


@contextmanager
def handled(heard):
    """The process's own handler of SIGTERM; else a test would end with a signal that nobody holds."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sent_in_step(monkeypatch, at, times=1):
    plain = RunsOptimizer.step

    def step(self, number, *rest):
        if number == at:
            self.values.mul_(0.5)
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
            self.values.mul_(2.0)
        plain(self, number, *rest)

    monkeypatch.setattr(RunsOptimizer, "step", step)


@pytest.mark.parametrize("times", [1, 3])
def test_it_waits_for_the_end_of_a_step_and_then_for_whoever_handled_it_before(tmp_path, monkeypatch, times):
    configs = [tiny(training={"steps": 10})]
    whole, path, heard = train(configs), tmp_path / "checkpoint.safetensors", []
    with handled(lambda: heard.append(path.exists())):
        sent_in_step(monkeypatch, 5, times)
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train(configs, checkpoint=path)
        assert signal.getsignal(signal.SIGTERM) is before
    assert heard == [True]
    monkeypatch.undo()
    assert int(read_checkpoint(path, [configs[0].key()]).state["step"]) == 6
    assert_identical(train(configs, checkpoint=path), whole)


def test_where_nobody_handled_it_the_process_ends_by_it(monkeypatch):
    """A worker of a sweep, say, whose pool ends it."""
    sent = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: sent.append((number, signal.getsignal(number))))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), held_interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
        assert sent == [(signal.SIGTERM, signal.SIG_DFL)]
        with pytest.raises(KeyboardInterrupt), held_interrupts(pass_on=False):
            os.kill(os.getpid(), signal.SIGTERM)
        assert len(sent) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_after_it_takes_effect_at_once():
    reached = []

    def stopped():
        with held_interrupts() as interruption:
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
                os.kill(os.getpid(), number)
                reached.append((number, interruption.pressed))

    with handled(lambda: None), pytest.raises(KeyboardInterrupt):
        stopped()
    assert reached == [(signal.SIGTERM, True)] * 2


def test_a_command_is_stopped_by_it_as_by_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(toml_text(tiny(training={"steps": 10}).to_dict()))
    measured = ChunkPlan(1, 1.0, 1, {1: 1.0})
    monkeypatch.setattr("iclens.sweeps.chunks.plan", lambda *_, **__: measured)
    heard = []
    with handled(lambda: heard.append(1)), monkeypatch.context() as patched:
        sent_in_step(patched, 5)
        before = signal.getsignal(signal.SIGTERM)
        assert main(["train", "run.toml", "--threads", "1"]) == 130
        assert signal.getsignal(signal.SIGTERM) is before
    assert heard == []
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == ["stopped; the same command goes on from here", "interrupted"]
    (path,) = (tmp_path / "iclens-runs" / "unfinished").iterdir()
    assert int(read_checkpoint(path, checkpoint_keys(path)).state["step"]) == 6
    assert main(["train", "run.toml", "--threads", "1"]) == 0


def test_where_it_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with resumable():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


SCRIPT = """
import json, sys
from pathlib import Path
from iclens.cli.resumable import resumable
from iclens.sweeps import sweep
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig

if __name__ == "__main__":
    chunks = [[RunConfig.from_dict(one) for one in chunk] for chunk in json.loads(sys.argv[2])]
    steps = [chunk[0].training.steps for chunk in chunks]
    told = lambda place, step: print(place, step, flush=True)
    prepared = sweep.SweepPlan(chunks, steps, [100.0] * len(chunks), 0)
    try:
        with resumable():
            sweep.run(prepared, Store(sys.argv[1]), workers=2, report=told)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [True, False], ids=["group", "parent"])
def test_it_stops_the_workers_of_a_sweep_and_loses_nothing(tmp_path, everybody):
    """Slurm sends it to every process of a step, Kubernetes to the first process of a container alone."""
    configs = [tiny(seed=seed, training={"steps": 20_000, "evaluation_prompts": 8}) for seed in range(8)]
    chunks = [configs[start : start + 2] for start in range(0, 8, 2)]
    script = tmp_path / "sweep_it.py"
    script.write_text(SCRIPT)
    data = json.dumps([[one.to_dict() for one in chunk] for chunk in chunks], default=dict)
    command = [sys.executable, str(script), str(tmp_path / "runs"), data]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as (process, mark):
        seen = {}
        while len(seen) < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            place, step = map(int, line.split())
            if step > 0:
                seen[place] = step
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGTERM)
        _, complaints = process.communicate(timeout=300)
        assert list(marked(mark)) == []
    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert "the same command goes on from here" in complaints
    store = Store(tmp_path / "runs")
    assert store.keys() == set()
    unfinished = {tuple(checkpoint_keys(path)): path for path in (store.path / "unfinished").glob("*.safetensors")}
    assert set(unfinished) == {tuple(one.key() for one in chunks[place]) for place in seen}
    for place, step in seen.items():
        keys = [one.key() for one in chunks[place]]
        assert step <= int(read_checkpoint(unfinished[tuple(keys)], keys).state["step"]) < 20_000
    assert not list((store.path / "unfinished").glob(".*"))
