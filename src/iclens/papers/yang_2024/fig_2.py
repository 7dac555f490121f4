"""Yang et al. 2024, Fig. 2: training and test losses of the one-layer model and of the 4-layer model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from iclens.papers.yang_2024.deep_runs import SMALL, DeepSettings, deep_rows
from iclens.papers.yang_2024.runs import (
    SOURCE,
    TOKENS,
    TaskSettings,
    judged_by_tokens,
    log_band,
    one_layer_rows,
)
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.seed_curves import seed_estimate
from iclens.recipes.settings import stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

TOGETHER = Claim(
    "The training loss and the test losses in domain and out of domain fall together.", f"{SOURCE}, Fig. 2", "stated"
)
ABOVE = Claim(
    "The test loss out of domain, λ ~ N(1, 4I), lies above that in domain, λ ~ N(0, I).", f"{SOURCE}, Fig. 2", "stated"
)
LIMIT = Claim(
    "The training loss of the one-layer model tends to L*, the smallest loss of predictions linear in the labels, and "
    "not to 0.",
    f"{SOURCE}, Theorem 1",
    "stated",
)
_TOGETHER_TEST = (
    "for every seed, each of the three ends at or below a quarter of its start, and the rank correlation of any two "
    "over the measurements is at least 0.9"
)
S = TypeVar("S")
_ABOVE_TEST = "the ratio of the two is above 1 at every measurement of every seed"


class LossCurves(Recipe[S]):
    """What both parts of Fig. 2 share: a part and a panel for each kind of tokens."""

    def parts(self, settings: S) -> list[Part]:
        """One for each kind of tokens; the seeds of each train together."""
        return [{"normalised": normalised} for normalised in TOKENS]

    def plot(self, table: Table, settings: S) -> Figure:
        """Three curves against steps for each kind of tokens, and L* where it is known."""
        figure = new_figure(9.0, 3.8)
        panels = figure.subplots(1, 2, sharey=True)
        names = {"loss": "training loss", "in_domain": "test, in domain", "shifted": "test, out of domain"}
        for axes, normalised in zip(panels, TOKENS, strict=True):
            rows = table.where(normalised=normalised)
            for column, label in names.items():
                log_band(axes, rows, "step", column, label)
            if "smallest_loss" in rows.names:
                least = seed_estimate(rows.where(step=0), "smallest_loss").mean
                axes.axhline(least, color="gray", linestyle="--", label="L*")
            axes.set(title=TOKENS[normalised], xlabel="steps", yscale="log")
        panels[0].set(ylabel="loss; (1/K) ‖ŷ − ŷ*‖²")
        panels[1].legend()
        return figure


@dataclass(frozen=True)
class OneLayerSettings(TaskSettings):
    """Fig. 2a."""

    n_heads: int = stated(64, "H")


@recipe("yang-fig-2a")
class YangFig2a(LossCurves[OneLayerSettings]):
    """The one-layer model is trained on prompts with λ ~ N(0, I).

    Plotted are the loss over all training prompts and, on two sets of test prompts, (1/K) ‖ŷ − ŷ*‖²: the distance to
    ridge regression over the features. Attention is computed once a step for all prompts, and the batch enters by the
    second moments of its labels, which changes no number beyond rounding. Float32.
    """

    title = "The one-layer model learns ridge regression over the features, in domain and out of it"
    reference = f"{SOURCE} (arXiv 2408.10147), Fig. 2a"
    claims = (TOGETHER, ABOVE, LIMIT)
    quick = Preset(OneLayerSettings(n_prompt=10, n_tokens=50, d=30, n_features=6, n_heads=22), seconds=30)
    paper = Preset(OneLayerSettings(), seconds=700)

    def measure(self, part: Part, settings: OneLayerSettings, progress: Progress) -> Table:
        """Curves of all seeds."""
        return one_layer_rows(settings, bool(part["normalised"]), settings.n_heads, progress)

    def check(self, table: Table, settings: OneLayerSettings) -> list[Verdict]:
        """Do the three fall together, does the shifted one lie above, and where does the training loss end."""
        return [
            judged_by_tokens(TOGETHER, table, together, _TOGETHER_TEST),
            judged_by_tokens(ABOVE, table, above, _ABOVE_TEST),
            judged_by_tokens(LIMIT, table, _limit, "for every seed, the last training loss is between 0.9 and 1.5 L*"),
        ]


@dataclass(frozen=True)
class DeepFigureSettings(DeepSettings):
    """Fig. 2b."""

    n_heads: int = stated(8, "H")


@recipe("yang-fig-2b")
class YangFig2b(LossCurves[DeepFigureSettings]):
    """The same for a standard transformer encoder of 4 layers.

    How tokens and labels enter and how answers are read off is not stated; here token k enters as a linear map of
    (v_k, y_k, 1) or, where its label is asked for, (v_k, 0, 0), without positions, and every layer's keys are the
    prompt's tokens. The training loss is that of the first 512 training prompts. Float32. The tests are those of
    Fig. 2a.
    """

    title = "A 4-layer transformer learns ridge regression over the features, in domain and out of it"
    reference = f"{SOURCE} (arXiv 2408.10147), Fig. 2b"
    claims = (TOGETHER, ABOVE)
    quick = Preset(DeepFigureSettings(**SMALL, steps=600, every=50), seconds=70)
    paper = Preset(DeepFigureSettings(), seconds=3600, needs_gpu="a step of one run takes about 4 s on a CPU core")

    def measure(self, part: Part, settings: DeepFigureSettings, progress: Progress) -> Table:
        """Curves of all seeds."""
        seeds = range(settings.n_seeds)
        normalised, device = bool(part["normalised"]), self.device(settings)
        return deep_rows(settings, normalised, settings.n_heads, seeds, settings.steps, 0.0, device, progress)

    def check(self, table: Table, settings: DeepFigureSettings) -> list[Verdict]:
        """Do the three fall together, and does the shifted one lie above."""
        return [
            judged_by_tokens(TOGETHER, table, together, _TOGETHER_TEST),
            judged_by_tokens(ABOVE, table, above, _ABOVE_TEST),
        ]


def together(table: Table) -> tuple[bool, str]:
    """Return whether the three losses fall together, over all seeds of one kind of tokens."""
    from scipy.stats import spearmanr

    shares: list[float] = []
    correlations: list[float] = []
    for seed in table.unique("seed"):
        curves = table.where(seed=seed).sorted_by("step")
        values = np.stack([curves.column(name) for name in ("loss", "in_domain", "shifted")])
        values = values[:, ~np.isnan(values).any(0)]
        shares.append(float((values[:, -1] / values[:, 0]).max()))
        correlations += [float(spearmanr(values[i], values[j]).statistic) for i, j in ((0, 1), (0, 2), (1, 2))]
    holds = max(shares) <= 0.25 and min(correlations) >= 0.9
    return (
        holds,
        f"at the end at most {max(shares):.3f} of the start, rank correlation at least {min(correlations):.2f}",
    )


def above(table: Table) -> tuple[bool, str]:
    """Return whether the shifted loss lies above the other, at every measurement."""
    ratio = table.column("shifted") / table.column("in_domain")
    last = table.column("step") == table.column("step").max()
    return bool(
        (ratio > 1).all()
    ), f"ratio from {ratio.min():.2f} to {ratio.max():.2f}, at the end {ratio[last].mean():.2f}"


def _limit(table: Table) -> tuple[bool, str]:
    last = table.where(step=max(table.column("step").tolist()))
    start = table.where(step=0)
    shares = [
        float(last.where(seed=seed).column("loss")[0] / start.where(seed=seed).column("smallest_loss")[0])
        for seed in table.unique("seed")
    ]
    least = seed_estimate(start, "smallest_loss")
    ends = f"last training loss {min(shares):.2f} to {max(shares):.2f} times L*, mean L* {least.mean:.3f}"
    return min(shares) >= 0.9 and max(shares) <= 1.5, ends
