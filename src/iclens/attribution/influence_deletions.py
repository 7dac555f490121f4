"""Influence, corrected by real deletions: what a demonstration adds, over halves of the others.

The influence knows all demonstrations from two passes, and only from masks; a design of deletions knows what deleting
does, and mixes one's effect with what two others do together. Either corrects the other: where demonstrations are
redundant, a design alone credits some that do nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attribution.shared.correction import corrected
from iclens.attribution.shared.designs import affordable
from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted

PASSES = 4.5
"""What the deletions may cost, in passes over the prompt, beside the influence's two."""

ENOUGH = 0.4
"""Runs over demonstrations, from which on they correct more than they disturb."""


def corrected_influence(lens: Lens, generator: torch.Generator, passes: float) -> Float[Tensor, " n_demonstrations"]:
    """The influence, scaled to and corrected by the largest design that the passes allow, and by the prompt itself.

    With fewer runs than 0.4 times the demonstrations it is the influence as it is.
    """
    influence = lens.by_demonstration(lens.influence().by_token)
    keep = affordable(lens, passes, generator)
    if len(keep) < ENOUGH * lens.n_demonstrations:
        return influence
    whole = torch.ones(1, lens.n_demonstrations, dtype=torch.bool)
    margins = lens.deletions(keep).margins
    own = torch.tensor([lens.answer.margin], dtype=margins.dtype)
    return corrected(influence, torch.cat([keep, whole]), torch.cat([margins, own]))


@ATTRIBUTIONS.register("influence_deletions")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Influence corrected by a factorial design of deletions of at most 4.5 passes."""
    return counted(lens, lambda: corrected_influence(lens, generator, PASSES))
