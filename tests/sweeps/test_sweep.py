"""A sweep puts every run into a store as it is alone; nothing is trained twice, and an interruption loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from tests.house.started import marked, started
from tests.training.tiny_runs import tiny

from iclens.errors import UserError
from iclens.sweeps import sweep
from iclens.sweeps.store import Store
from iclens.sweeps.sweep import SweepPlan, checkpoint_path, prepare, run
from iclens.training import loop as training
from iclens.training.config import RunConfig
from iclens.training.loop import train


def configs_of(n_seeds=3, widths=(8,), **changes):
    return [tiny(seed=seed, model={"width": width}, **changes) for width in widths for seed in range(n_seeds)]


def chunks_of(configs, size, seconds=1.0):
    chunks = [configs[start : start + size] for start in range(0, len(configs), size)]
    return SweepPlan(chunks, [chunk[0].training.steps for chunk in chunks], [seconds] * len(chunks), 0)


def assert_holds(store, configs, together=None):
    """Every run, bit for bit as in the ensemble of its chunk, or to rounding as alone."""
    expected = [one for chunk in together for one in train(chunk)] if together else [train([one])[0] for one in configs]
    assert store.keys() == {one.key() for one in configs}
    for one in expected:
        kept = store.load(one.config.key())
        assert RunConfig.from_dict(kept.config).key() == kept.key
        tensors = kept.tensors()
        assert tensors.keys() == one.tensors.keys()
        for name, value in one.tensors.items():
            if together:
                assert torch.equal(tensors[name], value)
            else:
                torch.testing.assert_close(tensors[name], value, rtol=1e-8, atol=1e-8)
        metrics = [tuple(row) for row in kept.metrics()]
        assert [row[:3] for row in metrics] == [row[:3] for row in one.metrics]
        if together:
            assert metrics == one.metrics


def test_every_run_ends_in_the_store(tmp_path):
    configs = configs_of(widths=(8, 16))
    store = Store(tmp_path / "runs")
    prepared = prepare(configs, store)
    assert (prepared.n_runs, prepared.n_present) == (6, 0)
    assert sorted(prepared.steps) == [6] * len(prepared.chunks)
    assert all(seconds > 0 for seconds in prepared.seconds)
    assert repr(prepared).startswith(f"<SweepPlan: 6 runs in {len(prepared.chunks)} chunks, about ")
    told = []
    result = run(prepared, store, report=lambda *seen: told.append(seen))
    assert (result.finished, result.diverged, result.failed) == (6, 0, [])
    assert_holds(store, configs)
    assert told == [(place, step) for place in range(len(prepared.chunks)) for step in range(1, 7)]
    assert not list((store.path / "unfinished").iterdir())
    row = store.rows()[0]
    assert (row.result.status, row.result.last_finite_step, row.result.device) == ("finished", 6, "cpu")


def test_nothing_is_trained_twice(tmp_path, monkeypatch):
    store = Store(tmp_path)
    trained = []
    plain = sweep.train
    monkeypatch.setattr(sweep, "train", lambda configs, **rest: trained.extend(configs) or plain(configs, **rest))
    first, more = configs_of(2), configs_of(4)
    run(prepare([*first, *first], store), store)
    prepared = prepare(more, store)
    assert (prepared.n_runs, prepared.n_present) == (2, 2)
    run(prepared, store)
    assert sorted(one.seed for one in trained) == [0, 1, 2, 3]
    assert prepare(more, store).chunks == []
    assert_holds(store, more)


def test_a_plan_needs_no_store():
    prepared = prepare(configs_of(), None)
    assert (prepared.n_runs, prepared.n_present) == (3, 0)


def test_a_given_chunk_is_taken_and_workers_share():
    configs = configs_of(7)
    assert [len(part) for part in prepare(configs, None, chunk=3).chunks] == [3, 3, 1]
    assert [len(part) for part in prepare(configs, None, measure=lambda *_: 1.0).chunks] == [7]
    assert [len(part) for part in prepare(configs, None, workers=2, measure=lambda *_: 1.0).chunks] == [4, 3]


def test_the_cap_of_memory_is_shared_among_workers():
    each = sweep.plan(configs_of(1), 1, steps=1).bytes_per_run
    for workers, size in ((1, 4), (2, 2), (4, 1)):
        prepared = prepare(configs_of(8), None, memory=4 * each, workers=workers, measure=lambda *_: 1.0)
        assert {len(part) for part in prepared.chunks} == {size}


def test_an_impossible_run_stops_the_sweep_before_it_begins(tmp_path):
    with pytest.raises(UserError, match="does not divide"):
        prepare([*configs_of(), tiny(model={"n_heads": 3})], Store(tmp_path))


def test_a_diverged_run_is_kept_as_such(tmp_path):
    configs = [tiny(seed=seed, training={"learning_rate": rate}) for seed, rate in enumerate((0.01, 1e9, 0.02))]
    store = Store(tmp_path)
    result = run(chunks_of(configs, 3), store)
    assert (result.finished, result.diverged, result.failed) == (2, 1, [])
    assert_holds(store, configs, [configs])
    ended = store.load(configs[1].key()).result
    assert ended.status == "diverged"
    assert 0 < ended.last_finite_step < 5
    assert all(value.isfinite().all() for value in store.load(configs[1].key()).tensors().values())


@pytest.mark.parametrize("kind", [UserError, RuntimeError])
def test_a_chunk_that_fails_keeps_no_other_from_being_trained(tmp_path, monkeypatch, kind):
    configs = configs_of(5)
    plain = sweep.train

    def failing(chunk, **rest):
        if chunk[0].seed == 2:
            raise kind("out of luck")
        return plain(chunk, **rest)

    monkeypatch.setattr(sweep, "train", failing)
    store = Store(tmp_path)
    result = run(chunks_of(configs, 2), store)
    assert (result.finished, result.diverged) == (3, 0)
    assert result.failed == ["out of luck" if kind is UserError else "RuntimeError: out of luck"]
    assert store.keys() == {configs[seed].key() for seed in (0, 1, 4)}
    monkeypatch.undo()
    run(prepare(configs, store), store)
    assert len(store.keys()) == 5


def test_a_store_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.read_only = True
    monkeypatch.setattr(sweep, "train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UserError, match=r"the store .* is read-only"):
        run(chunks_of(configs_of(1), 1), store)


@pytest.mark.parametrize("size_after", [1, 2, 3])
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, size_after, monkeypatch):
    """Whatever size is measured the second time, the interrupted chunk is taken up as it was."""
    configs = configs_of(6, training={"evaluate_every": 2})
    store = Store(tmp_path)

    def give_up(place, step):
        if (place, step) == (1, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(chunks_of(configs, 2), store, report=give_up)
    assert store.keys() == {one.key() for one in configs[:2]}
    assert checkpoint_path(store, configs[2:4]).exists()

    prepared = prepare(configs, store, measure=lambda chunk, *_: 1.0 if len(chunk) <= size_after else 1e3)
    sizes = {1: [2, 1, 1], 2: [2, 2], 3: [2, 2]}
    assert [len(part) for part in prepared.chunks] == sizes[size_after]
    assert [one.key() for one in prepared.chunks[0]] == [one.key() for one in configs[2:4]]
    done = []
    run(prepared, store, report=lambda place, step: done.append(step) if place == 0 else None)
    assert done == [5, 6]
    assert_holds(store, configs, [configs[:2], *prepared.chunks])
    assert not list((store.path / "unfinished").iterdir())


def test_a_checkpoint_that_is_no_longer_needed_is_removed(tmp_path):
    configs = configs_of(2)
    store = Store(tmp_path)

    def give_up(place, step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(chunks_of(configs, 2), store, report=give_up)
    left = checkpoint_path(store, configs)
    assert left.exists()
    run(chunks_of(configs[:1], 1), store)
    assert left.exists()
    run(chunks_of(configs[1:], 1), store)
    assert not left.exists()


def test_a_damaged_checkpoint_stops_its_own_chunk_alone(tmp_path):
    configs = configs_of(2)
    store = Store(tmp_path)
    path = checkpoint_path(store, configs[:1])
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    result = run(chunks_of(configs, 1), store)
    assert store.keys() == {configs[1].key()}
    assert len(result.failed) == 1
    assert "remove it to start again" in result.failed[0]


def test_results_that_cannot_be_stored_are_not_lost(tmp_path, monkeypatch):
    """A full disk: what was trained is in the checkpoint, so that only the storing is done again."""
    configs = configs_of(2)
    store = Store(tmp_path)

    def full(*_):
        raise UserError("cannot write: no space left on device.")

    monkeypatch.setattr(Store, "add", full)
    result = run(chunks_of(configs, 2), store)
    assert result.failed == ["cannot write: no space left on device."]
    monkeypatch.undo()
    steps = []
    run(prepare(configs, store), store, report=lambda _place, step: steps.append(step))
    assert steps == []
    assert_holds(store, configs, [configs])


@pytest.mark.slow
def test_two_workers_do_what_one_does(tmp_path):
    configs = configs_of(4, widths=(8, 16), training={"steps": 150})
    wild = tiny(seed=9, training={"steps": 150, "learning_rate": 1e9})
    plan = chunks_of([*configs, wild], 2, seconds=100.0)
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    told = []
    results = [
        run(plan, one),
        run(plan, two, workers=2, report=lambda *seen: told.append(seen)),
    ]
    assert results[0] == results[1]
    assert (results[1].finished, results[1].diverged) == (8, 1)
    assert one.keys() == two.keys()
    assert {place for place, _ in told} == set(range(5))
    for key in one.keys():  # noqa: SIM118
        ours, theirs = one.load(key), two.load(key)
        assert ours.metrics() == theirs.metrics()
        tensors = theirs.tensors()
        assert all(torch.equal(value, tensors[name]) for name, value in ours.tensors().items())


@pytest.mark.slow
def test_a_chunk_that_fails_in_a_worker_keeps_no_other_from_being_trained(tmp_path):
    configs = configs_of(3)
    store = Store(tmp_path)
    path = checkpoint_path(store, configs[1:2])
    path.parent.mkdir()
    path.write_bytes(b"nothing")
    result = run(chunks_of(configs, 1, seconds=100.0), store, workers=2)
    assert (result.finished, len(result.failed)) == (2, 1)
    assert "remove it to start again" in result.failed[0]


SCRIPT = """
import json, sys
from pathlib import Path
from iclens.sweeps import sweep
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig

