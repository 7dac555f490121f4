"""Calls on a Ray cluster keep the contract of calls in worker processes, and outlive processes and machines."""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests.house.started import wait_for
from tests.work.cluster.ray_nodes import ray_nodes
from tests.work.interrupting import interrupted_when

from iclens.errors import UserError
from iclens.work.cluster import Cluster, connected, each_on_cluster, slots


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as monkeypatch, ray_nodes(monkeypatch) as nodes:
        yield nodes


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    import worker_calls

    return worker_calls


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cpus": -1.0}, "-1.0 CPUs a task"),
        ({"gpus": float("nan")}, "nan GPUs a task"),
        ({"gpus": 1.5}, "above 1 they are whole"),
        ({"cpus": 0.0}, "some CPU or some GPU"),
        ({"retries": -1}, "-1 retries"),
        ({"address": "somewhere"}, "'somewhere' is no address"),
        ({"address": "ray://somewhere:10001"}, "is no address"),
    ],
)
def test_an_impossible_cluster_is_refused(changes, text):
    with pytest.raises(UserError, match=text):
        Cluster(**changes)


def test_missing_ray_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'iclens\[ray\]'"):
        next(each_on_cluster(divmod, [(1, 2)], cluster=Cluster()))


def test_an_address_where_nobody_answers_is_refused_before_ray_tries_for_minutes(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked to connect"))
    with pytest.raises(UserError, match="no Ray cluster answers at"):
        next(each_on_cluster(divmod, [(1, 2)], cluster=Cluster("127.0.0.1:1")))


def test_a_ray_that_does_not_start_is_one_clear_error(monkeypatch):
    ray = pytest.importorskip("ray")

    def fail(**_):
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=r"could not be started on this machine: The current node timed out[^\n]*$"):
        next(each_on_cluster(divmod, [(1, 2)], cluster=Cluster()))


@pytest.mark.slow
@pytest.mark.parametrize("together", [None, [[0, 2], [], [1]], [[2, 1, 0]]])
def test_every_call_ends_once_with_its_value_or_its_error(nodes, calls, together):
    heard = []
    asked = [(x,) for x in (3, -1, 5)]
    ended = list(
        each_on_cluster(
            calls.square, asked, cluster=nodes.cluster, together=together, report=lambda *said: heard.append(said)
        )
    )
    values = {one.place: one for one in ended}
    assert sorted(values) == sorted(one.place for one in ended) == [0, 1, 2]
    assert (values[0].result()[0], values[2].result()[0]) == (9, 25)
    with pytest.raises(UserError, match="-1 is negative"):
        values[1].result()
    assert all(values[place].result()[1] != os.getpid() for place in (0, 2))
    assert all(values[place].result()[2] == 1 for place in (0, 2))
    assert set(heard) <= {(place, x, "squaring") for place, (x,) in enumerate(asked)}


@pytest.mark.slow
def test_calls_are_taken_up_a_bounded_number_ahead(nodes, calls):
    taken = set()

    class Lazy(Sequence):
        def __len__(self):
            return 10**6

        def __getitem__(self, place):
            taken.add(place)
            return (place,)

    with closing(each_on_cluster(calls.square, Lazy(), cluster=nodes.cluster)) as ends:
        for number, ended in enumerate(ends):
            assert ended.result()[0] == ended.place**2
            # The checks of types look at one somewhere.
            assert next(place for place in itertools.count() if place not in taken) <= number + 9
            if number == 20:
                break


@pytest.mark.slow
def test_leaving_ends_calls_that_run_and_begins_no_other(nodes, calls, tmp_path, monkeypatch):
    import ray

    # They end by themselves: nobody has to be killed.
    killed, cancel = [], ray.cancel
    monkeypatch.setattr(ray, "cancel", lambda one, **options: killed.append(one) or cancel(one, **options))
    files = [tmp_path / str(place) for place in range(4)]
    heard = threading.Event()

    def stop(place, *said):
        heard.set()
        raise KeyboardInterrupt

    running = each_on_cluster(
        calls.endless, [(file,) for file in files], cluster=nodes.cluster, report=stop, grace=120.0
    )
    with closing(running), pytest.raises(KeyboardInterrupt):
        next(running)
    assert heard.is_set()
    assert killed == []
    # There is one CPU.
    (file,) = [file for file in files if file.exists()]
    assert nodes.busy() == []
    # Nor later.
    time.sleep(1)
    assert [file for file in files if file.exists()] == [file]


