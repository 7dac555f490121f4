"""Runs of recipes: how many train at once is a matter of speed, never of results."""

from __future__ import annotations

import pytest
import torch

from iclens.recipes.contract import silent
from iclens.recipes.lab_runs import runs_at_once, train_all
from iclens.training.config import RunConfig


def config(seed: int = 0, n_context: int = 4, batch: int = 4) -> RunConfig:
    return RunConfig.from_dict(
        {
            "seed": seed,
            "task": {"name": "linear", "d": 2},
            "model": {"name": "linear-attention"},
            "training": {
                "steps": 5,
                "batch": batch,
                "n_context": n_context,
                "loss": "query",
                "dtype": "float64",
                "evaluate_every": 0,
                "evaluation_prompts": 8,
            },
        }
    )


def test_longer_prompts_train_fewer_at_once_and_never_none():
    found = [runs_at_once(config(n_context=n, batch=64)) for n in (1, 63, 511, 10**5)]
    assert found == [64, 42, 5, 1]


@pytest.mark.parametrize("most", [1, 2])
def test_runs_are_the_same_however_many_train_at_once_and_keep_their_order(most):
    configs = [config(seed, n_context) for n_context in (3, 4) for seed in (5, 1, 3)]
    together = train_all(configs, silent)
    apart = train_all(configs, silent, most_runs=most)
    for one, other, asked in zip(together, apart, configs, strict=True):
        assert one.config == other.config == asked
        assert one.tensors.keys() == other.tensors.keys()
        for name, value in one.tensors.items():
            torch.testing.assert_close(value, other.tensors[name], rtol=1e-10, atol=1e-12)
        errors = [[value for _, name, _, value in run.metrics if name == "error"] for run in (one, other)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-10)


def test_progress_ends_with_all_steps_done():
    told: list[tuple[int, int]] = []
    train_all([config(seed) for seed in range(3)], lambda done, total, _: told.append((done, total)), 2)
    assert told[-1] == (15, 15)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