if __name__ == "__main__":
    data = json.loads(sys.argv[2])
    chunks = [[RunConfig.from_dict(one) for one in chunk] for chunk in data]
    steps = [chunk[0].training.steps for chunk in chunks]
    told = lambda place, step: print(place, step, flush=True)
    prepared = sweep.SweepPlan(chunks, steps, [100.0] * len(chunks), 0)
    try:
        sweep.run(prepared, Store(sys.argv[1]), workers=2, report=told)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [True, False], ids=["group", "parent"])
def test_ctrl_c_stops_the_workers_and_loses_nothing(tmp_path, everybody):
    """A terminal sends the signal to the whole group; another program may send it to the first process alone."""
    configs = configs_of(8, training={"steps": 6000, "evaluation_prompts": 8})
    plan = chunks_of(configs, 2)
    script = tmp_path / "sweep_it.py"
    script.write_text(SCRIPT)
    data = json.dumps([[one.to_dict() for one in chunk] for chunk in plan.chunks], default=dict)
    command = [sys.executable, str(script), str(tmp_path / "runs"), data]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as (process, mark):
        seen = set()
        while len(seen) < 2:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            place, step = map(int, line.split())
            if step > 0:
                seen.add(place)
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=300)
        assert list(marked(mark)) == []
    assert process.returncode == 130, complaints
    assert "Traceback" not in complaints
    store = Store(tmp_path / "runs")
    unfinished = list((store.path / "unfinished").glob("*.safetensors"))
    # The two that were trained, and none of those that waited.
    assert len(unfinished) == 2
    assert store.keys() == set()
    for path in unfinished:
        state = training.read_checkpoint(path, sweep.checkpoint_keys(path)).state
        assert 0 < int(state["step"]) < 6000
