"""Peers that are not there are left out by name, and a folder that stands in for a repository is used."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from iclens.benchmarks import peers
from iclens.benchmarks.case import CASES, Absent, Comparison, Context
from iclens.benchmarks.ceilings import Ceilings
from iclens.benchmarks.garg_repository import garg_repository
from iclens.benchmarks.peers import GARG, PACKAGES, missing
from iclens.training.default_dtype import default_dtype

CONTEXT = Context(Ceilings({"float32": 1e9, "float64": 1e9}, 1e9), pairs=1, quick=True)

MODELS = """
import torch
import xgboost as xgb
from base_models import Base


class LeastSquaresModel(Base):
    def __call__(self, xs, ys):
        return torch.zeros_like(ys)


class NNModel(LeastSquaresModel):
    def __init__(self, n_neighbors):
        pass


class AveragingModel(LeastSquaresModel):
    pass
"""

TRAIN = """
import a_logger_that_nobody_has


def train_step(model, xs, ys, optimizer, loss_func):
    return 0.5, xs
"""


@pytest.fixture
def without_peers(monkeypatch):
    """No peer can be imported, and no folder is named."""
    found = importlib.util.find_spec

    def find(name, *rest):
        return None if name in PACKAGES else found(name, *rest)

    monkeypatch.setattr(peers.importlib.util, "find_spec", find)
    monkeypatch.delenv(GARG, raising=False)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    source = tmp_path / "src"
    source.mkdir()
    (source / "models.py").write_text(MODELS)
    (source / "base_models.py").write_text("class Base:\n    pass\n")
    (source / "train.py").write_text(TRAIN)
    monkeypatch.setenv(GARG, str(tmp_path))


def entries(name):
    """What a case yields, nothing measured."""
    with default_dtype(torch.float32):
        return list(CASES[name](CONTEXT))


def test_missing_names_the_distribution_and_how_to_get_it(without_peers):
    absent = missing("transformer_lens")
    assert absent.peer == "transformer-lens"
    assert "pip install 'iclens[peers]'" in absent.reason


@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("lens", ["TransformerLens run_with_cache", "nnsight trace"]),
        ("demonstrations", ["Captum FeatureAblation", "Captum ShapleyValueSampling, 5 orders"]),
        ("attention", ["performer-pytorch"]),
        ("estimators", ["the repository of Garg et al."]),
        ("training", ["the repository of Garg et al."]),
    ],
)
def test_every_absent_peer_is_left_out_by_name(case, names, without_peers):
    found = entries(case)
    absent = {one.peer: one.reason for one in found if isinstance(one, Absent)}
    assert set(names) <= set(absent)
    assert all(absent[name] for name in names)
    # What needs no peer is still compared.
    assert any(isinstance(one, Comparison) for one in found)


def test_a_folder_without_the_repository_is_said_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv(GARG, str(tmp_path))
    absent = garg_repository()
    assert isinstance(absent, Absent)
    assert "has no src/models.py" in absent.reason


def test_the_repository_is_loaded_and_leaves_no_module_behind(repository):
    before = set(sys.modules)
    found = garg_repository()
    assert found.train_step(None, 1, 2, None, None) == (0.5, 1)
    assert found.models.LeastSquaresModel()(None, torch.ones(2)).tolist() == [0.0, 0.0]
    assert {"base_models", "xgboost", "garg_models"}.isdisjoint(set(sys.modules) - before)


def test_a_baseline_with_wrong_answers_is_found_out(repository):
    """The stand-in answers zero everywhere: its comparisons must not agree."""
    theirs = [one for one in entries("estimators") if getattr(one, "other", None) and "Garg" in one.other.name]
    assert len(theirs) == 3
    for one in theirs:
        assert not all(agreement.holds for agreement in one.check())
