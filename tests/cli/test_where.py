"""Where a command computes is said and refused in the same words by all that can go to a cluster."""

from __future__ import annotations

import json

import pytest
from tests.training.tiny_runs import tiny

from iclens.cli.main import main
from iclens.cli.where import Where
from iclens.errors import UserError
from iclens.training.config_file import toml_text
from iclens.work import cluster

SWEEP = ["sweep", "sweep.toml", "--store", "runs"]
BATCH = ["explain", "--batch", "p.jsonl", "--out", "o.parquet"]


@pytest.fixture(params=[SWEEP, BATCH], ids=["sweep", "explain"])
def command(request, tmp_path, monkeypatch):
    """A command that could begin, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(toml_text(tiny().to_dict()) + "\n[sweep]\nseed = {range = 2}\n")
    (tmp_path / "p.jsonl").write_text(json.dumps("cat is vux .\n\nhorse is") + "\n")
    return request.param


@pytest.fixture
def asked(monkeypatch):
    """Of which cluster something was asked; nothing is computed there."""
    seen = []

    def stop(*values):
        seen.append(values)
        raise UserError("far enough.")

    monkeypatch.setattr(cluster, "Cluster", stop)
    return seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers 0: it must be at least 1"),
        (["--threads", "0"], "--threads 0: it must be at least 1"),
        (["--address", "auto"], "--address is for a Ray cluster: give --on ray as well"),
        (["--task-cpus", "2"], "--task-cpus is for a Ray cluster: give --on ray as well"),
        (["--task-gpus", "0"], "--task-gpus is for a Ray cluster: give --on ray as well"),
        (["--retries", "5"], "--retries is for a Ray cluster: give --on ray as well"),
        (["--on", "ray", "--workers", "4"], "--workers is for processes of this machine: on Ray"),
        (["--on", "ray", "--task-cpus", "-1"], "-1.0 CPUs a task"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(command, options, message, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("local", 1.0, 0.0, 3)),
        (["--threads", "2", "--retries", "0"], ("local", 2.0, 0.0, 0)),
        (["--threads", "2", "--task-cpus", "0.5", "--address", "auto"], ("auto", 0.5, 0.0, 3)),
        (["--device", "cuda"], ("local", 1.0, 1.0, 3)),
        (["--device", "cuda", "--task-gpus", "0.25"], ("local", 1.0, 0.25, 3)),
    ],
)
def test_a_task_is_given_what_was_asked_for(command, options, expected, asked):
    assert main([*command, "--on", "ray", *options]) == 2
    assert asked == [expected]


@pytest.mark.parametrize(("options", "gpus"), [([], 1.0), (["--task-gpus", "0"], 0.0), (["--task-gpus", "4"], 4.0)])
def test_a_model_spread_over_devices_wants_a_gpu(options, gpus, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text(json.dumps("cat is vux .\n\nhorse is") + "\n")
    assert main([*BATCH, "--on", "ray", "--device-map", "auto", *options]) == 2
    assert asked == [("local", 1.0, gpus, 3)]


def test_processes_of_this_machine_are_no_cluster():
    assert Where().cluster(gpu=True) is None
