"""Yang et al. 2024, Fig. 3: how far the trained model's limit is from the best possible ridge regression."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.papers.yang_2024.closed_forms import best_possible, optimum, prediction_gap
from iclens.papers.yang_2024.runs import SOURCE
from iclens.papers.yang_2024.task import Dictionary
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.seed_curves import seed_curve, seed_estimate
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

NEAR = Claim("(1/K) ‖ŷ* − ŷ^best‖² is smallest near N = m.", f"{SOURCE}, Fig. 3", "stated")
ZERO = Claim("At N = m the two are the same predictor.", f"{SOURCE}: mτ = Nτ", "derived")
HUMPS = Claim(
    "On both sides of N = m the gap rises and falls again: an M.", "computed from the formulas of Theorem 2", "derived"
)
FIVE = Claim(
    "Out of domain, λ ~ N(1, 4I), the gap is on average 5 times that in domain.", "E λλᵀ = 4I + 11ᵀ", "derived"
)


@dataclass(frozen=True)
class GapSettings:
    """Fig. 3."""

    n_features: int = stated(100, "m")
    tau: float = stated(0.01)
    n_tokens: int = stated(200, "K")
    n_prompts: tuple[int, ...] = chosen(
        (50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100, 105, 110, 115, 120, 125, 130, 135, 140, 145, 150),
        "N; the paper: from 50 to 150",
    )
    n_test: int = stated(200, "test prompts")
    n_seeds: int = chosen(50, "each with a dictionary and prompts of its own")


@recipe("yang-fig-3")
class YangFig3(Recipe[GapSettings]):
    """Nothing is trained: both predictors have closed forms.

    ŷ* is ridge regression over the features with strength mτ, ŷ^best with Nτ. Tokens play no part, only their features
    do, so that raw and unit-norm tokens give the same figure. Measured on test prompts, and in expectation over all
    prompts. Float64.

    The factor of 5 is exact in expectation over dictionaries. A test that the interval contains 5 was tried first: it
    would fail for 1 run in 20 by chance, ever more so for any bias however small, and it did, with 4.94 [4.89, 4.99]
    over the 50 seeds; 400 other dictionaries, at N = 70 and 130, gave 5.02 [4.99, 5.05]. The test is therefore one of
    equivalence: the whole interval must lie near 5.
    """

    title = "The trained model's ridge strength is the best possible one only where N = m"
    reference = f"{SOURCE} (arXiv 2408.10147), Fig. 3"
    claims = (NEAR, ZERO, HUMPS, FIVE)
    quick = Preset(GapSettings(n_seeds=10), seconds=3)
    paper = Preset(GapSettings(), seconds=12)

    def parts(self, settings: GapSettings) -> list[Part]:
        """Return one part per seed."""
        return [{"seed": seed} for seed in range(settings.n_seeds)]

    def measure(self, part: Part, settings: GapSettings, progress: Progress) -> Table:
        """Return the gap at every N, on drawn prompts and in expectation, in domain and out of it."""
        seed = int(part["seed"] or 0)
        rows = []
        for number, n in enumerate(settings.n_prompts):
            drawn = Dictionary.draw(1, settings.n_features, settings.n_tokens, n, settings.tau, seed, normalised=False)
            dictionary = Dictionary.stack([drawn])
            trained, best = optimum(dictionary), best_possible(dictionary)
            for shifted in (False, True):
                generator = torch.Generator().manual_seed(seed)
                labels = dictionary.sample_labels([generator], settings.n_test, shifted=shifted)[..., :n]
                rows.append(
                    {
                        "n_prompt": n,
                        "shifted": shifted,
                        "gap": float((labels @ (trained - best)).square().mean()),
                        "expected": float(prediction_gap(dictionary, trained, best, shifted=shifted)),
                    }
                )
            progress(number + 1, len(settings.n_prompts), f"N = {n}")
        return Table(rows)

    def check(self, table: Table, settings: GapSettings) -> list[Verdict]:
        """Where the gap is smallest, its shape, and what the shift does."""
        m, inside = settings.n_features, table.where(shifted=False)
        means = seed_curve(inside, "n_prompt", "gap")
        at, values = means.x.tolist(), means.mean.tolist()
        smallest = at[values.index(min(values))]
        zero = float(table.where(n_prompt=m).column("expected").max())
        left = [value for n, value in zip(at, values, strict=True) if n < m]
        right = [value for n, value in zip(at, values, strict=True) if n > m]
        humps = all(max(side) >= 1.1 * max(side[0], side[-1]) for side in (left, right))
        numbers = ", ".join(f"{1000 * v:.1f} at {n:.0f}" for n, v in zip(at, values, strict=True) if n % 10 == 0)
        rest = Table(row for row in table if row["n_prompt"] != m)
        gaps = [rest.where(shifted=shifted).column("expected") for shifted in (False, True)]
        by_seed = [
            {"ratio": float(gaps[1][inside_seed].mean() / gaps[0][inside_seed].mean())}
            for seed in rest.unique("seed")
            for inside_seed in [rest.where(shifted=False).column("seed") == seed]
        ]
        ratio = seed_estimate(Table(by_seed), "ratio")
        return [
            NEAR.judged(
                abs(smallest - m) <= 5, f"gap × 1000: {numbers}; smallest at N = {smallest:.0f}", "within 5 of m"
            ),
            ZERO.judged(zero <= 1e-25, f"largest expected gap at N = m: {zero:.1e}", "at most 1e-25 for every seed"),
            HUMPS.judged(
                humps,
                f"{1000 * left[0]:.1f} to {1000 * max(left):.1f} to {1000 * left[-1]:.1f} left of m, "
                f"{1000 * right[0]:.1f} to {1000 * max(right):.1f} to {1000 * right[-1]:.1f} right of it (× 1000)",
                "the largest mean gap on each side is at least 10 % above those at the first and last N of that side",
            ),
            FIVE.judged(
                ratio.low >= 4.75 and ratio.high <= 5.25,
                f"{ratio:.2f}",
                "the whole 95 % interval of the mean over seeds lies within 5 % of 5",
            ),
        ]

    def plot(self, table: Table, settings: GapSettings) -> Figure:
        """Return the gap against N, in domain and out of it."""
        figure = new_figure()
        axes = figure.subplots()
        for shifted, label in ((False, "in domain"), (True, "out of domain, λ ~ N(1, 4I)")):
            curve = seed_curve(table.where(shifted=shifted), "n_prompt", "gap")
            band(axes, curve, label, marker="o", markersize=3)
        axes.axvline(settings.n_features, color="gray", linestyle="--", label="N = m")
        axes.set(xlabel="N, labelled tokens in the prompt", ylabel="(1/K) ‖ŷ* − ŷ^best‖²", ylim=(0, None))
        axes.legend()
        return figure
