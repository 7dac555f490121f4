"""A command that is killed or interrupted at any moment, and then run again, ends as if nothing had happened.

After every kill: what was finished is there, byte for byte; no process is left. After the last run: every result once,
equal bit for bit to that of an uninterrupted run, and nothing besides that `iclens runs gc` does not collect.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tests.faults.commands import WORKS

KILLS = {"train": 50, "sweep": 60, "reproduce": 50, "explain": 40, "select": 40, "absorb": 20}
"""In the long version."""


def suffer(commands, work, folder, moments, number, counts):
    """Run a command again and again and end it at these moments; how often it had not ended by itself."""
    whole_before, struck = {}, 0
    for after, workers_too in moments:
        outcome = commands.run(folder, *work.arguments, signal=number, after=after, whole=workers_too)
        counts["orphans"] += outcome.orphans
        assert outcome.orphans == 0
        stopped = {"KILL": -signal.SIGKILL, "INT": 130}[number]
        assert outcome.status in (0, stopped), outcome.said
        # A worker whose parent was killed may say that nobody hears it any more. A Ctrl-C that comes while Python drops
        # a weak reference is reported and dropped by Python itself; the command goes on, as the rest of this sees.
        dropped = "Exception ignored in" in outcome.said and outcome.status == 0
        assert number == "KILL" or dropped or "Traceback" not in outcome.said, outcome.said
        struck += outcome.status == stopped
        harmed = work.harmed(whole_before, folder)
        counts["lost or changed"] += len(harmed)
        assert harmed == []
        whole_before = work.finished(folder)
    outcome = commands.run(folder, *work.arguments)
    assert (outcome.statuses, outcome.orphans) == ([0], 0), outcome.said
    assert work.harmed(whole_before, folder) == []
    return struck


def drawn(draw, seconds, most):
    """Moments of one to so many signals, each to the command alone or to its workers as well."""
    # A little later than the end, so that the last steps of a run that took longer are met too.
    return [(draw.uniform(0.0, 1.1 * seconds), draw.random() < 0.5) for _ in range(draw.randint(1, most))]


def check_signals(name, number, wanted, seed, commands, uninterrupted, tmp_path, counts):
    work, draw = WORKS[name], random.Random(seed)
    expected, seconds = uninterrupted(work)
    struck, episode = 0, 0
    while struck < wanted:
        episode += 1
        assert episode < 10 * wanted, "the command ends before it can be struck"
        folder = tmp_path / f"{episode}"
        folder.mkdir()
        work.prepare(folder)
        moments = drawn(draw, seconds, 4)[: wanted - struck]
        hit = suffer(commands, work, folder, moments, number, counts)
        # The machine may have become faster, or slower, since the run was timed.
        seconds *= 1.05 if hit == len(moments) else 0.8 if hit == 0 else 1.0
        struck += hit
        found, left = work.result(folder), work.left(folder)
        counts["duplicated or unexpected"] += (found != expected) + len(left)
        assert found == expected, (seed, moments)
        assert left == [], (seed, moments)
    counts[f"SIG{number} in {name}"] += struck


@pytest.mark.parametrize("name", ["train", "sweep", "reproduce"])
def test_a_killed_command_goes_on_as_if_nothing_had_happened(name, commands, uninterrupted, tmp_path, counts):
    check_signals(name, "KILL", 2, 1, commands, uninterrupted, tmp_path, counts)


@pytest.mark.faults
@pytest.mark.parametrize("name", WORKS)
def test_a_command_that_is_killed_many_times(name, commands, uninterrupted, tmp_path, counts):
    check_signals(name, "KILL", KILLS[name], 2, commands, uninterrupted, tmp_path, counts)


@pytest.mark.faults
@pytest.mark.parametrize("name", WORKS)
def test_an_interrupted_command_goes_on_as_if_nothing_had_happened(name, commands, uninterrupted, tmp_path, counts):
    check_signals(name, "INT", 15, 3, commands, uninterrupted, tmp_path, counts)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["sweep", "train"])
def test_two_at_once_on_one_store_of_which_one_may_be_killed(name, commands, uninterrupted, tmp_path, counts):
    work, draw = WORKS[name], random.Random(4)
    expected, seconds = uninterrupted(work)
    for episode in range(8):
        folder = tmp_path / f"{episode}"
        folder.mkdir()
        work.prepare(folder)
        rest = {"signal": "KILL", "after": draw.uniform(0.0, 2 * seconds)} if episode % 2 else {}
        outcome = commands.run(folder, *work.arguments, copies=2, **rest)
        assert outcome.statuses[1] == 0, outcome.said
        assert outcome.statuses[0] == 0 or (rest and outcome.statuses[0] == -signal.SIGKILL), outcome.said
        assert outcome.orphans == 0
        assert work.result(folder) == expected, (episode, rest)
        assert work.left(folder) == [], (episode, rest)
        counts[f"two at once in {name}"] += 1


REAL = """
import sys
from iclens.work import workers
from iclens.cli.main import main

if __name__ == "__main__":
    workers.worth_starting = lambda number, seconds: number
    sys.exit(main())
"""


@pytest.mark.faults
@pytest.mark.parametrize("name", ["train", "sweep"])
def test_real_processes_with_workers_that_are_spawned(name, uninterrupted, tmp_path, counts):
    work, draw = WORKS[name], random.Random(5)
    expected, _ = uninterrupted(work)
    script = tmp_path / "script.py"
    script.write_text(REAL)

    def run(after):
        command = [sys.executable, str(script), *work.arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as one:
            try:
                one.communicate(timeout=after)
            except subprocess.TimeoutExpired:
                one.kill()
        return one.returncode

    folder = tmp_path / "first"
    folder.mkdir()
    work.prepare(folder)
    start = time.perf_counter()
    assert run(None) == 0
    seconds = time.perf_counter() - start
    # The checkpoints of every step and the workers of one thread give the same bits.
    assert work.result(folder) == expected
    folder = tmp_path / "second"
    folder.mkdir()
    work.prepare(folder)
    for _ in range(4):
        whole = work.finished(folder)
        counts[f"SIGKILL in {name} (new processes)"] += run(draw.uniform(0.1, 0.7) * seconds) == -signal.SIGKILL
        assert work.harmed(whole, folder) == []
    assert run(None) == 0
    assert work.result(folder) == expected
    assert work.left(folder) == []
