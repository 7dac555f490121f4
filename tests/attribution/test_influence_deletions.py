"""Influence corrected by deletions: what it is made of, where it is the influence alone, and redundant prompts."""

from __future__ import annotations

import torch
from tests.attribution.test_methods import N, seeded
from tests.lens.word_learner import shared_lens

from iclens.attribution.shared.correction import corrected
from iclens.attribution.shared.designs import affordable
from iclens.lens import Lens

REDUNDANT = "dog is blick .\n\napple is vux .\n\ntiger is blick .\n\noak is mib .\n\nrabbit is blick .\n\nhorse is"


def influence_of(lens: Lens) -> torch.Tensor:
    return lens.by_demonstration(lens.influence().by_token)


def test_it_is_the_influence_corrected_by_a_design_and_by_the_prompt_itself():
    one = shared_lens()
    keep = torch.cat([affordable(one, 4.5, seeded()), torch.ones(1, N, dtype=torch.bool)])
    expected = corrected(influence_of(one), keep, one.deletions(keep).margins)
    torch.testing.assert_close(one.score("influence_deletions").values, expected)


def test_with_many_demonstrations_it_is_the_influence():
    lens = Lens(
        "bundled", "\n\n".join(["dog is blick .", "apple is vux ."] * 15) + "\n\nhorse is", answers=["blick", "vux"]
    )
    scores = lens.score("influence_deletions")
    torch.testing.assert_close(scores.values, influence_of(lens))


def test_demonstrations_that_do_nothing_oppose_nothing():
    """Three say the same: the design alone would put a part of it down to the others."""
    lens = Lens("bundled", REDUNDANT, answers=["blick", "vux", "mib"])
    values = lens.score("influence_deletions").values
    assert values[[0, 2, 4]].min() > 0.0
    assert values[[1, 3]].abs().max() < 0.25 * values.max()
