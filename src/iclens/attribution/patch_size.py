"""How large each demonstration's part of the MLPs' weight updates is, whatever it does to the answer."""

from __future__ import annotations

import torch

from iclens.lens.lens import Lens
from iclens.lens.scores.method import ATTRIBUTIONS, Scores, counted


@ATTRIBUTIONS.register("patch_size")
def score(lens: Lens, generator: torch.Generator) -> Scores:
    """Mean over layers of |ΔW_i| / |W| where the answer is read: a size, so that it knows no opposition.

    One pass over the prompt. Source: `iclens.lens.patching`; docs/patch.md.
    """

    def values() -> torch.Tensor:
        patches = lens.patches()
        found = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
        for row in patches.to_rows(patches.read):
            if row["term"] == "part":
                found[row["source"]] += row["size"] / len(patches)
        return found

    return counted(lens, values)
