"""The `iclens` command run to its end or until a signal, and what it leaves in its folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.training.tiny_runs import tiny

from iclens.language.words import CATEGORIES, LABELS
from iclens.sweeps.store import Store
from iclens.training.config_file import toml_text

SWEEP = '\n[sweep]\n"training.learning_rate" = [1e-2, 2e-2]\nseed = {range = 3}\n'
TRAINING = {"steps": 12, "evaluate_every": 4}

TIMES = ("seconds", "ended", "machine", "finished", "number")
"""Entries of results that differ from run to run: times, and which run was the first to be finished."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        statuses: its exit status, or the negative number of the signal that ended it; of every copy.
        seconds: how long it took.
        orphans: processes that it left and that did not end by themselves.
        said: what it printed.
    """

    statuses: list[int]
    seconds: float
    orphans: int
    said: str

    @property
    def status(self) -> int:
        """Of the first."""
        return self.statuses[0]


class Commands:
    """The fork server, see `fork_server.py`."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"},
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, folder, *arguments, signal=None, after=0.0, whole=False, before=(), copies=1) -> Outcome:
        """Run the command in a folder.

        Args:
            folder: its working folder.
            arguments: what follows `iclens`.
            signal: the name of a signal, e.g. `KILL`, or None to let it end.
            after: seconds after which the signal is sent.
            whole: send it to the command's workers as well.
            before: names of faults, see `fork_server.BEFORE`.
            copies: how many are begun at once; the signal is for the first.
        """
        rest = {"after": after, "whole": whole, "before": list(before), "copies": copies}
        return self._asked(folder, arguments, signal=signal, **rest)

    def warm(self, folder, *arguments) -> Outcome:
        """Run the command to its end, and have the server import what it imported on its way."""
        return self._asked(folder, arguments, signal=None, modules=f"{self._log}.modules")

    def _asked(self, folder, arguments, **rest) -> Outcome:
        self._log.write_text("")
        os.chmod(self._log, 0o666)
        request = {
            "argv": [str(one) for one in arguments],
            "cwd": str(folder),
            "log": str(self._log),
            **rest,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Outcome(**answer, said=self._log.read_text(errors="replace"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)


@contextmanager
def serving(log: Path) -> Iterator[Commands]:
    commands = Commands(log)
    try:
        yield commands
    finally:
        commands.close()


class Work:
    """A command whose result is known, and how to compare what lies in its folder with it.

    Attributes:
        arguments: what follows `iclens`; the same every time, so that it goes on where it was.
    """

    arguments: tuple[str, ...]

    def prepare(self, folder: Path) -> None:
        """What the command reads."""

    def finished(self, folder: Path) -> dict[str, object]:
        """Results that are whole, by name: whatever happens later, they stay as they are, times included."""
        raise AssertionError

    def result(self, folder: Path) -> dict[str, object]:
        """All results without their times."""
        raise AssertionError

    def harmed(self, before: dict[str, object], folder: Path) -> list[str]:
        """Which of the results that were whole before are lost or changed."""
        now = self.finished(folder)
        return [name for name, content in before.items() if now.get(name) != content]

    def left(self, folder: Path) -> list[str]:
        """What lies there that should not, once the command has ended and leftovers were collected."""
        raise AssertionError


class Training(Work):
    """`iclens train`: one run into a store."""

    arguments = ("train", "one.toml", "--threads", "1")

    def prepare(self, folder):
        (folder / "one.toml").write_text(toml_text(tiny(training=TRAINING).to_dict()))

    def finished(self, folder):
        runs = folder / "iclens-runs" / "runs"
        whole = [one for one in sorted(runs.glob("*")) if not one.name.startswith(".")]
        return {one.name: {file.name: file.read_bytes() for file in one.iterdir()} for one in whole}

    def result(self, folder):
        found = self.finished(folder)
        for files in found.values():
            result = json.loads(files["result.json"])
            files["result.json"] = {name: value for name, value in result.items() if name not in TIMES}
            del files["checksums.json"]
        return found

    def left(self, folder):
        store = Store(folder / "iclens-runs", create=False)
        # Closed as the last connection closes, SQLite takes its own two files away.
        problems = [repr(one) for one in store.verify() if one.kind != "leftover"]
        problems += [] if len(store.rows()) == len(store.keys()) == len(self.finished(folder)) else ["rows"]
        store.gc()
        problems += [repr(one) for one in store.verify()]
        known = {"index.sqlite", "runs", "unfinished", ".lock", "index.sqlite-wal", "index.sqlite-shm"}
        problems += sorted({one.name for one in store.path.iterdir()} - known)
        return problems + [str(one) for one in (store.path / "unfinished").glob("*")] + store.notes


class Sweeping(Training):
    """`iclens sweep` with two workers: six runs in chunks of two into a store."""

    arguments = ("sweep", "many.toml", "--workers", "2", "--chunk", "2")

    def prepare(self, folder):
        (folder / "many.toml").write_text(toml_text(tiny(training=TRAINING).to_dict()) + SWEEP)


class Reproducing(Work):
    """`iclens reproduce` of a recipe with eight parts, on two workers."""

    arguments = ("reproduce", "fault-dice", "--jobs", "2", "--resume", "--out", "out")

    def finished(self, folder):
        parts = sorted((folder / "out" / "fault-dice").glob("parts/*.json"))
        return {one.name: one.read_bytes() for one in parts}

    def harmed(self, before, folder):
        # The table takes the place of its parts.
        return [] if (folder / "out" / "fault-dice" / "table.json").exists() else super().harmed(before, folder)

    def result(self, folder):
        own = folder / "out" / "fault-dice"
        table = json.loads((own / "table.json").read_text())
        names = ("table.csv", "verdicts.json", "figure.png", "figure.svg", "figure-dark.svg")
        # The checksum of the table covers its times.
        table = {name: value for name, value in table.items() if name not in (*TIMES, "sha256")}
        return {"table.json": table, **{name: (own / name).read_bytes() for name in names}}

    def left(self, folder):
        own = folder / "out" / "fault-dice"
        known = {
            "table.json", "table.csv", "verdicts.json", "figure.png", "figure.svg", "figure-dark.svg", "index.html",
        }  # fmt: skip
        pages = {"index.html", "fault-dice"}
        return [str(one) for one in own.iterdir() if one.name not in known] + [
            str(one) for one in (folder / "out").iterdir() if one.name not in pages
        ]


class Explaining(Work):
    """`iclens explain --batch`: 24 prompts in five batches on two workers."""

    arguments = (
        "explain", "--batch", "many.jsonl", "--out", "out.parquet", "--template", "{input} is {output}",
        "--workers", "2", "--batch-tokens", "100",
    )  # fmt: skip

    def prepare(self, folder):
        words, answers = ("cat", "dog", "horse", "apple", "cherry", "hammer", "saw"), ("vux", "nef", "zup", "blick")
        lines = []
        for i in range(24):
            pairs = [{"input": words[(i + j) % 7], "output": answers[(i + 2 * j) % 4]} for j in range(2 + i % 4)]
            lines.append(json.dumps({"demonstrations": pairs, "query": words[3 * i % 7]}) + "\n")
        (folder / "many.jsonl").write_text("".join(lines))

    def finished(self, folder):
        parts = sorted((folder / "out.parquet.parts").glob("*.part"))
        return {one.name: one.read_bytes() for one in parts}

    def harmed(self, before, folder):
        # The whole takes the place of its parts.
        return [] if (folder / "out.parquet").exists() else super().harmed(before, folder)

    def result(self, folder):
        from pyarrow import parquet

        table = parquet.read_table(folder / "out.parquet")
        # As text, because NaN is not equal to itself.
        return {"schema": str(table.schema), "rows": [repr(row) for row in table.to_pylist()]}

    def left(self, folder):
        return sorted({one.name for one in folder.iterdir()} - {"many.jsonl", "out.parquet"})


def write_pairs(file, start, stop):
    """Write words of three categories by turns, each with the label of its category, as `.jsonl`."""
    rows = []
    for words, label in zip(list(CATEGORIES.values())[:3], LABELS, strict=False):
        rows += [(place, {"input": word, "output": label}) for place, word in enumerate(words)]
    rows = [row for _, row in sorted(rows, key=lambda one: one[0])][start:stop]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Selecting(Work):
    """`iclens select`: the best three of a pool of six, on queries that run one mini-batch after another."""

    arguments = (
        "select", "pool.jsonl", "--dev", "dev.jsonl", "-k", "3", "--budget", "60", "--template", "{input} is {output}",
        "--out", "chosen.jsonl", "--json", "chosen.json",
    )  # fmt: skip

    def prepare(self, folder):
        write_pairs(folder / "pool.jsonl", 0, 6)
        write_pairs(folder / "dev.jsonl", 6, 20)

    def finished(self, folder):
        return {one.name: one.read_bytes() for one in sorted((folder / "chosen.jsonl.parts").glob("*.part"))}

    def harmed(self, before, folder):
        # The choice takes the place of its parts.
        return [] if (folder / "chosen.jsonl").exists() else super().harmed(before, folder)

    def result(self, folder):
        told = json.loads((folder / "chosen.json").read_text())
        return {"chosen": (folder / "chosen.jsonl").read_bytes(), "told": without_times(told)}

    def left(self, folder):
        known = {"pool.jsonl", "dev.jsonl", "chosen.jsonl", "chosen.json"}
        return sorted({one.name for one in folder.iterdir()} - known)


class Absorbing(Work):
    """`iclens absorb`, which keeps nothing on its way: an adapter is there as a whole or not at all."""

    arguments = (
        "absorb", "pool.jsonl", "--queries", "queries.jsonl", "--rank", "2", "--template", "{input} is {output}",
        "--no-curves", "--out", "adapter", "--json", "absorbed.json",
    )  # fmt: skip

    def prepare(self, folder):
        write_pairs(folder / "pool.jsonl", 0, 6)
        write_pairs(folder / "queries.jsonl", 6, 20)

    def finished(self, folder):
        adapter = folder / "adapter"
        # The configuration is written last: with it an adapter is one.
        whole = (adapter / "adapter_config.json").exists()
        return {one.name: one.read_bytes() for one in sorted(adapter.iterdir())} if whole else {}

    def result(self, folder):
        return {**self.finished(folder), "told": without_times(json.loads((folder / "absorbed.json").read_text()))}

    def left(self, folder):
        known = {"pool.jsonl", "queries.jsonl", "adapter", "absorbed.json"}
        return sorted({one.name for one in folder.iterdir()} - known)


def without_times(told):
    """What a document tells, at any depth, but for seconds."""
    if isinstance(told, dict):
        return {name: without_times(value) for name, value in told.items() if "seconds" not in name}
    return [without_times(one) for one in told] if isinstance(told, list) else told


WORKS = {
    "train": Training(),
    "sweep": Sweeping(),
    "reproduce": Reproducing(),
    "explain": Explaining(),
    "select": Selecting(),
    "absorb": Absorbing(),
}
