"""Ren & Liu's Fig. 3, right: regularised, augmented and negative attention against normal, with controls."""

from __future__ import annotations

from typing import ClassVar

from iclens.papers.ren_liu_2024.variant_study import NORMAL, Row, VariantSettings, VariantStudy
from iclens.recipes.contract import Preset, recipe
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"


def _helps(kind: str) -> Claim:
    return Claim(
        f"Some setting of {kind} attention trains to a lower error than normal attention.",
        f"{_PAPER}, Fig. 3: the panel compares them; which won could not be read",
        "asked",
    )


HELPS = {kind: _helps(kind) for kind in ("regularised", "augmented", "negative")}
BEYOND = Claim(
    "What helps, helps beyond its control: more than the same change of scale, or as many parameters elsewhere.",
    "ours: the paper has no controls",
    "asked",
)


@recipe("ren-liu-fig-3-right")
class VariantCurves(VariantStudy):
    """One layer of softmax attention with one head, trained on prompts of 15 demonstrations and a query.

    Tokens are (x, y), the query's label starts at 0, and the loss is that of the query's answer: squared error, or
    cross-entropy for classes. Every row is trained with the same seeds, so that a row and the normal one see the same
    prompts from the same initial weights, and differences are paired by seed. The p-values are corrected for looking at
    all rows of a task (sign flips of whole seeds, largest mean).
    """

    title = "Attention modified after contrastive learning, on synthetic tasks"
    reference = f"{_PAPER} (arXiv 2310.13220), Fig. 3, right"
    claims = (*HELPS.values(), BEYOND)
    quick = Preset(VariantSettings(tasks=("linear", "classes"), steps_per_epoch=4, batch=32), seconds=125)
    paper = Preset(VariantSettings(), seconds=1400)
    revision = 2
    # The paper's grid for negatives, a strength of either sign for α, and the controls.
    rows: ClassVar = {
        "normal": NORMAL,
        "α = −0.5": Row("regularised", "regularized", {"alpha": -0.5}),
        "α = −0.1": Row("regularised", "regularized", {"alpha": -0.1}),
        "α = 0.1": Row("regularised", "regularized", {"alpha": 0.1}),
        "α = 0.5": Row("regularised", "regularized", {"alpha": 0.5}),
        "g1": Row("augmented", "augmented", {"g1": "adapter"}),
        "g2": Row("augmented", "augmented", {"g2": "adapter"}),
        "g1 & g2": Row("augmented", "augmented", {"g1": "adapter", "g2": "adapter"}),
        "k = 1, β = 0.1": Row("negative", "negative", {"n_negatives": 1, "beta": 0.1}),
        "k = 1, β = 0.5": Row("negative", "negative", {"n_negatives": 1, "beta": 0.5}),
        "k = 3, β = 0.1": Row("negative", "negative", {"n_negatives": 3, "beta": 0.1}),
        "k = 3, β = 0.5": Row("negative", "negative", {"n_negatives": 3, "beta": 0.5}),
        "scale 0.9": Row("control", "scale-matched", {"strength": 0.1}),
        "scale 0.5": Row("control", "scale-matched", {"strength": 0.5}),
        "scale 1.5": Row("control", "scale-matched", {"strength": -0.5}),
        "adapters after": Row("control", "parameter-matched", {"g1": "adapter", "g2": "adapter"}),
    }

    def check(self, table: Table, settings: VariantSettings) -> list[Verdict]:
        """Paired differences to normal, corrected for the number of rows; then winners against their controls."""
        return [
            *(self.helps(claim, table, settings, kind) for kind, claim in HELPS.items()),
            self.beyond(BEYOND, table, settings),
        ]
