"""Captum's Shapley sampling: demonstrations' tokens put in place of a neutral token in random orders."""

from __future__ import annotations

import torch

from iclens.attribution.shared.replacement import attribute
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores

N_PERMUTATIONS = 5


@ATTRIBUTIONS.register("captum_shapley")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Shapley values over 5 random orders, by `captum.attr.ShapleyValueSampling`.

    Raises:
        UserError: Captum is not installed.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    # Captum draws its orders from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attribute(lens, "captum_shapley", lambda captum: captum.ShapleyValueSampling, n_samples=N_PERMUTATIONS)
