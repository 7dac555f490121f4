"""Calls in worker processes: what they give, and that nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing

import pytest
import torch
from tests.work.interrupting import interrupted_when

from iclens.errors import UserError
from iclens.work import workers
from iclens.work.workers import each, torch_threads, usable_cores, worth_starting


@pytest.fixture
def calls(monkeypatch):
    # A new process imports the functions by the name of their module.
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    import worker_calls

    return worker_calls


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_call_ends_once_with_its_value_or_its_error(calls, n_workers):
    heard = []
    ended = list(
        each(calls.square, [(x,) for x in (3, -1, 5)], workers=n_workers, report=lambda *said: heard.append(said))
    )
    assert sorted(one.place for one in ended) == [0, 1, 2]
    values = {one.place: one for one in ended}
    assert values[0].result()[0] == 9
    assert values[2].result()[0] == 25
    with pytest.raises(UserError, match="-1 is negative"):
        values[1].result()
    assert (0, 3, "squaring") in heard
    processes = {values[place].result()[1] for place in (0, 2)}
    assert (os.getpid() in processes) == (n_workers == 1)
    assert all(values[place].result()[2] == 1 for place in (0, 2))


def test_leaving_ends_calls_that_run_and_their_processes(calls, tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    heard = []
    running = each(calls.endless, [(file,) for file in files], workers=2, report=lambda *said: heard.append(said))
    # Ctrl-C reaches the main thread while it waits.
    interruption = interrupted_when(lambda: len({place for place, _ in heard}) == 2)
    with closing(running), interruption, pytest.raises(KeyboardInterrupt):
        next(running)
    for file in files:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    here = os.path.dirname(__file__)
    with subprocess.Popen([sys.executable, str(script), here, *map(str, files)]) as parent:
        while not all(file.exists() and file.read_text() for file in files):
            time.sleep(0.05)
        parent.kill()
    for file in files:
        until = time.monotonic() + 20
        while _alive(int(file.read_text())):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_killed_process_is_one_clear_error(calls):
    (first, *others) = each(calls.killed, [(1,), (2,)], workers=2)
    for ended in (first, *others):
        with pytest.raises(UserError, match="a worker process was killed"):
            ended.result()


@pytest.mark.slow
def test_the_others_go_on_when_one_process_is_killed(calls):
    ended = {one.place: one for one in each(calls.killed_at, [(x, 3) for x in range(7)], workers=2)}
    assert sorted(ended) == list(range(7))
    assert [place for place, one in ended.items() if one.error is not None] == [3]
    assert all(one.result() == place for place, one in ended.items() if place != 3)
    with pytest.raises(UserError, match="a worker process was killed, also when it worked alone"):
        ended[3].result()


@pytest.mark.parametrize("n_workers", [1, 2])
def test_want_of_memory_is_one_clear_error(calls, n_workers):
    ended = {one.place: one for one in each(calls.short_of_memory, [(x,) for x in (0, 1, 2)], workers=n_workers)}
    assert [ended[place].error for place in (0, 2)] == [None, None]
    with pytest.raises(UserError, match="not enough memory"):
        ended[1].result()


def test_a_process_that_has_ended_is_not_alive_though_nobody_has_asked():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        assert workers.is_alive(one.pid)
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert not workers.is_alive(one.pid)
    assert not workers.is_alive(one.pid)
    assert workers.is_alive(os.getpid())


@pytest.mark.parametrize("number", [2**31, 10**20])
def test_a_number_that_no_process_can_have_is_not_alive(number):
    assert not workers.is_alive(number)


def test_in_one_process_an_interruption_passes_through(calls, tmp_path):
    def stop(place, *said):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(each(calls.endless, [(tmp_path / "a",)], report=stop))


def test_processes_that_are_worth_their_start():
    assert worth_starting(8, 0.1) == 1
    assert worth_starting(8, 1e6) == 8
    numbers = [worth_starting(4, seconds) for seconds in range(1000)]
    assert numbers == sorted(numbers)
    assert set(numbers) == {1, 2, 3, 4}
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_threads_are_those_asked_for_and_then_those_of_before():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(RuntimeError), torch_threads(before + 2):
        raise RuntimeError
    assert torch.get_num_threads() == before


PARENT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import worker_calls
from iclens.work.workers import each

if __name__ == "__main__":
    list(each(worker_calls.endless, [(Path(name),) for name in sys.argv[2:]], workers=2))
"""


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
