"""A recipe of a moment's work, on which the contract of recipes is tried."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.recipes.contract import Preset, Recipe
from iclens.recipes.figures import new_figure
from iclens.recipes.seed_curves import seed_estimate
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim

MEAN = Claim("The mean is 2.", "a paper, section 1", "stated")
SIGN = Claim("No number is negative.", "a paper, section 2", "derived")


@dataclass(frozen=True)
class CoinSettings:
    n_seeds: int = stated(4, "section 1")
    centre: float = chosen(2.0)
    widths: tuple[float, ...] = chosen((0.5, 1.0), "two of them")


class Coin(Recipe[CoinSettings]):
    """Draws numbers around a centre.

    A second paragraph.
    """

    id = "coin"
    title = "Coins"
    reference = "a paper, section 1"
    claims = (MEAN, SIGN)
    quick = Preset(CoinSettings(n_seeds=3), seconds=0.1)
    paper = Preset(CoinSettings(), seconds=0.2)

    def __init__(self, stop_at=None):
        self.measured = []
        self.stop_at = stop_at

    def parts(self, settings):
        return [{"seed": seed, "width": width} for seed in range(settings.n_seeds) for width in settings.widths]

    def measure(self, part, settings, progress):
        if len(self.measured) == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append(dict(part))
        generator = torch.Generator().manual_seed(part["seed"])
        drawn = settings.centre + part["width"] * torch.randn(3, generator=generator, dtype=torch.float64)
        progress(1, 1, "drawn")
        return Table({"at": at, "value": value} for at, value in enumerate(drawn))

    def check(self, table, settings):
        mean = seed_estimate(table, "value")
        lowest = table.column("value").min()
        return [
            SIGN.judged(lowest >= 0, f"lowest {lowest:.2f}", "lowest ≥ 0", "the width is small"),
            MEAN.judged(mean.low <= 2 <= mean.high, f"{mean}", "the interval contains 2"),
        ]

    def plot(self, table, settings):
        figure = new_figure()
        figure.subplots().plot(table.column("at"), table.column("value"), "o")
        return figure


def planted(stop_at=None):
    return Coin(stop_at)
