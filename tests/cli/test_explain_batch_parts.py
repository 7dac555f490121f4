"""How `iclens explain --batch` cuts its work into tasks, and what it does when others touch its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iclens.cli import explain_batch
from iclens.cli.explain_batch import Many
from iclens.cli.main import main
from iclens.cluster import TASK_SECONDS
from iclens.lens.many import work
from iclens.work.parts import Parts

PAIRS = ("cat is vux .", "apple is nef .", "dog is vux .", "plum is nef .", "saw is zup .")
N = len(PAIRS)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts in a batch each."""
    monkeypatch.chdir(tmp_path)
    prompts = ["\n\n".join([*PAIRS[: 1 + i], "horse is"]) for i in range(N)]
    Path("p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return ["explain", "--batch", "p.jsonl", "--out", "o.parquet", "--batch-tokens", "1", "--workers", "1"]


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The estimated seconds of what was given to an executor, call by call."""
    seen: list[list[float]] = []
    plain = Many._executor

    def executor(self: Many, source: Any, cluster: Any, seconds: Sequence[float]) -> Any:
        seen.append(list(seconds))
        return plain(self, source, cluster, seconds)

    monkeypatch.setattr(Many, "_executor", executor)
    return seen


def failing(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the first so many batches fail."""
    right, done = work.explain_part, 0

    def explain_part(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done <= times:
            raise RuntimeError("out of luck")
        return right(*arguments)

    monkeypatch.setattr(work, "explain_part", explain_part)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_batch_that_fails_leaves_another_to_be_measured(
    times: int, command: list[str], estimates: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(times, monkeypatch)
    assert main(command) == (1 if times else 0)
    *probes, rest = estimates
    assert probes == [[0.0]] * (times + 1)
    assert len(rest) == N - times - 1
    assert all(0 < one < TASK_SECONDS for one in rest)


def test_batches_of_unknown_time_are_a_task_each(
    command: list[str],
    estimates: list[list[float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(explain_batch._MEASURED, monkeypatch)
    assert main(command) == 1
    assert estimates[-1] == [TASK_SECONDS] * (N - explain_batch._MEASURED)
    said = capsys.readouterr().err
    assert "of work left" not in said
    assert f"not explained: RuntimeError: out of luck ({explain_batch._MEASURED} batches)" in said
    assert main(command) == 0


def test_a_part_that_goes_while_others_are_computed_is_one_clear_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = work.Work.assemble

    def assemble(self: Any, parts: Parts) -> bytes:
        part = next(parts.folder.glob("*.part"))
        part.write_bytes(part.read_bytes()[:-1])
        return plain(self, parts)

    with monkeypatch.context() as patched:
        patched.setattr(work.Work, "assemble", assemble)
        assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: a finished batch in o.parquet.parts was changed or taken away meanwhile; the same command computes it"
        " again."
    )
    assert main(command) == 0


def test_what_another_process_finished_meanwhile_is_not_computed_again(
    command: list[str],
    estimates: list[list[float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command) == 0
    Path("o.parquet").rename("theirs")
    estimates.clear()
    plain = Parts.held

    @contextmanager
    def held(self: Parts) -> Any:
        Path("theirs").rename("o.parquet")
        with plain(self):
            yield

    monkeypatch.setattr(Parts, "held", held)
    capsys.readouterr()
    assert main(command) == 0
    assert estimates == []
    assert "o.parquet holds these prompts explained by this model already" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["o.parquet", "p.jsonl"]
