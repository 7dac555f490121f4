"""`iclens sweep`: every combination is trained once, and `iclens runs` finds them."""

from __future__ import annotations

import os
import re

import pytest
from tests.training.tiny_runs import tiny

from iclens.cli.main import main
from iclens.sweeps import sweep
from iclens.sweeps.store import Store
from iclens.training.config_file import toml_text

SWEEP = '\n[sweep]\n"training.learning_rate" = [1e-2, 2e-2]\nseed = {range = 2}\n'


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """The name of a tiny sweep's file in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(toml_text(tiny().to_dict()) + SWEEP)
    return "sweep.toml"


def said(capsys):
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_every_combination_is_trained_once(sweep_file, capsys):
    assert main(["sweep", sweep_file, "--workers", "1"]) == 0
    out, err = said(capsys)
    assert out == "4 runs finished, 0 diverged, in iclens-runs\n"
    first, second = err.splitlines()
    assert first == "4 runs; measuring how many to train at once"
    assert re.fullmatch(r"0 in iclens-runs already; 4 to train in \d chunks of [\d or]+ runs, about \d+\.\d s", second)
    expected = {tiny(seed=seed, training={"learning_rate": rate}).key() for seed in (0, 1) for rate in (1e-2, 2e-2)}
    assert Store("iclens-runs").keys() == expected

    assert main(["sweep", sweep_file, "--workers", "1"]) == 0
    assert said(capsys)[0] == "all 4 runs are in iclens-runs already\n"
    assert main(["sweep", sweep_file, "sweep.seed={range = 3}", "--workers", "1"]) == 0
    out, err = said(capsys)
    assert out == "2 runs finished, 0 diverged, in iclens-runs\n"
    assert "4 in iclens-runs already; 2 to train" in err
    assert main(["runs", "list"]) == 0
    assert said(capsys)[0].count("finished") == 6


def test_a_plan_trains_nothing_and_leaves_nothing(sweep_file, capsys):
    assert main(["sweep", sweep_file, "--dry-run", "--chunk", "3"]) == 0
    out, err = said(capsys)
    assert out == ""
    assert "0 in iclens-runs already; 4 to train in 2 chunks of 3 or 1 runs" in err
    assert os.listdir() == [sweep_file]


def test_a_run_that_diverges_is_answered_with_1(sweep_file, capsys):
    arguments = ["sweep", sweep_file, 'sweep."training.learning_rate"=[1e-2, 1e9]', "--workers", "1"]
    assert main(arguments) == 1
    assert said(capsys)[0] == "2 runs finished, 2 diverged, in iclens-runs\n"


def test_a_chunk_that_fails_is_named_and_answered_with_1(sweep_file, capsys, monkeypatch):
    plain = sweep.train

    def failing(configs, **rest):
        if configs[0].seed == 1:
            raise ValueError("out of luck")
        return plain(configs, **rest)

    monkeypatch.setattr(sweep, "train", failing)
    assert main(["sweep", sweep_file, "--workers", "1", "--chunk", "1"]) == 1
    out, err = said(capsys)
    assert out == "2 runs finished, 0 diverged, in iclens-runs\n"
    assert err.splitlines()[-1] == "not trained: ValueError: out of luck (2 chunks)"
    monkeypatch.setattr(sweep, "train", plain)
    assert main(["sweep", sweep_file, "--workers", "1"]) == 0
    assert said(capsys)[0] == "2 runs finished, 0 diverged, in iclens-runs\n"


def test_ctrl_c_is_answered_with_130_and_the_same_command_goes_on(sweep_file, capsys, monkeypatch):
    plain = sweep.train

    def stopping(configs, **rest):
        if configs[0].seed == 1:
            raise KeyboardInterrupt
        return plain(configs, **rest)

    monkeypatch.setattr(sweep, "train", stopping)
    assert main(["sweep", sweep_file, "--workers", "1", "--chunk", "1"]) == 130
    assert said(capsys)[1].splitlines()[-2:] == ["stopped; the same command goes on from here", "interrupted"]
    assert len(Store("iclens-runs").keys()) == 1
    monkeypatch.setattr(sweep, "train", plain)
    assert main(["sweep", sweep_file, "--workers", "1"]) == 0
    assert said(capsys)[0] == "3 runs finished, 0 diverged, in iclens-runs\n"


def test_where_the_cores_cannot_be_counted_there_is_an_answer(sweep_file, monkeypatch):
    """`sched_getaffinity` is Linux's own."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert main(["sweep", sweep_file]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a configuration file with a [sweep] table"),
        (["sweep.toml", "sweep="], "sweep.toml has no [sweep] table: train one run with `iclens train`"),
        (["linear-one-layer"], "linear-one-layer has no [sweep] table"),
        (["sweep.toml", "sweep.model.width=[8, 9]"], "model.n_heads=2 does not divide model.width=9"),
        (["sweep.toml", "sweep.model.widht=[8, 9]"], "model.widht=8: model 'transformer' has no option 'widht'"),
        (["sweep.toml", "--workers", "0"], "--workers 0: it must be at least 1"),
        (["sweep.toml", "--threads", "-1"], "--threads -1: it must be at least 1"),
        (["sweep.toml", "--chunk", "0"], "--chunk 0: it must be at least 1"),
        (["sweep.toml", "--memory", "0"], "--memory 0.0: it must be a positive number of GiB"),
        (["sweep.toml", "--memory", "nan"], "--memory nan: it must be a positive number of GiB"),
        (["sweep.toml", "--device", "cuda:9"], "there is no device 'cuda:9'"),
    ],
)
def test_mistakes(sweep_file, capsys, arguments, message):
    assert main(["sweep", *arguments]) == 2
    out, err = said(capsys)
    assert out == ""
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")


def test_a_store_that_cannot_be_written_is_noticed_before_training(sweep_file, capsys, monkeypatch):
    Store("iclens-runs")
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    assert main(["sweep", sweep_file]) == 2
    assert "the store iclens-runs is read-only" in said(capsys)[1]
