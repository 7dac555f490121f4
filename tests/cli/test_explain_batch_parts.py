"""How `iclens explain --batch` cuts its work into tasks, and what it does when others touch its files."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from iclens.cli.explain_batch import MOST_MEASURED, Many
from iclens.cli.where import Where
from iclens.errors import UserError
from iclens.lens.many.lines import Defaults
from iclens.lens.many.model_source import ModelSource
from iclens.work import Parts
from iclens.work.cluster import TASK_SECONDS
from iclens.work.workers import Ended

PAIRS = ("cat is vux .", "apple is nef .", "dog is vux .", "plum is nef .", "saw is zup .")
N = len(PAIRS)
OUT = Path("o.parquet")


@dataclass(frozen=True)
class Watched(Many):
    """A batch of each prompt, in this process; it keeps the estimated seconds of all that its executors are given.

    Attributes:
        failures: how many of the first batches fail.
        damages: take a byte off a finished batch once the last one has been computed.
        estimates: the seconds, executor by executor.
    """

    batch: Path | None = Path("p.jsonl")
    out: Path | None = OUT
    batch_tokens: int | None = 1
    where: Where = field(default_factory=lambda: Where(workers=1))
    failures: int = 0
    damages: bool = False
    estimates: list[list[float]] = field(default_factory=list)

    def executor(self, source: Any, cluster: Any, seconds: Sequence[float]) -> Any:
        before = sum(map(len, self.estimates))
        self.estimates.append(list(seconds))
        plain = super().executor(source, cluster, seconds)

        def watched(function: Callable[..., Any], calls: Sequence[Any]) -> Iterator[Ended[Any]]:
            for number, ended in enumerate(plain(function, calls), start=before):
                yield Ended(ended.place, None, RuntimeError("out of luck")) if number < self.failures else ended
            if self.damages and sum(map(len, self.estimates)) == N:
                part = next(Parts(OUT.with_name(OUT.name + ".parts")).folder.glob("*.part"))
                part.write_bytes(part.read_bytes()[:-1])

        return watched

    def start(self) -> int:
        self.check()
        return self.run(ModelSource("bundled"), Defaults(), scores=("gradient_step",))


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of one to five demonstrations."""
    monkeypatch.chdir(tmp_path)
    asked = ["\n\n".join([*PAIRS[: 1 + i], "horse is"]) for i in range(N)]
    Path("p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in asked))


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_batch_that_fails_leaves_another_to_be_measured(times: int) -> None:
    many = Watched(failures=times)
    assert many.start() == (1 if times else 0)
    *probes, rest = many.estimates
    assert probes == [[0.0]] * (times + 1)
    assert len(rest) == N - times - 1
    assert all(0 < one < TASK_SECONDS for one in rest)


def test_batches_of_unknown_time_are_a_task_each(capsys: pytest.CaptureFixture[str]) -> None:
    many = Watched(failures=MOST_MEASURED)
    assert many.start() == 1
    assert many.estimates[-1] == [TASK_SECONDS] * (N - MOST_MEASURED)
    said = capsys.readouterr().err
    assert "of work left" not in said
    assert f"not explained: RuntimeError: out of luck ({MOST_MEASURED} batches)" in said
    assert Watched().start() == 0


def test_a_part_that_goes_while_others_are_computed_is_one_clear_line() -> None:
    with pytest.raises(UserError) as caught:
        Watched(damages=True).start()
    assert str(caught.value) == (
        "a finished batch in o.parquet.parts was changed or taken away meanwhile; the same command computes it again."
    )
    assert Watched().start() == 0


def test_what_another_process_finished_meanwhile_is_not_computed_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Watched().start() == 0
    OUT.rename("theirs")
    lock = fcntl.flock

    def late(*given: Any) -> None:
        if Path("theirs").exists():
            Path("theirs").rename(OUT)
        lock(*given)

    monkeypatch.setattr(fcntl, "flock", late)
    capsys.readouterr()
    many = Watched()
    assert many.start() == 0
    assert many.estimates == []
    assert "o.parquet holds these prompts explained by this model already" in capsys.readouterr().out
    assert sorted(path.name for path in Path().iterdir()) == ["o.parquet", "p.jsonl"]
