"""A sweep on a Ray cluster gives what it gives here, bit for bit, whatever dies or is interrupted meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.house.started import marked, started, wait_for
from tests.training.tiny_runs import tiny
from tests.work.cluster.ray_nodes import ray_nodes

from iclens.cli.main import main
from iclens.errors import UserError
from iclens.sweeps import run_folder
from iclens.sweeps.on_cluster import measure_on_cluster, train_on_cluster
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store
from iclens.sweeps.sweep import SweepPlan, prepare, run
from iclens.training.loop import train
from iclens.work.cluster import Cluster, connected, tasks_of


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as monkeypatch, ray_nodes(monkeypatch) as nodes:
        yield nodes


def configs_of(n_seeds, steps=6, **changes):
    return [tiny(seed=seed, training={"steps": steps}, **changes) for seed in range(n_seeds)]


def plan_of(configs, size, seconds=1.0):
    chunks = [configs[start : start + size] for start in range(0, len(configs), size)]
    return SweepPlan(chunks, [chunk[0].training.steps for chunk in chunks], [seconds] * len(chunks), 0)


def parts_of(store):
    """Every run's files that do not say when and where it was trained, byte for byte."""
    names = (run_folder.CONFIG, run_folder.TENSORS, run_folder.METRICS)
    return {key: [(store.path / "runs" / key / name).read_bytes() for name in names] for key in store.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """What a plan gives in this process."""
    known = {}

    def trained(plan):
        key = str([[one.key() for one in chunk] for chunk in plan.chunks])
        if key not in known:
            store = Store(tmp_path_factory.mktemp("here"))
            run(plan, store)
            known[key] = parts_of(store)
        return known[key]

    return trained


@given(st.lists(st.floats(0, 30)), st.floats(0.1, 20))
def test_tasks_hold_every_chunk_once_in_order_and_enough_work_but_no_more_than_needed(seconds, least):
    tasks = tasks_of(seconds, least)
    assert [place for task in tasks for place in task] == list(range(len(seconds)))
    for task in tasks:
        assert len(task) == 1 or sum(seconds[place] for place in task[:-1]) < least
    for task in tasks[:-1]:
        assert sum(seconds[place] for place in task) >= least


def test_a_run_that_did_not_arrive_as_it_was_packed_is_refused(tmp_path):
    (config,) = configs_of(1)
    (one,) = train([config])
    result = Result(status="finished", seconds=1.0, last_finite_step=6)
    files = run_folder.pack(config, one.tensors, one.metrics, result)
    store = Store(tmp_path)
    changed = files[run_folder.TENSORS]
    changed = changed[:-1] + bytes([changed[-1] ^ 1])
    for bad in (
        {**files, run_folder.TENSORS: changed},
        {name: data for name, data in files.items() if name != run_folder.METRICS},
        {**files, "more": b""},
        {},
    ):
        with pytest.raises(UserError, match="did not arrive as it was packed"):
            store.add_packed({config.key(): bad})
    with pytest.raises(UserError, match="did not arrive as it was packed"):
        store.add_packed({config.key(): files, "0123456789abcdef": files})
    assert store.keys() == set()
    assert store.add_packed({config.key(): files}) == {config.key()}
    assert store.add_packed({config.key(): files}) == set()
    assert store.add_packed({}) == set()
    assert store.verify() == []


def test_without_ray_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", str(config_file(tmp_path)), "--store", str(tmp_path / "runs"), "--on", "ray"]) == 2
    assert "pip install 'iclens[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", [["--address", "auto"], ["--task-cpus", "2"], ["--task-gpus", "0.5"]])
def test_an_option_for_ray_without_ray_is_refused(tmp_path, capsys, option):
    assert main(["sweep", str(config_file(tmp_path)), "--store", str(tmp_path / "runs"), *option]) == 2
    assert f"{option[0]} is for a Ray cluster: give --on ray" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_on_a_ray_of_its_own_equals_one_here(tmp_path, here):
    pytest.importorskip("ray")
    plan = plan_of(configs_of(6), 2, seconds=5.0)
    store = Store(tmp_path)
    told = []
    import ray

    with connected(Cluster()):
        assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
        result = run(plan, store, cluster=Cluster(), report=lambda *seen: told.append(seen))
    assert not ray.is_initialized()
    assert (result.finished, result.diverged, result.failed) == (6, 0, [])
    assert parts_of(store) == here(plan)
    assert {place for place, _ in told} <= {0, 1, 2}
    assert store.verify() == []


@pytest.mark.slow
def test_one_node_and_two_give_what_is_given_here(tmp_path, nodes, here):
    wild = tiny(seed=9, training={"steps": 100, "learning_rate": 1e9})
    wide = configs_of(3, 100, model={"width": 16})
    chunks = [*plan_of(configs_of(8, 100), 2).chunks, [wild], wide]
    plan = SweepPlan(chunks, [100] * 6, [6.0] * 6, 0)
    stores = [Store(tmp_path / "one"), Store(tmp_path / "two")]
    results = [run(plan, stores[0], cluster=nodes.cluster)]
    with nodes.second():
        results.append(run(plan, stores[1], cluster=nodes.cluster))
    for store, result in zip(stores, results, strict=True):
        assert (result.finished, result.diverged, result.failed) == (11, 1, [])
        assert parts_of(store) == here(plan)
        assert store.verify() == []


