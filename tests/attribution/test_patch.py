"""A demonstration's part of the weight updates: the slope of a model that really runs, whose sum is its change."""

from __future__ import annotations

import pytest
import torch
from tests.lens.word_learner import MARGIN, PAIRS, PROMPT, learner, shared_lens

from iclens.attribution import ATTRIBUTIONS
from iclens.attribution.patch import shares, slope
from iclens.lens import Lens

N = len(PAIRS)


@torch.no_grad()
def margin_at(weights: torch.Tensor) -> float:
    lens = shared_lens()
    return float(lens.readouts.margin(lens.patches().logits(weights)[None]))


def full(weight: float) -> torch.Tensor:
    return torch.full((N,), weight, dtype=torch.float64)


def test_at_weight_one_the_margin_is_the_prompts_own():
    assert margin_at(full(1.0)) == pytest.approx(shared_lens().answer.margin, abs=1e-10)


def test_the_slope_is_that_of_the_patched_model():
    weights = torch.tensor([0.2, 0.9, 0.5, 0.0, 1.1], dtype=torch.float64)
    step, found = 1e-6, slope(shared_lens(), weights)
    for i in range(N):
        moved = step * torch.eye(N, dtype=torch.float64)[i]
        expected = (margin_at(weights + moved) - margin_at(weights - moved)) / (2 * step)
        assert float(found[i]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_with_more_weights_the_scores_sum_to_what_the_demonstrations_change():
    change = margin_at(full(1.0)) - margin_at(full(0.0))
    gaps = [abs(float(shares(shared_lens(), nodes).sum()) - change) for nodes in (2, 8, 24)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8 * max(1.0, abs(change))


def test_the_size_is_that_of_the_long_table():
    lens = Lens(learner(), PROMPT, readout=MARGIN)
    rows = lens.patches().to_rows()
    found = ATTRIBUTIONS["patch_size"](lens, torch.Generator()).values
    for i in range(N):
        own = [row["size"] for row in rows if row["term"] == "part" and row["source"] == i]
        assert float(found[i]) == pytest.approx(sum(own) / lens.model.n_layers)
    assert bool((found > 0).all())
