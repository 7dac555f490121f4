"""What killed processes left in a store is collected, whatever it is called."""

from __future__ import annotations

import os

from tests.sweeps.small_runs import add

from iclens.sweeps.store import Store


def test_a_checkpoint_of_no_possible_process_is_collected(tmp_path):
    store = Store(tmp_path)
    key = add(store)
    folder = tmp_path / "unfinished"
    for number in (10**20, 2**31, "²", "x"):
        (folder / f".a.safetensors-{number}.tmp").mkdir(parents=True)
    kept = folder / f".a.safetensors-{os.getpid()}.tmp"
    kept.mkdir()
    assert len(store.gc()) == 4
    assert list(folder.iterdir()) == [kept]
    assert store.keys() == {key}
