"""Claims about the patches on a real model, and whether the numbers bear them out."""

from __future__ import annotations

from functools import partial

from iclens.intervals import Estimate
from iclens.papers.attribution.comparing import difference, mean, units
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

PATCH, INFLUENCE, DELETIONS, CHANCE = "patch", "influence", "influence_deletions", "random"
WHOLE = "(the whole patch)"
"""The row of what is measured of a prompt's patches and not of a method."""

NEAR = 0.05
"""An LDS that counts as not behind by much."""
EXACT = 1e-5
MOSTLY = 0.5

SAME = Claim(
    "The query alone with a rank-1 update of every block's MLP gives the logits that the model gives with its context.",
    "Dherin et al. 2025, Theorem 2.2; Goldwaser et al. 2025",
    "stated",
)
_asked = partial(Claim, source="our question: the update, split by demonstration", trust="asked")
PARTS = _asked("The demonstrations' own parts are most of the update.")
RANKS = _asked("A demonstration's part of the updates ranks demonstrations as well as its influence does.")
CHEAPLY = _asked("It ranks them as well as the effect of deleting that is found with 4.5 passes more.")
TELLS = _asked("It predicts what deleting demonstrations does better than chance.")
CLAIMS = (SAME, PARTS, RANKS, CHEAPLY, TELLS)


def judged(table: Table) -> list[Verdict]:
    """A verdict on each of `CLAIMS`, over all prompts."""
    return [_same(table), _parts(table), _against(RANKS, table, INFLUENCE), _against(CHEAPLY, table, DELETIONS),
            _against(TELLS, table, CHANCE, 0.0)]  # fmt: skip


def _same(table: Table) -> Verdict:
    off = list(units(table, "off").get(WHOLE, {}).values())
    if not off:
        return SAME.untested("no prompt was measured.")
    numbers = f"largest relative difference of the logits {max(off):.1e} over {len(off)} prompts"
    return SAME.judged(max(off) <= EXACT, numbers, f"at most {EXACT:.0e} in float32")


def _parts(table: Table) -> Verdict:
    found = mean(table, "part_share", WHOLE)
    if not found.n:
        return PARTS.untested("no prompt was measured.")
    others = "; ".join(f"{name} {mean(table, f'{name}_share', WHOLE):.3f}" for name in ("displaced", "norms"))
    return PARTS.judged(
        found.low > MOSTLY,
        f"share of the update, mean over layers and prompts: {found}; {others}",
        f"the interval lies above {MOSTLY}",
    )


def _against(claim: Claim, table: Table, rival: str, least: float = -NEAR) -> Verdict:
    found = difference(table, "lds", PATCH, rival)
    if not found.n:
        return claim.untested(f"no prompt was scored by both {PATCH} and {rival}.")
    both = f"LDS {_of(table, PATCH):.3f} against {_of(table, rival):.3f}"
    above = f"the interval lies above {least:g}".replace("-", "−")
    return claim.judged(found.low > least, f"{both}; difference {found} over {found.n} prompts", above)


def _of(table: Table, method: str) -> Estimate:
    return mean(table, "lds", method)
