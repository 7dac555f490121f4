"""A machine computes for a sweep only what it would compute itself, and an address is one or is refused."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from iclens.errors import UserError
from iclens.work.cluster import Cluster, each_on_cluster
from iclens.work.cluster import task as tasks


@pytest.mark.parametrize("name", ["iclens", "torch", "transformers", "tokenizers"])
def test_another_version_of_what_is_computed_with_is_refused(name, monkeypatch):
    ours = tasks.versions()
    assert {"Python", name} <= ours.keys()
    plain = metadata.version
    monkeypatch.setattr(tasks, "version", lambda one: "0.0.1" if one == name else plain(one))
    assert tasks.versions() == {**ours, name: "0.0.1"}
    with pytest.raises(UserError, match=rf" has {name} 0\.0\.1 instead of {re.escape(ours[name])}\.$"):
        next(tasks.task(divmod, [(0, (7, 2))], 1, None, 1.0, ours))


def test_a_package_that_is_missing_is_another_version(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tasks, "version", missing)
    assert tasks.versions()["transformers"] == "none"


@pytest.mark.parametrize("address", ["somewhere:²", "somewhere:-1", "somewhere:"])
def test_a_port_is_a_number(address):
    with pytest.raises(UserError, match="is no address of a Ray cluster"):
        Cluster(address)


@pytest.mark.parametrize("address", ["some..where:1", "127.0.0.1:99999999999999999999"])
def test_what_can_be_no_machine_does_not_answer(address):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no Ray cluster answers at"):
        next(each_on_cluster(divmod, [(1, 2)], cluster=Cluster(address)))
