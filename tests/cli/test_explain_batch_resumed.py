"""`iclens explain --batch` goes on to the same bytes: interrupted, killed, on a full disk, with parts that are damaged.

However many processes there are, and wherever they run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.batches import batch, interrupted_after, prompts, rows

from iclens.errors import UserError
from iclens.work.parts import Parts


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = prompts(10)
    assert batch(tmp_path, lines, out="whole.parquet") == 0
    whole = (tmp_path / "whole.parquet").read_bytes()
    n_batches = int(capsys.readouterr().err.split(" batches")[0].split()[-1])
    assert n_batches > 3

    with monkeypatch.context() as patched:
        interrupted_after(3, patched, KeyboardInterrupt)
        assert batch(tmp_path, lines) == 130
    parts = tmp_path / "o.parquet.parts"
    assert len(list(parts.glob("*.part"))) == 3
    assert not (tmp_path / "o.parquet").exists()
    assert "the same command goes on" in capsys.readouterr().err

    # One part loses a byte, one changes a bit, and a foreign one lies there: none of them is believed.
    first, second, _ = sorted(parts.glob("*.part"))
    first.write_bytes(first.read_bytes()[:-1])
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    (parts / ("0" * 40 + ".part")).write_bytes(b"foreign")
    with monkeypatch.context() as patched:
        computed = interrupted_after(-1, patched, KeyboardInterrupt)
        assert batch(tmp_path, lines) == 0
    said = capsys.readouterr().err
    assert computed() == n_batches - 1
    assert "going on: 1 batches" in said
    assert "1 batches in" in said
    assert "are not used" in said
    assert (tmp_path / "o.parquet").read_bytes() == whole
    assert not parts.exists()

    # Done is done.
    with monkeypatch.context() as patched:
        computed = interrupted_after(-1, patched, KeyboardInterrupt)
        assert batch(tmp_path, lines) == 0
    assert computed() == 0
    assert "already" in capsys.readouterr().out


def test_a_damaged_output_is_made_again_and_that_of_another_run_replaced(tmp_path: Path) -> None:
    assert batch(tmp_path, prompts(3), "--answer", "vux") == 0
    assert all(row["answer"] == "vux" for row in rows(tmp_path) if row["id"] == "p0")
    assert batch(tmp_path, prompts(3), "--answer", "nef") == 0
    assert all(row["answer"] == "nef" for row in rows(tmp_path) if row["id"] == "p0")
    assert batch(tmp_path, prompts(3)) == 0
    out = tmp_path / "o.parquet"
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    assert batch(tmp_path, prompts(3)) == 0
    assert out.read_bytes() == whole
    changed = bytearray(whole)
    changed[200] ^= 1
    out.write_bytes(changed)
    assert batch(tmp_path, prompts(3)) == 0
    assert out.read_bytes() == whole


def test_a_failed_batch_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        interrupted_after(2, patched, MemoryError)
        assert batch(tmp_path, prompts(5)) == 1
    assert "not explained" in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()
    assert batch(tmp_path, prompts(5)) == 0
    assert len({row["id"] for row in rows(tmp_path)}) == 5


def test_a_full_disk_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, written = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        right(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert batch(tmp_path, prompts(5)) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "the same command goes on" in error
    assert sorted(path.suffix for path in (tmp_path / "o.parquet.parts").iterdir()) == ["", ".part"]
    assert batch(tmp_path, prompts(5)) == 0


def test_two_processes_do_not_write_one_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Parts(tmp_path / "o.parquet.parts").held():
        assert batch(tmp_path, prompts(1)) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert batch(tmp_path, prompts(1)) == 0


def test_what_else_lies_in_the_parts_folder_stays(tmp_path: Path) -> None:
    parts = tmp_path / "o.parquet.parts"
    parts.mkdir()
    (parts / "mine.txt").write_text("kept")
    assert batch(tmp_path, prompts(2)) == 0
    assert [path.name for path in parts.iterdir()] == ["mine.txt"]


def test_a_model_that_changed_is_another_model(tmp_path: Path) -> None:
    import shutil

    from iclens import bundled
    from iclens.lens.many.model_source import ModelSource

    shutil.copytree(bundled.path(), tmp_path / "m")
    source = ModelSource(str(tmp_path / "m"))
    before = source.identity()
    assert before == ModelSource("bundled").identity()
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-4}))
    assert source.identity() != before
    with pytest.raises(UserError, match="not the same on this machine"):
        source.load(before)


@pytest.mark.slow
def test_workers_and_a_cluster_give_the_same_bytes(tmp_path: Path) -> None:
    lines = prompts(20)
    assert batch(tmp_path, lines) == 0
    whole = (tmp_path / "o.parquet").read_bytes()
    assert batch(tmp_path, lines, "--workers", "2", out="workers.parquet") == 0
    assert (tmp_path / "workers.parquet").read_bytes() == whole
    pytest.importorskip("ray")
    assert batch(tmp_path, lines, "--on", "ray", out="ray.parquet") == 0
    assert (tmp_path / "ray.parquet").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    lines = prompts(60)
    assert batch(tmp_path, lines, out="whole.parquet") == 0
    command = [sys.executable, "-m", "iclens", "explain", "--batch", "p.jsonl", "--out", "o.parquet"]
    command += ["--batch-tokens", "60", "--workers", "1"]
    parts = tmp_path / "o.parquet.parts"
    seen = 0
    for more in (1, 5):
        run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while run.poll() is None and len(list(parts.glob("*.part"))) < seen + more:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert len(list(parts.glob("*.part"))) > seen
        seen = len(list(parts.glob("*.part")))
        assert not (tmp_path / "o.parquet").exists()
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "o.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
