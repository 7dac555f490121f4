"""`iclens runs`: what it prints is what is in the store, and every mistake is one line."""

from __future__ import annotations

import json
import math
import tomllib

import pytest
from tests.sweeps.small_runs import SmallConfig, add, metrics_of, result_of, tensors_of

from iclens.cli.main import main
from iclens.sweeps.store import Store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("iclens-runs")
    for seed in range(3):
        add(store, seed, learning_rate=(0.1, 0.2)[seed % 2])
    store.add(
        SmallConfig(9), tensors_of(9), [(0, "loss", None, math.nan)], result_of(status="diverged", last_finite_step=0)
    )
    return tmp_path / "iclens-runs"


def printed(capsys, *arguments, status=0):
    assert main(["runs", *map(str, arguments)]) == status
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main(["runs", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_list_shows_what_differs(folder, capsys):
    lines = printed(capsys, "list").splitlines()
    assert lines[0].split() == [
        "key", "status", "seconds", "seed", "training.learning_rate", "final.loss", "final.error@3",
    ]  # fmt: skip
    assert [line.split()[3] for line in lines[1:-1]] == ["0", "1", "2", "9"]
    assert lines[4].split()[1:] == ["diverged", "0.5", "9", "0.001", "nan", "–"]
    assert lines[-1] == "4 runs, 1 diverged"


def test_list_filters_sorts_and_cuts(folder, capsys):
    lines = printed(
        capsys, "list", "--where", "training.learning_rate<0.2", "status=finished", "--sort", "seed", "--reverse",
        "--columns", "seed", "final.loss",
    ).splitlines()  # fmt: skip
    assert [line.split() for line in lines[:-1]] == [
        ["seed", "final.loss"],
        ["2", f"{math.exp(-2) + 2:.4g}"],
        ["0", f"{math.exp(-2):.4g}"],
    ]
    assert lines[-1] == "2 runs of 4"
    assert printed(capsys, "list", "--limit", "1", "--columns", "seed").splitlines() == [
        "seed", "   0", "4 runs (1 shown), 1 diverged",
    ]  # fmt: skip
    assert printed(capsys, "list", "--where", "seed=77", "--sort", "final.loss") == "0 runs of 4\n"


def test_list_as_json_has_the_whole_configuration(folder, capsys):
    document = json.loads(printed(capsys, "list", "--json"))
    store = Store(folder)
    assert [one["key"] for one in document["runs"]] == [row.key for row in store.rows()]
    assert document["runs"][1]["config"] == store.rows()[1].config
    assert document["runs"][3]["result"]["final"] == {"loss": None}
    assert document["runs"][0]["result"]["final"]["loss"] == math.exp(-2)


def test_show_prints_the_configuration_and_the_curves(folder, capsys):
    key = SmallConfig(1, 0.2).key()
    text = printed(capsys, "show", key[:6])
    head, config, *tables = text.split("\n\n", 2)
    assert f"run {key}\nfinished in 0.5 s, last finite step 2" in head
    assert "seed = 1" in config
    assert tomllib.loads(config + "\n" + tables[0].split("\n\n")[0])["task"] == {"name": "linear", "d": 5}
    assert ["2", f"{math.exp(-2) + 1:.4g}"] in [line.split() for line in text.splitlines()]
    assert ["3", f"{1 / 6:.4g}"] in [line.split() for line in text.splitlines()]


def test_show_cuts_long_curves_and_keeps_their_ends(tmp_path, capsys):
    store = Store(tmp_path / "s")
    config = SmallConfig()
    store.add(config, {}, [(step, "loss", None, 1.0) for step in range(1000)], result_of(note="a remark"))
    lines = printed(capsys, "show", config.key(), "--store", tmp_path / "s").splitlines()
    steps = [line.split()[0] for line in lines if line.endswith(" 1")]
    assert len(steps) == 12
    assert (steps[0], steps[-1]) == ("0", "999")
    assert "a remark" in lines


def test_compare_shows_only_what_differs(folder, capsys):
    keys = [SmallConfig(0, 0.1).key(), SmallConfig(2, 0.1).key()]
    rows = {line.split()[0]: line.split()[1:] for line in printed(capsys, "compare", *keys).splitlines()[1:]}
    assert rows["seed"] == ["0", "2"]
    assert "training.learning_rate" not in rows
    assert rows["final.loss"] == [f"{math.exp(-2):.4g}", f"{math.exp(-2) + 2:.4g}"]
    assert rows["status"] == ["finished", "finished"]


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    store = Store(tmp_path / "s")
    store.add(SmallConfig(task="a\x1b[31m\nb"), {}, [], result_of())
    store.add(SmallConfig(task="b"), {}, [], result_of())
    text = printed(capsys, "list", "--store", tmp_path / "s")
    assert "\x1b" not in text
    assert "a\\x1b[31m\\nb" in text


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_export_writes_what_was_chosen(folder, tmp_path, capsys, suffix):
    out = tmp_path / f"runs.{suffix}"
    text = printed(capsys, "export", out, "--where", "seed<2")
    assert text == f"{out}: 2 runs\n"
    assert out.stat().st_size > 0
    assert printed(capsys, "export", out, "--what", "metrics") == f"{out}: metrics of 4 runs\n"
    if suffix == "json":
        assert len(json.loads(out.read_text())) == 3 * len(metrics_of(0)) + 1


def test_verify_tells_repairs_and_gives_a_status(folder, capsys):
    assert printed(capsys, "verify") == "4 runs in iclens-runs: all sound.\n"
    key = SmallConfig(1, 0.2).key()
    (folder / "runs" / key / "metrics.parquet").write_bytes(b"x")
    (folder / "runs" / ".tmp-00").mkdir()
    text = printed(capsys, "verify", status=1)
    assert f"damaged   run {key} is damaged: metrics.parquet has 1 bytes instead of" in text
    assert "leftover  runs/.tmp-00" in text
    assert text.endswith("4 runs in iclens-runs: 1 not sound.\n")
    assert refused(capsys, "show", key).startswith(f"error: run {key} is damaged")
    assert printed(capsys, "verify", "--repair").endswith("3 runs in iclens-runs: 1 not sound, repaired.\n")
    assert printed(capsys, "gc").splitlines() == ["deleted iclens-runs/runs/.tmp-00", "1 deleted."]
    assert printed(capsys, "gc", "--damaged").splitlines() == ["deleted iclens-runs/damaged", "1 deleted."]
    assert printed(capsys, "verify") == "3 runs in iclens-runs: all sound.\n"


def test_verify_makes_a_lost_index_again_and_says_so(folder, capsys):
    (folder / "index.sqlite").write_bytes(b"garbage" * 1000)
    assert main(["runs", "verify"]) == 0
    captured = capsys.readouterr()
    assert "the index was made again from 4 runs" in captured.err
    assert captured.out == "4 runs in iclens-runs: all sound.\n"
    assert main(["runs", "verify", "--rebuild"]) == 0
    assert "asked for" in capsys.readouterr().err


def test_an_empty_store_is_listed(tmp_path, capsys):
    Store(tmp_path / "s")
    assert printed(capsys, "list", "--store", tmp_path / "s", "--sort", "seed", "--where", "x=1") == "0 runs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--store", "none"], "no store of runs in none: `iclens train` and `iclens sweep` make one"),
        (["list", "--sort", "sed"], "no run has a column 'sed'. Did you mean 'seed'"),
        (["list", "--columns", "sed"], "no run has a column 'sed'"),
        (["list", "--where", "seed"], "'seed' is not a condition"),
        (["list", "--limit", "-1"], "--limit -1 must be 0 or more"),
        (["show", "zz"], "begins with 'zz'"),
        (["show", ""], "4 runs in iclens-runs have keys that begin with ''"),
        (["compare", ""], "compare at least two runs"),
        (["export", "runs.txt"], "name a file that ends in .csv, .parquet or .json"),
        (["export", "none/runs.csv"], "none does not exist"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_run_is_not_compared_with_itself(folder, capsys):
    key = SmallConfig(1, 0.2).key()
    assert "the same run is named twice" in refused(capsys, "compare", key, key[:8])
