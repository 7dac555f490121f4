"""`iclens train`: what it prints, keeps, refuses, and how it goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from tests.training.tiny_runs import tiny

from iclens.cli.main import main
from iclens.sweeps.chunks import ChunkPlan
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig
from iclens.training.config_file import presets, read_config, toml_text
from iclens.training.ensemble import Ensemble


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """The name of a tiny run's file in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(toml_text(tiny().to_dict()))
    return "run.toml"


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_presets_are_listed_with_what_they_are_for(capsys):
    assert main(["train", "--list"]) == 0
    lines = said(capsys)[0].splitlines()
    assert [line.split()[0] for line in lines] == presets()
    assert any(re.match(r"linear-one-layer +Noisy linear regression with one layer", line) for line in lines)
    assert all(len(line.split()) > 5 for line in lines)


def test_without_a_configuration_the_presets_are_named(capsys):
    assert main(["train"]) == 2
    assert said(capsys)[1] == f"error: name a configuration file or a preset: {', '.join(presets())}.\n"


@pytest.mark.parametrize("preset", presets())
def test_a_preset_with_overrides_is_trained(preset, tmp_path, capsys):
    small = ["training.steps=2", "training.batch=4", "training.evaluation_prompts=8", "training.warmup="]
    small += ["model.n_layers=1", "model.width=16"]
    best = RunConfig.from_dict(read_config(preset)).make_task().optimal().estimator
    assert main(["train", preset, *small, "--store", str(tmp_path / "runs"), "--threads", "1"]) == 0
    out, err = said(capsys)
    assert "squared error on 8 evaluation" in out
    assert best in out
    (row,) = Store(tmp_path / "runs").rows()
    assert f"run {row.key} in {tmp_path / 'runs'}: finished" in out
    assert re.match(rf"run {row.key}: 2 steps of \d+\.\d ms, about \d+\.\d s; about \d+ MiB\n", err)


def test_the_table_shows_the_model_beside_the_best_estimator(run_file, capsys):
    assert main(["train", run_file, "training.n_context=20", "--threads", "1"]) == 0
    out = said(capsys)[0]
    assert "squared error on 16 evaluation" in out
    assert "after 6 steps" in out
    rows = [re.findall(r"[\w.]+", line) for line in out.splitlines()]
    shown = [row for row in rows if len(row) == 3 and (row[0].isdigit() or row[0] == "all")]
    # At most twelve numbers of demonstrations, from none to all.
    assert [row[0] for row in shown[:-1]] == [str(round(place * 20 / 11)) for place in range(12)]
    run = Store("iclens-runs").load(tiny(training={"n_context": 20}).key())
    errors = {row.prefix: row.value for row in run.metrics() if row.name == "error"}
    assert [row[1] for row in shown] == [f"{errors[int(row[0])]:.4g}" for row in shown[:-1]] + [f"{errors[None]:.4g}"]
    # Ridge with the right strength is the Bayes predictor: better than six steps of training.
    assert all(float(row[2]) < float(row[1]) for row in shown[-6:])


def test_cross_entropy_has_no_squared_error_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('[task]\nname = "clusters"\n[training]\nloss_kind = "cross-entropy"\n')
    changes = ["training.steps=2", "training.batch=4", "training.evaluation_prompts=8"]
    assert main(["train", "run.toml", *changes, "--threads", "1"]) == 0
    out = said(capsys)[0]
    assert "cross-entropy (nats) on 8" in out
    assert "neighbours" not in out


def test_a_run_is_trained_once(run_file, capsys):
    assert main(["train", run_file, "--threads", "1"]) == 0
    first, _ = said(capsys)
    assert main(["train", run_file, "--threads", "1"]) == 0
    second, err = said(capsys)
    assert second == first
    assert err == f"run {tiny().key()} is in iclens-runs already; it is not trained again.\n"
    assert main(["train", run_file, "seed=1", "--threads", "1"]) == 0
    assert len(Store("iclens-runs").keys()) == 2


def test_overrides_stand_before_and_after_options(run_file, capsys):
    keys = set()
    for words in (["seed=1", "training.steps=4", "--dry-run"], ["seed=1", "--dry-run", "training.steps=4"]):
        assert main(["train", run_file, *words]) == 0
        keys.add(said(capsys)[1].split()[1])
    assert len(keys) == 1


def test_a_plan_trains_nothing_and_leaves_nothing(run_file, capsys):
    assert main(["train", run_file, "--dry-run"]) == 0
    out, err = said(capsys)
    assert out == ""
    assert "6 steps of" in err
    assert os.listdir() == [run_file]


