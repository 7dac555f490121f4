"""Sparse scores: few deletions are given to the sources that the influence names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens import bundled
from iclens.attribution.lasso import fit
from iclens.attribution.shared.correction import corrected
from iclens.attribution.shared.designs import design
from iclens.attribution.sparse import OF_INFLUENCE, score, sparse_effects
from iclens.lens import Lens
from iclens.lens.read.margin import logit_of
from iclens.lens.scores.deletions import Outcome

PROMPT = (bundled.path() / "prompt.txt").read_text()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, n_runs: int = 5, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, generator=seeded(seed)), torch.rand(n_runs, n, generator=seeded(seed + 1)) < 0.5


def test_without_passes_for_deletions_it_is_the_influence_at_half_weight():
    lens = Lens("bundled", PROMPT)
    found = score(lens, seeded(), passes=OF_INFLUENCE)
    assert (found.forward_passes, found.backward_passes) == (1, 1)
    torch.testing.assert_close(found.values, lens.influences(torch.full((1, 12), 0.5))[0])


def test_with_few_passes_it_is_the_influence_corrected_by_the_prompt_and_what_fits():
    lens = Lens("bundled", PROMPT)
    found = score(lens, seeded(3), passes=4.0)
    other = Lens("bundled", PROMPT)
    whole = torch.ones(1, 12, dtype=torch.bool)

    def cost(keep):
        return other.passes.share_of(0, other.shortened(torch.cat([keep, whole])))

    generator = seeded(3)
    design(12, 4.0, lambda keep: other.passes.share_of(0, other.shortened(keep)) if len(keep) else 0.0, generator)
    keep = torch.cat([design(12, 2.0, cost, generator), whole])
    assert 1 < len(keep) < 12
    influence = other.influences(torch.full((1, 12), 0.5))[0]
    torch.testing.assert_close(found.values, corrected(influence, keep, other.deletions(keep).margins))


@pytest.mark.parametrize("passes", [3.0, 4.0, 6.0])
def test_it_costs_no_more_than_it_may(passes):
    found = score(Lens("bundled", PROMPT), seeded(), passes=passes)
    assert passes - 2 < found.forward_passes + found.backward_passes <= passes


@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_log_probabilities_are_fitted_as_logits_and_scaled_back(seed):
    effects, keep = drawn(seed, n_runs=24, n=6)
    log_ps = torch.nn.functional.logsigmoid(3 * keep.double() @ effects.double())
    outcome = Outcome(log_ps, log_ps, torch.ones(24, dtype=torch.bool))
    found, logits = sparse_effects(keep, outcome, 1), fit(keep, logit_of(log_ps), 1)
    # Proportional to the Lasso of the logits, and no other multiple of it is nearer to log p.
    factor = float(found @ logits / (logits @ logits))
    torch.testing.assert_close(found, factor * logits)
    summed = keep.double() @ found
    left = log_ps - summed
    assert abs(float((summed - summed.mean()) @ left)) < 1e-8 * float(summed.norm() * left.norm())


@given(st.integers(0, 200))
@settings(max_examples=10, deadline=None)
def test_margins_of_any_other_kind_are_fitted_as_they_are(seed):
    margins, keep = drawn(seed, n_runs=12, n=12)
    outcome = Outcome(margins, torch.nn.functional.logsigmoid(margins), torch.ones(12, dtype=torch.bool))
    torch.testing.assert_close(sparse_effects(keep, outcome, 2), fit(keep, margins, 2))
