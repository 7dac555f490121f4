"""A command that starts its own processes does its work once, not once for each process of torchrun."""

from __future__ import annotations

import pytest

from iclens.cli.main import main

COMMANDS = {
    "sweep": ["sweep", "nothing.toml"],
    "explain --batch": ["explain", "--batch", "nothing.jsonl", "--out", "o.parquet"],
    "reproduce": ["reproduce", "nothing"],
}


@pytest.fixture
def under_torchrun(tmp_path, monkeypatch):
    """Sets what torchrun says to a process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def put(rank, size):
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        for name, value in zip(names, (rank, rank, size, "localhost", 29500), strict=True):
            monkeypatch.setenv(name, str(value))

    return put


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", COMMANDS)
def test_each_of_several_processes_refuses(name, rank, under_torchrun, tmp_path, capsys):
    under_torchrun(rank, 2)
    assert main(COMMANDS[name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: `iclens {name}` starts its own processes: start it once, without torchrun.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["1", "", "two"])
def test_one_process_alone_goes_on(size, under_torchrun, capsys):
    """And says what else is wrong."""
    under_torchrun(0, size)
    assert main(COMMANDS["sweep"]) == 2
    assert "nothing.toml: there is no such file" in capsys.readouterr().err


def test_a_cluster_that_says_how_many_machines_it_has_is_no_torchrun(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert main(COMMANDS["sweep"]) == 2
    assert "nothing.toml: there is no such file" in capsys.readouterr().err