@pytest.mark.slow
def test_a_call_that_does_not_listen_is_killed_after_a_while(nodes, calls, tmp_path):
    running = each_on_cluster(calls.deaf, [(tmp_path / "a",)], cluster=nodes.cluster, grace=1.0)
    with closing(running), interrupted_when((tmp_path / "a").exists), pytest.raises(KeyboardInterrupt):
        next(running)
    process = int((tmp_path / "a").read_text())
    wait_for(lambda: not os.path.exists(f"/proc/{process}"))


@pytest.mark.slow
@pytest.mark.faults
def test_a_call_that_kills_its_process_ends_with_an_error_and_the_others_go_on(nodes, calls):
    again = Cluster(nodes.cluster.address, retries=1)
    asked = [(x, 1) for x in range(4)]
    ended = {one.place: one for one in each_on_cluster(calls.killed_at, asked, cluster=again, together=[[0, 1, 2, 3]])}
    assert sorted(ended) == [0, 1, 2, 3]
    assert [ended[place].result() for place in (0, 2, 3)] == [0, 2, 3]
    with pytest.raises(UserError, match="killed 2 times at the same work"):
        ended[1].result()


@pytest.mark.slow
@pytest.mark.faults
def test_a_call_whose_machine_dies_is_begun_anew_elsewhere(nodes, calls, tmp_path):
    with nodes.second() as node:
        assert slots(nodes.cluster) == 2
        killed = []

        def kill(place, *said):
            begun = [int(file.read_text()) for file in tmp_path.glob("[0-9]") if file.read_text().endswith("\n")]
            # Both are at work, so one of them there.
            if len(begun) == 2 and not killed:
                killed.append(place)
                nodes.kill(node)
                wait_for(lambda: not all(os.path.exists(f"/proc/{process}") for process in begun))
                (tmp_path / "go on").touch()

        asked = [(tmp_path, place) for place in range(2)]
        ended = list(each_on_cluster(calls.patient, asked, cluster=nodes.cluster, report=kill))
    assert killed
    assert sorted(one.place for one in ended) == [0, 1]
    begun = [one.result() for one in ended]
    assert sorted(begun) == [1, 2]


@pytest.mark.slow
def test_a_cluster_without_room_for_a_task_is_refused(nodes, calls):
    with pytest.raises(UserError, match=r"no machine of the Ray cluster has the 7 CPUs and 0.5 GPUs.* 1 CPUs and 0"):
        next(each_on_cluster(calls.square, [(1,)], cluster=Cluster(nodes.cluster.address, cpus=7.0, gpus=0.5)))


@pytest.mark.slow
def test_a_connection_that_is_there_stays(nodes, calls):
    import ray

    with connected(nodes.cluster):
        # A node that was just lost may still be counted.
        assert slots(nodes.cluster) in (1, 2)
        assert slots(Cluster(nodes.cluster.address, cpus=0.25)) == 4 * slots(nodes.cluster)
    assert ray.is_initialized()


@pytest.mark.slow
def test_machines_with_other_versions_are_refused(nodes, calls, monkeypatch):
    ours = platform.python_version()
    monkeypatch.setattr(platform, "python_version", lambda: "2.7.18")
    with pytest.raises(UserError, match=rf"Python {re.escape(ours)} instead of 2\.7\.18"):
        list(each_on_cluster(calls.square, [(1,), (2,)], cluster=nodes.cluster))


@pytest.mark.slow
def test_a_function_that_the_machines_cannot_import_is_one_clear_error(nodes, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "sweeps"))
    import small_runs

    with pytest.raises(UserError, match=r"cannot run the calls; all need the same Python, Ray and iclens.*small_runs"):
        list(each_on_cluster(small_runs.metrics_of, [(1,)], cluster=nodes.cluster))