@pytest.mark.slow
@pytest.mark.faults
def test_a_worker_killed_amid_a_sweep_loses_and_doubles_nothing(tmp_path, nodes, here):
    plan = plan_of(configs_of(8, 500), 2, seconds=6.0)
    store = Store(tmp_path)
    killed = []

    def kill(place, step):
        if step > 50 and len(killed) < 2 and place not in killed and nodes.kill_a_worker():
            killed.append(place)

    result = run(plan, store, cluster=nodes.cluster, report=kill)
    assert killed
    assert (result.finished, result.failed) == (8, [])
    assert parts_of(store) == here(plan)
    assert store.verify() == []


@pytest.mark.slow
@pytest.mark.faults
def test_a_node_lost_amid_a_sweep_loses_and_doubles_nothing(tmp_path, nodes, here):
    plan = plan_of(configs_of(8, 500), 2, seconds=6.0)
    store = Store(tmp_path)
    heard, killed = set(), []
    with nodes.second() as node:

        def kill(place, step):
            heard.add(place)
            # One on each, as a node has one CPU and a task's chunks run one after the other.
            if len(heard) == 2 and not killed:
                killed.append(place)
                nodes.kill(node)

        result = run(plan, store, cluster=nodes.cluster, report=kill)
    assert killed
    assert (result.finished, result.failed) == (8, [])
    assert parts_of(store) == here(plan)
    assert store.verify() == []


@pytest.mark.slow
def test_a_chunk_that_fails_keeps_no_other_from_being_trained(tmp_path, nodes):
    good, bad = configs_of(2), tiny(seed=5, model={"n_heads": 3})
    ends = train_on_cluster([[good[0]], [bad], [good[1]]], [1.0] * 3, Store(tmp_path), cluster=nodes.cluster)
    ended = {one.place: one for one in ends}
    assert [ended[place].result() for place in (0, 2)] == [["finished"], ["finished"]]
    with pytest.raises(UserError, match="does not divide"):
        ended[1].result()


@pytest.mark.slow
def test_a_full_disk_fails_chunks_and_what_is_there_stays(tmp_path, nodes, monkeypatch, here):
    plan = plan_of(configs_of(6), 2)
    store = Store(tmp_path)
    plain = Store.add_packed

    def full(self, runs):
        if plan.chunks[1][0].key() in runs:
            raise UserError("cannot write: no space left on device.")
        return plain(self, runs)

    monkeypatch.setattr(Store, "add_packed", full)
    result = run(plan, store, cluster=nodes.cluster)
    assert (result.finished, result.failed) == (4, ["cannot write: no space left on device."])
    monkeypatch.undo()
    rest = prepare([one for chunk in plan.chunks for one in chunk], store, chunk=2)
    assert [len(part) for part in rest.chunks] == [2]
    run(rest, store, cluster=nodes.cluster)
    assert parts_of(store) == here(plan)


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_ends_as_if_it_had_not_been(tmp_path, nodes, here):
    configs = configs_of(8, 500)
    plan = plan_of(configs, 2, seconds=6.0)
    store = Store(tmp_path)

    def give_up(place, step):
        if place == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, store, cluster=nodes.cluster, report=give_up)
    assert nodes.busy() == []
    present = store.keys()
    assert {one.key() for chunk in plan.chunks[:2] for one in chunk} <= present
    assert len(present) % 2 == 0
    before = {key: (store.path / "runs" / key / run_folder.RESULT).read_bytes() for key in present}
    rest = prepare(configs, store, chunk=2)
    assert rest.n_present == len(present)
    assert all(chunk in plan.chunks for chunk in rest.chunks)
    run(rest, store, cluster=nodes.cluster)
    assert parts_of(store) == here(plan)
    for key, data in before.items():
        assert (store.path / "runs" / key / run_folder.RESULT).read_bytes() == data


@pytest.mark.slow
def test_groups_are_measured_on_the_cluster(nodes):
    groups = [configs_of(3), configs_of(2, model={"width": 16})]
    first, second = measure_on_cluster(groups, 2**30, cluster=nodes.cluster)
    assert first.size in (1, 2, 3)
    assert second.size in (1, 2)
    assert second.bytes_per_run > first.bytes_per_run > 0
    with pytest.raises(UserError, match="does not divide"):
        measure_on_cluster([[tiny(model={"n_heads": 3})]], 2**30, cluster=nodes.cluster)


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [True, False], ids=["group", "parent"])
def test_ctrl_c_ends_the_command_and_its_ray_and_the_command_goes_on(tmp_path, everybody):
    """A terminal sends the signal to the whole group; another program may send it to the first process alone."""
    pytest.importorskip("ray")
    file, runs = config_file(tmp_path, steps=1000, n_seeds=16), tmp_path / "runs"
    command = [sys.executable, "-m", "iclens", "sweep", str(file), "--store", str(runs), "--chunk", "1"]

    def one_is_there():
        assert process.poll() is None, process.stderr.read()
        return any((runs / "runs").glob("[0-9a-f]*"))

    with started([*command, "--on", "ray"], stderr=subprocess.PIPE, text=True) as (process, mark):
        wait_for(one_is_there)
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=300)
        assert list(marked(mark)) == []
    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    assert "the same command goes on from here" in complaints
    present = Store(runs).keys()
    assert 0 < len(present) < 16
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    store = Store(runs)
    assert len(store.keys()) == 16
    assert present < store.keys()
    assert store.verify() == []


def config_file(folder, steps=6, n_seeds=2):
    file = folder / "sweep.toml"
    file.write_text(CONFIG.format(steps=steps, n_seeds=n_seeds))
    return file


CONFIG = """
[task]
name = "linear"
d = 3
[model]
name = "transformer"
width = 8
n_heads = 2
ffn_width = 8
[training]
steps = {steps}
batch = 4
n_context = 5
evaluation_prompts = 16
[sweep]
seed = {{range = {n_seeds}}}
"""
