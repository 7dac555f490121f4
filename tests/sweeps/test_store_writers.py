"""Whoever else writes to a store, and whenever a process is killed or a disk is full, no run is lost or half there."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tests.sweeps.small_runs import SmallConfig, add, index_of, result_of, tensors_of

from iclens.errors import UserError
from iclens.sweeps import run_folder
from iclens.sweeps.folders import RunFolders
from iclens.sweeps.index import Index
from iclens.sweeps.store import Store


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


def test_a_run_that_another_process_has_placed_and_not_yet_listed_is_there_for_who_finished_it_too(tmp_path):
    add(Store(tmp_path), 0)
    before = Store(tmp_path)
    assert in_another_process(killed, tmp_path, "between rename and row") == -signal.SIGKILL
    key = add(before, 7)
    assert before.load(key).config["seed"] == 7
    assert before.verify() == []


def test_repair_lists_what_has_no_row(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    index_of(store.path).delete([key])
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
    # Held open: the row then goes to a file beside the index, which must grow.
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
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
        index_of(store.path).delete([keys[1]])
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


def test_leftovers_of_a_failed_rename_are_cleared(tmp_path, monkeypatch):
    folders = RunFolders(tmp_path, tmp_path / "aside")

    def refused(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="Input/output error"):
        folders.place("0" * 16, {"a": b"1"})
    assert os.listdir(tmp_path) == []
