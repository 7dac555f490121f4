"""Yang et al. 2024, Theorem 1: gradient descent with two rates converges linearly, to L*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iclens.papers.yang_2024.closed_forms import smallest_loss
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.rates import rate
from iclens.papers.yang_2024.runs import SOURCE, log_band
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

LINEAR = Claim(
    "With a small enough η_Q and a large enough γ, gradient descent with η_w = γ² η_Q converges linearly.",
    f"{SOURCE}, Theorem 1",
    "stated",
)
TO_L_STAR = Claim("It converges to L*, not to 0.", f"{SOURCE}, Theorem 1", "stated")
FACTOR = Claim(
    "Every step leaves at most the share 1 − η_Q γ² ζ_0/(2K) of the excess over L*.",
    f"{SOURCE}, Theorem 1, with our constants",
    "derived",
)
SLOWER_WITH_K = Claim("Convergence is slower for larger K.", f"{SOURCE}, Theorem 1", "stated")
SLOWER_WITH_H = Claim("Convergence is slower for larger H.", f"{SOURCE}, Theorem 1", "stated")

ROUNDING = 1e-20
"""Share of the first excess below which it is rounding."""


@dataclass(frozen=True)
class DescentSettings:
    """Sizes small enough that the excess falls by many orders of magnitude."""

    d: int = chosen(8)
    n_features: int = chosen(3, "m")
    n_prompt: int = chosen(3, "N")
    n_tokens: tuple[int, ...] = chosen((8, 16, 32), "K; the first tokens of one dictionary")
    n_heads: tuple[int, ...] = chosen((32, 64, 128, 256), "H; the first heads of one start")
    middle_heads: int = chosen(64, "H of the comparison over K, and the smallest K is that of the comparison over H")
    tau: float = chosen(0.1)
    times_threshold: float = chosen(1.0, "γ as a multiple of the threshold that we derive")
    steps: int = chosen(4000)
    every: int = chosen(20)
    n_seeds: int = chosen(5)


@recipe("yang-theorem-1")
class YangTheorem1(Recipe[DescentSettings]):
    """Full-batch gradient descent on the exact population loss, unit-norm tokens, float64.

    γ is the threshold from which our derivation guarantees the factor, and η_Q half of K/(γ² max_k ‖B_k‖²), half the
    inverse smoothness in w. The excess over L* is computed by Lemma 5, without cancellation. For the comparison at the
    same rates, all runs of a seed take the smallest of their η_w.
    """

    title = "Gradient descent converges linearly, and not to 0"
    reference = f"{SOURCE} (arXiv 2408.10147), Theorem 1"
    claims = (LINEAR, TO_L_STAR, FACTOR, SLOWER_WITH_K, SLOWER_WITH_H)
    quick = Preset(DescentSettings(), seconds=25)
    paper = Preset(DescentSettings(steps=10_000, n_seeds=10), seconds=150)
    revision = 2

    def parts(self, settings: DescentSettings) -> list[Part]:
        """K with the middle H, H with the smallest K; each with the best rates and with shared ones."""
        sizes = [(k, settings.middle_heads) for k in settings.n_tokens]
        sizes += [(settings.n_tokens[0], h) for h in settings.n_heads if h != settings.middle_heads]
        return [{"n_tokens": k, "n_heads": h, "same_rates": same} for same in (False, True) for k, h in sizes]

    def measure(self, part: Part, settings: DescentSettings, progress: Progress) -> Table:
        """Excess of all seeds, with the factors that theory gives."""
        n_tokens, n_heads = part["n_tokens"], part["n_heads"]
        assert isinstance(n_tokens, int)
        assert isinstance(n_heads, int)
        dictionary, model = _made(settings, n_tokens, n_heads)
        # One γ for all sizes and seeds, so that only the sizes differ.
        gamma = settings.times_threshold * max(
            float(rate(*_made(settings, k, h), 1.0).threshold.max())
            for k in settings.n_tokens
            for h in settings.n_heads
        )
        learning_rate = rate(dictionary, model, gamma).learning_rate
        if part["same_rates"]:
            largest = _made(settings, settings.n_tokens[0], max(settings.n_heads))
            learning_rate = rate(*largest, gamma).learning_rate
        share = learning_rate / rate(dictionary, model, gamma, share=1.0).learning_rate
        training = DictionaryTraining.descent(learning_rate, gamma, settings.every)
        bounds = rate(dictionary, model, gamma)
        per_step = learning_rate * gamma**2 * bounds.zeta / n_tokens
        least = smallest_loss(dictionary)
        trainer = DictionaryTrainer(dictionary, model, training)
        rows: list[dict[str, Any]] = []
        first: dict[int, float] = {}
        below: set[int] = set()
        for found in trainer.run(settings.steps, lambda now: progress(now.step, settings.steps, f"H = {n_heads}")):
            for seed in range(settings.n_seeds):
                # Nothing is read off the many rows that are rounding alone, but where they begin and how they end.
                if seed in below and found.step < settings.steps:
                    continue
                if float(found.excess[seed]) < ROUNDING * first.setdefault(seed, float(found.excess[seed])):
                    below.add(seed)
                row = {"seed": seed, "step": found.step, "excess": float(found.excess[seed])}
                row |= {"loss": float(found.excess[seed] + least[seed]), "smallest_loss": float(least[seed])}
                if found.step == 0:
                    row |= {"share": float(share[seed]), "gamma": gamma, "zeta": float(bounds.zeta[seed])}
                    row |= {"factor": float(1 - per_step[seed] / 2), "lazy": float((1 - per_step[seed]) ** 2)}
                rows.append(row)
        return Table(rows)

    def check(self, table: Table, settings: DescentSettings) -> list[Verdict]:
        """Straight lines, their slopes, and where the loss ends."""
        main = table.where(n_tokens=settings.n_tokens[0], n_heads=settings.middle_heads, same_rates=False)
        fits = [_line(main.where(seed=seed)) for seed in range(settings.n_seeds)]
        straight = min(r for _, r in fits)
        start = main.where(step=0).sorted_by("seed")
        factors, lazies = start.column("factor"), start.column("lazy")
        measured = np.exp([slope for slope, _ in fits])
        worst = -np.inf
        for row in table.where(step=0, same_rates=False):
            run = {name: row[name] for name in ("n_tokens", "n_heads", "same_rates", "seed")}
            excess = _above_rounding(table.where(**run).sorted_by("step"))
            allowed = float(row["factor"] or 0) ** settings.every
            worst = max(worst, float((excess[1:] / excess[:-1] / allowed).max()))
        end = main.where(step=settings.steps)
        ratio = end.column("loss") / end.column("smallest_loss")
        verdicts = [
            LINEAR.judged(
                straight >= 0.999,
                f"r² of a straight line through the logarithm of the excess, over the second half of the measurements "
                f"above rounding: at least {straight:.5f}; a step leaves "
                + ", ".join(f"{share:.5f}" for share in measured)
                + " of the excess; as γ grows theory says "
                + ", ".join(f"{share:.5f}" for share in lazies),
                "r² ≥ 0.999 for every seed",
            ),
            TO_L_STAR.judged(
                bool((np.abs(ratio - 1) <= 1e-3).all() and (end.column("smallest_loss") > 0).all()),
                f"last loss over L*: {ratio.min():.6f} to {ratio.max():.6f}; L* from "
                f"{end.column('smallest_loss').min():.3f} to {end.column('smallest_loss').max():.3f}",
                "the last loss is within 0.1 % of a positive L* for every seed",
            ),
            FACTOR.judged(
                worst <= 1 + 1e-9,
                f"measured over allowed, at most {worst:.4f} over {settings.every} steps; allowed a step: "
                + ", ".join(f"{factor:.5f}" for factor in factors),
                f"the excess after every {settings.every} steps, above rounding, is at most factor^{settings.every} of "
                "what it was, for every size and seed",
            ),
        ]
        for claim, name, sizes in (
            (SLOWER_WITH_K, "n_tokens", settings.n_tokens),
            (SLOWER_WITH_H, "n_heads", settings.n_heads),
        ):
            verdicts.append(self._ordered(claim, table, settings, name, sizes))
        return verdicts

    def _ordered(
        self, claim: Claim, table: Table, settings: DescentSettings, name: str, sizes: tuple[int, ...]
    ) -> Verdict:
        fixed = {"n_tokens": settings.n_tokens[0], "n_heads": settings.middle_heads}
        texts, right = [], {}
        for same in (True, False):
            slopes = {}
            for size in sizes:
                run = table.where(**{**fixed, name: size}, same_rates=same)
                slopes[size] = np.array([_line(run.where(seed=seed))[0] for seed in range(settings.n_seeds)])
            values = np.stack([slopes[size] for size in sizes])
            right[same] = bool((values[1:] > values[:-1]).all())
            label = "K" if name == "n_tokens" else "H"
            what = "at the same rates" if same else "each at its own rate"
            texts.append(what + ", " + ", ".join(f"{label} = {k}: {v.mean():.2e}" for k, v in slopes.items()))
        condition = "" if all(right.values()) else ("the rates are the same" if right[True] else "each at its own rate")
        return claim.judged(
            any(right.values()),
            "mean slope of the logarithm of the excess a step, " + "; ".join(texts),
            "for every seed the slope is nearer to 0 at each larger size",
            condition,
        )

    def plot(self, table: Table, settings: DescentSettings) -> Figure:
        """Excess against steps: over K on the left, over H on the right, at the same rates."""
        figure = new_figure(9.0, 3.8)
        left, right = figure.subplots(1, 2, sharey=True)
        rows = table.where(same_rates=True)
        for k in settings.n_tokens:
            own = rows.where(n_tokens=k, n_heads=settings.middle_heads)
            log_band(left, _shown(own), "step", "excess", f"K = {k}")
        for h in settings.n_heads:
            own = rows.where(n_tokens=settings.n_tokens[0], n_heads=h)
            log_band(right, _shown(own), "step", "excess", f"H = {h}")
        for axes, title in ((left, f"H = {settings.middle_heads}"), (right, f"K = {settings.n_tokens[0]}")):
            axes.set(xlabel="steps, at the same rates", yscale="log", title=title)
            axes.legend()
        left.set(ylabel="excess L − L*")
        return figure


def _shown(rows: Table) -> Table:
    """Rows above rounding; a curve ends where the first seed reaches it."""
    return Table(row for row in rows if float(row["excess"] or 0) > ROUNDING)


def _made(settings: DescentSettings, n_tokens: int, n_heads: int) -> tuple[Dictionary, DictionaryModel]:
    largest = max(settings.n_tokens)
    drawn = [
        Dictionary.draw(
            settings.d, settings.n_features, largest, settings.n_prompt, settings.tau, seed, normalised=True
        )
        for seed in range(settings.n_seeds)
    ]
    dictionary = Dictionary.stack(drawn).first(n_tokens)
    model = DictionaryModel.on(dictionary, range(settings.n_seeds), n_heads=n_heads, dtype=torch.float64)
    return dictionary, model


def _above_rounding(run: Table) -> np.ndarray:
    """Excesses until rounding takes over."""
    excess = run.column("excess")
    below = np.flatnonzero(excess < ROUNDING * excess[0])
    return excess[: below[0]] if len(below) else excess


def _line(run: Table) -> tuple[float, float]:
    """Slope a step of the logarithm of the excess over the second half above rounding, and r² of a straight line."""
    from scipy.stats import linregress

    run = run.sorted_by("step")
    logs = np.log(_above_rounding(run))
    steps = run.column("step")[: len(logs)]
    half = len(logs) // 2
    fit = linregress(steps[half:], logs[half:])
    return float(fit.slope), float(fit.rvalue**2)
