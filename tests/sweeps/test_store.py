"""What a store is given it gives back, whole or not at all, whoever else writes and whenever a process is killed."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.sweeps.small_runs import SmallConfig, add, metrics_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps import index as index_module
from iclens.sweeps import run_folder
from iclens.sweeps.folders import RunFolders
from iclens.sweeps.index import Index
from iclens.sweeps.result import Metric, Result
from iclens.sweeps.store import Store
from iclens.training.config import RunConfig

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


# What comes out is what went in.


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtypes=st.lists(st.sampled_from(DTYPES), max_size=4),
    shape=st.lists(st.integers(0, 3), max_size=3),
    metrics=st.lists(
        st.tuples(
            st.integers(0, 2**40),
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=5),
            st.none() | st.integers(0, 50),
            st.floats(),
        ),
        max_size=6,
    ),
    seed=st.integers(0, 2**31),
)
def test_a_run_is_given_back_bit_for_bit(dtypes, shape, metrics, seed, tmp_path):
    generator = torch.Generator().manual_seed(seed)
    raw = [torch.randint(-4, 4, shape, generator=generator) for _ in dtypes]
    tensors = {f"p.{place}": one.to(dtype) for place, (one, dtype) in enumerate(zip(raw, dtypes, strict=True))}
    config = SmallConfig(seed)
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    store = Store(folder)
    assert store.add(config, tensors, metrics, result_of(note="ünïcode\n"))
    run = Store(folder).load(config.key())
    assert {name: bits(tensor) for name, tensor in run.tensors().items()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }
    assert [repr(Metric(*row)) for row in metrics] == [repr(row) for row in run.metrics()]
    assert run.result.note == "ünïcode\n"
    assert run.config == {**config.to_dict(), "training": {**config.to_dict()["training"], "betas": [0.9, 0.999]}}
    assert [row.config for row in store.rows()] == [run.config]
    assert repr(store.rows()[0].result) == repr(run.result)
    assert store.verify() == []


def test_extreme_numbers_keep_their_bits(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    values = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7e308])
    store.add(config, {"w": values}, [(0, "loss", None, value) for value in values.tolist()], result_of())
    run = store.load(config.key())
    assert bits(run.tensors()["w"]) == bits(values)
    assert [repr(row.value) for row in run.metrics()] == [repr(value) for value in values.tolist()]


def test_a_run_of_an_ensemble_is_stored_without_its_neighbours(tmp_path):
    ensemble = torch.nn.Parameter(torch.randn(1000, 4, 4))
    store, config = Store(tmp_path / "s"), SmallConfig()
    store.add(config, {"w": ensemble[3], "same": ensemble[3], "turned": ensemble[3].mT}, [], result_of())
    assert (tmp_path / "s" / "runs" / config.key() / "model.safetensors").stat().st_size < 2000
    again = store.load(config.key()).tensors()
    assert torch.equal(again["w"], ensemble[3])
    assert torch.equal(again["turned"], ensemble[3].mT)
    assert not again["w"].requires_grad


def test_a_stored_configuration_is_the_same_run_again(tmp_path):
    config = RunConfig.from_dict({"seed": 5, "training": {"steps": 7, "betas": [0.8, 0.9]}})
    store = Store(tmp_path / "s")
    store.add(config, {}, [], result_of())
    assert RunConfig.from_dict(store.load(config.key()).config).key() == config.key()
    assert store.missing([config, replace(config, seed=6)]) == [replace(config, seed=6)]


def test_a_diverged_run_is_kept_as_such(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    metrics = [(0, "loss", None, 1.0), (7, "loss", None, math.inf)]
    result = result_of(status="diverged", last_finite_step=6, note="the loss is inf at step 7")
    store.add(config, tensors_of(0), metrics, result)
    (row,) = Store(tmp_path / "s").rows()
    assert (row.result.status, row.result.last_finite_step, row.result.final) == ("diverged", 6, {"loss": math.inf})
    assert store.has(config.key())


def test_final_is_the_last_value_of_whole_prompts_or_of_the_longest_prefix(tmp_path):
    store = Store(tmp_path / "s")
    add(store, 3)
    (row,) = store.rows()
    assert row.result.final == {"loss": math.exp(-2) + 3, "error@3": 1 / (1 + 2 + 3)}


def test_a_run_is_added_once(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    assert store.add(config, tensors_of(0), [], result_of())
    assert not store.add(config, tensors_of(1), [], result_of(seconds=9.0))
    assert torch.equal(store.load(config.key()).tensors()["gain"], tensors_of(0)["gain"])
    assert len(store.rows()) == 1


def test_missing_keeps_the_order(tmp_path):
    store = Store(tmp_path / "s")
    for seed in (1, 3):
        add(store, seed)
    assert [config.seed for config in store.missing([SmallConfig(seed) for seed in (4, 3, 2, 1, 0)])] == [4, 2, 0]


def test_rows_are_in_the_order_in_which_they_were_added(tmp_path):
    store = Store(tmp_path / "s")
    keys = [add(store, seed) for seed in (5, 2, 9, 0)]
    assert [row.key for row in store.rows()] == keys
    assert [row.key for row in Store(tmp_path / "s", rebuild=True).rows()] == keys


def test_a_prefix_finds_the_one_run_that_begins_so(tmp_path):
    store = Store(tmp_path / "s")
    keys = [add(store, seed) for seed in range(12)]
    assert store.find(keys[0]) == store.find(keys[0][:10].upper()) == keys[0]
    with pytest.raises(UserError, match=r"12 runs in .* have keys that begin with ''"):
        store.find("")
    with pytest.raises(UserError, match=r"no run in .* begins with 'xyz'"):
        store.find("xyz")


def test_what_was_removed_is_gone(tmp_path):
    store = Store(tmp_path / "s")
    kept, removed = add(store, 0), add(store, 1)
    run = store.load(removed)
    store.remove(removed)
    assert store.keys() == Store(tmp_path / "s").keys() == {kept}
    assert os.listdir(tmp_path / "s" / "runs") == [kept]
    with pytest.raises(UserError, match="is gone"):
        run.metrics()
    for action in (store.load, store.remove):
        with pytest.raises(UserError, match="no run"):
            action(removed)
    assert add(store, 1) == removed


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([(0, "loss", 1.0)], r"\(0, 'loss', 1\.0\) is not a metric: give"),
        ([(0, "loss", None, "much")], "is not a metric: give"),
        ([(-1, "loss", None, 1.0)], "must not be negative"),
        ([(0, "", None, 1.0)], "its name must be a text"),
    ],
)
def test_what_is_no_metric_is_refused(tmp_path, metrics, message):
    store = Store(tmp_path / "s")
    with pytest.raises(UserError, match=message):
        store.add(SmallConfig(), {}, metrics, result_of())
    assert os.listdir(tmp_path / "s" / "runs") == []


def test_what_cannot_be_written_is_refused(tmp_path):
    class Named(SmallConfig):
        def key(self):
            return "../outside"

    class Endless(SmallConfig):
        def to_dict(self):
            return {"clip": math.inf}

    store = Store(tmp_path / "s")
    with pytest.raises(UserError, match=r"'\.\./outside' is not a run's key"):
        store.add(Named(), {}, [], result_of())
    with pytest.raises(UserError, match="cannot be written as JSON"):
        store.add(Endless(), {}, [], result_of())
    with pytest.raises(UserError, match="cannot be written as safetensors"):
        store.add(SmallConfig(), {"w": torch.ones(2).to_sparse()}, [], result_of())
    for changes in ({"seconds": math.nan}, {"seconds": -1.0}, {"last_finite_step": -1}):
        with pytest.raises(UserError, match="of a run must"):
            result_of(**changes)
    assert os.listdir(tmp_path / "s" / "runs") == []


# Opening.


def test_only_a_store_is_opened_and_only_a_folder_made(tmp_path):
    with pytest.raises(UserError, match=r"no store of runs in .*none"):
        Store(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    for create in (True, False):
        with pytest.raises(UserError, match="is a file: a store of runs is a folder"):
            Store(tmp_path / "file", create=create)
    with pytest.raises(UserError, match=r"cannot create the store .*Not a directory"):
        Store(tmp_path / "file" / "below")
    (tmp_path / "other" / "runs" / "notes").mkdir(parents=True)
    with pytest.raises(UserError, match="no store of runs"):
        Store(tmp_path / "other", create=False)
    Store(tmp_path / "deep" / "er")
    assert Store(tmp_path / "deep" / "er", create=False).rows() == []


def test_another_programs_database_is_left_alone(tmp_path):
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    db.close()
    before = path.read_bytes()
    for rebuild in (False, True):
        with pytest.raises(UserError, match="another program's database"):
            Store(tmp_path, rebuild=rebuild)
    assert path.read_bytes() == before


def test_files_have_the_modes_that_open_gives(tmp_path):
    store = Store(tmp_path / "s")
    key = add(store)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "s" / "runs" / key
    mode = stat.S_IMODE((tmp_path / "file").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {mode}
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "folder").stat().st_mode)


def test_a_newer_schema_is_refused_and_not_touched(tmp_path, monkeypatch):
    key = add(Store(tmp_path))
    with monkeypatch.context() as newer:
        newer.setattr(index_module, "SCHEMA", 2)
        newer.setattr(run_folder, "SCHEMA", 2)
        newer.setitem(index_module.MIGRATIONS, 1, lambda db, folder: None)
        other = add(Store(tmp_path), 1)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"written by a newer iclens \(store schema 2; .* up to 1\): update iclens"):
        Store(tmp_path)
    for lost in (False, True):
        if lost:
            before.pop(tmp_path / "index.sqlite")
            (tmp_path / "index.sqlite").unlink()
        with pytest.raises(UserError, match=rf"run {other} was written by a newer iclens"):
            Store(tmp_path, rebuild=True)
    assert {file: data for file, data in before.items() if file.read_bytes() != data} == {}
    assert {key, other} <= set(os.listdir(tmp_path / "runs"))


def test_an_older_schema_is_migrated_or_refused(tmp_path, monkeypatch):
    key = add(Store(tmp_path))
    monkeypatch.setattr(index_module, "SCHEMA", 2)
    with pytest.raises(UserError, match=r"store schema 1, which this iclens cannot bring to 2"):
        Store(tmp_path)
    seen = []
    monkeypatch.setitem(
        index_module.MIGRATIONS, 1, lambda db, folder: seen.append((folder, *db.execute("SELECT key FROM runs")))
    )
    store = Store(tmp_path)
    assert seen == [(tmp_path, (key,))]
    assert store.notes == ["the store was brought to this version's schema."]
    assert Store(tmp_path).notes == []
    assert Store(tmp_path).keys() == {key}


# Killed processes, full disks, and others who write.


def killed(path, where):
    """Add a run in this process and kill it at a certain place."""

    def kill(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "between rename and row":
        Index.insert = kill
    elif where == "before the rename":
        run_folder.flush_folder = kill
    else:
        written = os.write

        def write(descriptor, data):
            written(descriptor, data[:5])
            kill()

        os.write = write
    add(Store(path), 7)


def in_another_process(target, *arguments):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_process_killed_before_its_row_loses_nothing(tmp_path):
    add(Store(tmp_path), 0)
    before = Store(tmp_path)
    assert in_another_process(killed, tmp_path, "between rename and row") == -signal.SIGKILL
    key = SmallConfig(7).key()
    (problem,) = before.verify()
    assert (problem.kind, problem.name) == ("unlisted", key)
    after = Store(tmp_path)
    assert after.notes == ["1 run had no row in the index; added."]
    assert after.has(key)
    assert Store(tmp_path).notes == []
    assert before.verify() == []


def test_repair_lists_what_has_no_row(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    store._index.delete([key])
    assert [problem.kind for problem in store.verify(repair=True)] == ["unlisted"]
    assert store.verify() == []
    assert store.keys() == {key}


@pytest.mark.parametrize("where", ["in a file", "before the rename"])
def test_a_process_killed_while_writing_leaves_a_leftover_and_no_run(tmp_path, where):
    key = add(Store(tmp_path), 0)
    assert in_another_process(killed, tmp_path, where) == -signal.SIGKILL
    store = Store(tmp_path)
    assert store.notes == []
    assert store.keys() == {key}
    (problem,) = store.verify()
    assert problem.kind == "leftover"
    (deleted,) = store.gc()
    assert not deleted.exists()
    assert store.verify() == []
    assert sorted(os.listdir(tmp_path / "runs")) == [key]


def test_gc_waits_for_those_who_write(tmp_path, monkeypatch):
    store = Store(tmp_path)
    written = run_folder.write
    with ThreadPoolExecutor(1) as pool:
        collected = []

        def slow(folder, files):
            written(folder, files)
            collected.append(pool.submit(store.gc))
            assert not collected[0].done()

        monkeypatch.setattr(run_folder, "write", slow)
        key = add(store)
        assert collected[0].result() == []
    assert store.keys() == {key}
    assert store.verify() == []


def several(path, seeds, barrier):
    store = Store(path)
    barrier.wait()
    for seed in seeds:
        add(store, seed)


def test_processes_write_the_same_and_different_runs_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    seeds = [[*range(12), 100], [*range(11, -1, -1), 200]]
    processes = [context.Process(target=several, args=(tmp_path / "s", part, barrier)) for part in seeds]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    store = Store(tmp_path / "s", create=False)
    assert store.notes == []
    assert store.verify() == []
    assert [process.seed for process in store.missing([SmallConfig(seed) for seed in (*range(12), 100, 200)])] == []
    assert len(store.rows()) == 14
    assert set(os.listdir(tmp_path / "s" / "runs")) == store.keys()


def test_threads_write_to_one_store(tmp_path):
    store = Store(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: add(store, seed % 8), range(16)))
    assert len(store.rows()) == 8
    assert store.verify() == []


def test_a_store_goes_to_another_process(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    assert pickle.loads(pickle.dumps(store)).keys() == {key}


def test_a_file_too_large_for_the_disk_leaves_nothing(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The operating system refuses what goes beyond, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot keep the run .*File too large\. Nothing half-written was left"):
            store.add(SmallConfig(1), {"w": torch.zeros(20_000)}, [], result_of())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / "runs") == [key]
    assert store.verify() == []
    assert store.add(SmallConfig(1), {"w": torch.zeros(20_000)}, [], result_of())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            add(store)
    assert os.listdir(tmp_path / "runs") == []
    assert store.verify() == []


def test_a_disk_that_is_full_for_the_index_loses_no_run(tmp_path):
    store = Store(tmp_path)
    add(store)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store._index._connected() as db:  # held open: the row then goes to a file beside the index, which must grow
        db.execute("SELECT * FROM runs").fetchall()
        beside = tmp_path / "index.sqlite-wal"
        insert = Index.insert

        def limited(self, rows):
            resource.setrlimit(resource.RLIMIT_FSIZE, (beside.stat().st_size, before[1]))
            insert(self, rows)

        Index.insert = limited
        try:
            with pytest.raises(UserError, match=r"the index .*Finished runs are not touched"):
                add(store, 1)
        finally:
            Index.insert = insert
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(Store(tmp_path).rows()) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become a user without permissions")
def test_a_read_only_store_is_read_and_not_written():
    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder)
        keys = [add(store, seed) for seed in (0, 1)]
        store._index.delete([keys[1]])
        (folder / "runs" / keys[0] / "model.safetensors").chmod(0o644)
        folder.chmod(0o755)
        os.seteuid(65534)
        try:
            reader = Store(folder, create=False)
            assert reader.read_only
            assert reader.keys() == set(keys)
            assert torch.equal(reader.load(keys[0]).tensors()["gain"], tensors_of(0)["gain"])
            assert [problem.kind for problem in reader.verify()] == []
            for action in (reader.gc, lambda: reader.remove(keys[0]), lambda: add(reader, 2)):
                with pytest.raises(UserError, match="is read-only: no permission to write there"):
                    action()
            with pytest.raises(UserError, match=r"cannot create the store .*Permission denied"):
                Store(folder / "below")
        finally:
            os.seteuid(0)
        assert len(store.rows()) == 1
    finally:
        shutil.rmtree(folder)


# Damage.


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    return folder, [add(Store(folder), seed) for seed in range(3)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_or_a_cut_in_any_file_is_found(data, three_runs, tmp_path):
    source, (key, *_) = three_runs
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(os.listdir(folder / "runs" / key))))
    file = folder / "runs" / key / name
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        content[place // 8] ^= 1 << place % 8
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    file.write_bytes(content)

    store = Store(folder)
    run = store.load(key)
    parts = {
        "config.json": lambda: run.config,
        "result.json": lambda: run.result,
        "metrics.parquet": run.metrics,
        "model.safetensors": run.tensors,
    }
    refused = set()
    for part, read in parts.items():
        try:
            read()
        except UserError as error:
            assert f"run {key} is damaged" in str(error)  # noqa: PT017
            refused.add(part)
    # A flipped bit of a checksum is that of one file.
    assert refused == {name} if name in parts else refused
    assert {(problem.kind, problem.name) for problem in store.verify(repair=True)} == {("damaged", key)}
    assert store.verify() == []
    assert not store.has(key)
    assert len(os.listdir(folder / "damaged")) == 1
    assert add(store) == key
    assert store.verify() == []
    assert [path.name for path in store.gc(damaged=True)] == ["damaged"]


def test_missing_and_foreign_files_are_found(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(3)]
    (tmp_path / "runs" / keys[0] / "metrics.parquet").unlink()
    (tmp_path / "runs" / keys[1] / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "runs" / keys[2])
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    found = {(problem.kind, problem.name, problem.text) for problem in store.verify(repair=True)}
    assert found == {
        ("damaged", keys[0], f"run {keys[0]} is damaged: metrics.parquet is missing."),
        ("damaged", keys[1], f"run {keys[1]} holds a file that is not its own: notes.txt."),
        ("missing", keys[2], f"run {keys[2]} is in the index, but has no folder."),
        ("foreign", "notes.txt", "runs/notes.txt is not a run; it is left alone."),
    }
    assert [problem.kind for problem in store.verify()] == ["foreign"]
    assert (tmp_path / "runs" / "notes.txt").read_text() == "mine"
    assert store.keys() == set()


def test_a_run_under_another_runs_name_is_found(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(2)]
    shutil.rmtree(tmp_path / "runs" / keys[0])
    shutil.copytree(tmp_path / "runs" / keys[1], tmp_path / "runs" / keys[0])
    assert {(problem.kind, problem.name) for problem in store.verify()} == {("damaged", keys[0])}


def test_an_index_that_says_something_else_is_found_and_corrected(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("UPDATE runs SET config = ?", ('{"seed": 99}',))
    db.close()
    assert [(problem.kind, problem.name) for problem in store.verify(repair=True)] == [("index", key)]
    assert store.verify() == []
    assert store.rows()[0].config["seed"] == 0


def test_a_damaged_folder_without_a_row_makes_room_for_the_run(tmp_path):
    key = add(Store(tmp_path))
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / "runs" / key / "result.json").write_text("{")
    store = Store(tmp_path)
    assert not store.has(key)
    assert any("verify --repair" in text for text in store.notes)
    assert add(store) == key
    assert store.has(key)
    assert store.verify() == []
    assert len(os.listdir(tmp_path / "damaged")) == 1


def test_an_index_that_is_lost_or_no_database_is_made_again(tmp_path):
    keys = [add(Store(tmp_path), seed) for seed in range(3)]
    for content in (None, b"", b"not a database" * 100, bytes(5000)):
        if content is None:
            (tmp_path / "index.sqlite").unlink()
        else:
            (tmp_path / "index.sqlite").write_bytes(content)
        store = Store(tmp_path, create=False)
        assert [row.key for row in store.rows()] == keys
        assert len(store.notes) == 1
        assert Store(tmp_path).notes == []
    assert len(list(tmp_path.glob("index.sqlite.damaged-*"))) >= 1
    store.gc()
    assert list(tmp_path.glob("index.sqlite.damaged-*")) == []


def test_an_index_lost_under_an_open_store_is_made_again(tmp_path):
    store = Store(tmp_path)
    keys = [add(store, seed) for seed in range(2)]
    for read in (store.rows, store.keys, lambda: store.has(keys[0]), store.verify, lambda: add(store, 2)):
        for content in (None, b"garbage" * 500):
            (tmp_path / "index.sqlite").unlink(missing_ok=True)
            if content is not None:
                (tmp_path / "index.sqlite").write_bytes(content)
            read()
            assert set(keys) <= {row.key for row in store.rows()}
            assert "the index was made again" in store.notes[-1]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_never_costs_a_run_nor_shows_a_traceback(data, three_runs, tmp_path):
    source, keys = three_runs
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    shutil.copytree(source, folder, dirs_exist_ok=True)
    file = folder / "index.sqlite"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        # Only the pages' beginnings and ends are in use.
        places = st.integers(0, 130) | st.integers(4096, 4160) | st.integers(0, len(content) - 1)
        for place in data.draw(st.lists(places, min_size=1, max_size=8)):
            content[place] ^= data.draw(st.integers(1, 255))
    else:
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    file.write_bytes(content)
    try:
        store = Store(folder)
        store.rows()
        store.verify(repair=True)
    except UserError as error:
        # A number in the header may have become that of another program or of a newer version.
        assert "newer iclens" in str(error) or "another program" in str(error) or "the index" in str(error)  # noqa: PT017
        store = Store(folder, rebuild=True) if "another program" not in str(error) else None
    if store is not None:
        assert store.verify() == []
        assert {row.key for row in store.rows()} == set(keys)
    assert set(keys) <= set(os.listdir(folder / "runs"))
    assert all(run_folder.damage(folder / "runs" / key) == [] for key in keys)


def test_ten_thousand_runs_are_listed(tmp_path):
    store = Store(tmp_path)
    config, result = '{"seed": 1, "task": {"name": "linear"}}', result_of().to_json()
    keys = [f"{number:016x}" for number in range(10_000)]
    for key in keys:
        (tmp_path / "runs" / key).mkdir()
    store._index.insert((key, config, result, "0" * 64) for key in keys)
    again = Store(tmp_path)
    assert again.notes == []
    assert [row.key for row in again.rows()] == keys


def test_a_result_is_read_back():
    result = result_of(final={"loss": math.nan, "error": 1.5})
    assert repr(Result.from_json(result.to_json())) == repr(result)
    for text in ("{}", "[]", "3", '{"status": "finished"}'):
        with pytest.raises(ValueError, match="not a result"):
            Result.from_json(text)


def test_leftovers_of_a_failed_rename_are_cleared(tmp_path, monkeypatch):
    folders = RunFolders(tmp_path, tmp_path / "aside")

    def refused(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="Input/output error"):
        folders.place("0" * 16, {"a": b"1"})
    assert os.listdir(tmp_path) == []


def test_metrics_of_a_run_are_those_that_were_given(tmp_path):
    store = Store(tmp_path)
    key = add(store, 2)
    assert store.load(key).metrics() == [Metric(*row) for row in metrics_of(2)]