def test_a_run_that_diverges_is_kept_and_answered_with_1(run_file, capsys):
    assert main(["train", run_file, "training.learning_rate=1e9", "--threads", "1"]) == 1
    assert re.search(r"run \w+ in iclens-runs: diverged after \d steps", said(capsys)[0])
    assert main(["train", run_file, "training.learning_rate=1e9", "--threads", "1"]) == 1
    assert [row.result.status for row in Store("iclens-runs").rows()] == ["diverged"]


def test_the_number_of_threads_is_that_of_before(run_file):
    before = torch.get_num_threads()
    assert main(["train", run_file, "--threads", str(before + 1)]) == 0
    assert torch.get_num_threads() == before


def test_ctrl_c_and_once_more(run_file, capsys, monkeypatch):
    plain = Ensemble.step

    def pressed(self):
        losses = plain(self)
        if self.step_count == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    # Not in the steps that are measured before.
    measured = ChunkPlan(1, 1.0, 1, {1: 1.0})
    monkeypatch.setattr(
        "iclens.sweeps.chunks.plan", lambda *_, **__: monkeypatch.setattr(Ensemble, "step", pressed) or measured
    )
    assert main(["train", run_file, "--threads", "1"]) == 130
    assert said(capsys)[1].splitlines()[1:] == ["stopped; the same command goes on from here", "interrupted"]
    assert len(os.listdir("iclens-runs/unfinished")) == 1
    monkeypatch.setattr("iclens.sweeps.chunks.plan", lambda *_, **__: measured)
    monkeypatch.setattr(Ensemble, "step", plain)
    assert main(["train", run_file, "--threads", "1"]) == 0
    resumed = Store("iclens-runs").load(tiny().key())
    assert os.listdir("iclens-runs/unfinished") == []
    assert main(["train", run_file, "--threads", "1", "--store", "other"]) == 0
    whole = Store("other").load(tiny().key())
    assert resumed.metrics() == whole.metrics()
    assert all(torch.equal(value, whole.tensors()[name]) for name, value in resumed.tensors().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.toml"], "nothing.toml: there is no such file"),
        (["linear-one"], "there is no preset 'linear-one'. Did you mean 'linear-one-layer'?"),
        (["run.toml", "training.stps=3"], "training has no key 'stps'. Did you mean 'steps'?"),
        (["run.toml", "training.steps"], "override 'training.steps' has no '='"),
        (["run.toml", "model.n_heads=3"], "model.n_heads=3 does not divide model.width=8"),
        (["run.toml", "--threads", "0"], "--threads 0: it must be at least 1"),
        (["run.toml", "--device", "cuda:7"], "there is no device 'cuda:7': this machine has"),
        (["run.toml", "--device", "gpu"], "unknown device 'gpu': use cpu, cuda"),
        (["run.toml", "sweep.seed=[1, 2]"], "the configuration has a [sweep] table: train it with `iclens sweep`"),
        (["run.toml", "--store", "run.toml"], "run.toml is a file: a store of runs is a folder"),
    ],
)
def test_mistakes(run_file, capsys, arguments, message):
    assert main(["train", *arguments]) == 2
    out, err = said(capsys)
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    # Nothing was made before it was noticed.
    assert os.listdir() == [run_file]


def test_a_store_that_cannot_be_written_is_noticed_before_training(run_file, capsys, monkeypatch):
    Store("iclens-runs")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    monkeypatch.setattr("iclens.sweeps.chunks.plan", lambda *_, **__: pytest.fail("it was measured"))
    assert main(["train", run_file]) == 2
    assert "the store iclens-runs is read-only" in said(capsys)[1]


@pytest.mark.slow
def test_a_compiled_ensemble_is_each_run_alone(tmp_path):
    """In a process of its own: checked shapes and compiling do not go together."""
    script = tmp_path / "compiled.py"
    script.write_text(
        "from iclens.training.config import RunConfig\n"
        "from iclens.training.loop import train\n"
        "def of(seed, **more):\n"
        "    return RunConfig.from_dict({'seed': seed, 'task': {'name': 'linear', 'd': 3},\n"
        "        'model': {'width': 8, 'attention': 'regularized', 'attention_options': {'alpha': 0.1 * seed}},\n"
        "        'training': {'steps': 5, 'batch': 4, 'n_context': 4, 'dtype': 'float64', **more}})\n"
        "plain = [train([of(seed)])[0] for seed in range(3)]\n"
        "compiled = train([of(seed, compile=True) for seed in range(3)])\n"
        "for one, other in zip(plain, compiled, strict=True):\n"
        "    for name, value in one.tensors.items():\n"
        "        if 'qkv.bias' not in name:\n"
        "            assert (value - other.tensors[name]).abs().max() < 1e-10, name\n"
        "    assert abs(one.metrics[-1][3] - other.metrics[-1][3]) < 1e-10\n"
    )
    subprocess.run([sys.executable, str(script)], check=True, timeout=300)
