"""Akyürek et al.: the ridge regression that is nearest to a trained model has Bayes' parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iclens.estimators.estimator import build_estimator
from iclens.matching.ridge_parameter import best_ridge
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts, squared_error
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

_SOURCE = "Akyürek et al. 2022"

PARAMETER = Claim("The best-fitting ridge parameter of a trained model is σ²/τ².", _SOURCE, "stated")
RATIO = Claim(
    "The ratio decides, not the noise alone: with twice the σ and twice the τ the parameter stays, with twice the σ it "
    "does not.",
    f"follows from what {_SOURCE} state",
    "derived",
)
FIT = Claim("Ridge regression with that parameter explains the model's answers.", "ours", "asked")

NEARER = Claim(
    "The nearer a model's error is to Bayes' error, the nearer its parameter is to σ²/τ².",
    "ours: the claim is about models that have learned",
    "asked",
)

FACTOR = 1.5
"""Largest factor between the parameter (geometric mean over seeds) and σ²/τ²."""

LEARNED = 1.5
"""Largest error over Bayes' of a model that has learned; beyond it lie the runs that blew up."""

LEFT = 0.25
"""Largest share that a model that has learned has left of the way from the error of predicting 0 to Bayes'.

With much noise the error of predicting 0 is not far above Bayes', so that the factor alone would let it pass.
"""

BLOWN = 300.0
"""Per cent of error above Bayes' at which the picture shows all that lie beyond."""

RANK = 0.6
"""Least rank correlation between the distance of log α from Bayes' and the relative excess error, over all runs."""

UNEXPLAINED = 0.05
"""Largest SPD to the nearest ridge regression, relative to the mean square of its answers."""


@dataclass(frozen=True)
class RidgeSettings:
    """The noise levels, the model and its training."""

    n_layers: int = stated(16)
    d: int = stated(8)
    n_context: int = stated(40, "40 pairs")
    levels: tuple[tuple[float, float], ...] = chosen(
        ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0)), "pairs (σ, τ); the paper's are not known to us"
    )
    n_heads: int = chosen(1, "the paper: 4, in a transformer of width 512, which does not train on a CPU")
    model: str = chosen("linear-attention", "layers of linear attention on tokens (x, y), of the tokens' width")
    inputs: str = chosen("uniform", "of variance 1, without the tails that make linear attention hard to train")
    steps: int = chosen(10000, "of Adam")
    batch: int = chosen(128)
    learning_rate: float = chosen(0.01, "cosine schedule")
    n_prompts: int = chosen(4000, "fresh prompts for the fit")
    n_seeds: int = chosen(10)


@recipe("akyurek-ridge-parameter")
class RidgeParameter(Recipe[RidgeSettings]):
    """Models trained on noisy linear regression y = wᵀx + σz, w ~ N(0, τ² I), one for every (σ, τ) and seed.

    For each the α is found for which ridge regression is nearest to its answers to the queries of fresh prompts, by
    SPD, in double precision. Bayes' α is σ²/τ². The paper's models are transformers with 16 layers of width 512; ours
    are a few layers of bare linear attention, which learn in a minute, so that this is a test of the claim and not of
    the paper's models. How close a model comes to Bayes' error is reported beside it: a model that has not learned has
    no ridge parameter to speak of. A run has learned when its error is at most 1.5 times Bayes', and three quarters of
    the way there from that of predicting 0, τ²d + σ². Deep linear attention without norms blows up at some seeds; such
    runs are counted and left out of the first three verdicts. They were left out after a first look: with them in,
    means of errors of 10¹² said nothing.
    """

    title = "The ridge parameter of trained models"
    reference = f"{_SOURCE} (arXiv 2211.15661)"
    claims = (PARAMETER, RATIO, FIT, NEARER)
    quick = Preset(RidgeSettings(n_layers=3, d=2, n_context=8, steps=2500, n_seeds=5), seconds=75)
    paper = Preset(RidgeSettings(n_layers=4, d=4, n_context=16), seconds=1600)

    def parts(self, settings: RidgeSettings) -> list[Part]:
        """Return one part per level, with all its seeds."""
        return [{"sigma": noise, "tau": spread} for noise, spread in settings.levels]

    def measure(self, part: Part, settings: RidgeSettings, progress: Progress) -> Table:
        """Return the nearest ridge regression of every run."""
        noise, spread = (float(part[name] or 0) for name in ("sigma", "tau"))
        configs = [_config(settings, noise, spread, seed) for seed in range(settings.n_seeds)]
        rows: list[dict[str, Cell]] = []
        for run in train_all(configs, progress):
            # The same prompts for all seeds of a level: only the model differs.
            prompt = fresh_prompts(run.config.make_task(), 0, settings.n_prompts, settings.n_context)
            answers = answers_of(double_model(run), prompt)[:, -1:]
            fit = best_ridge(answers, prompt)
            ridge = build_estimator("ridge", {"alpha": fit.alpha}).predict(prompt)
            bayes = build_estimator("ridge", {"alpha": (noise / spread) ** 2}).predict(prompt)
            rows.append(
                {
                    "seed": run.config.seed,
                    "status": run.status,
                    "alpha": fit.alpha,
                    "at_edge": fit.at_edge,
                    "unexplained": fit.spd / float(ridge.square().mean()),
                    "error": squared_error(answers[:, -1], prompt.target),
                    "bayes_error": squared_error(bayes, prompt.target),
                }
            )
        return Table(rows)

    def check(self, table: Table, settings: RidgeSettings) -> list[Verdict]:
        """Ratios of the fitted to Bayes' parameter, and SPDs."""
        said, good, off, unexplained = [], [], [], []
        for noise, spread in settings.levels:
            everyone = table.where(sigma=noise, tau=spread)
            rows = _learned(everyone, settings)
            if 2 * len(rows) < len(everyone):
                said.append(f"σ = {noise:g}, τ = {spread:g}: {len(rows)} of {len(everyone)} runs learned")
                unexplained.append(math.inf)
                continue
            bayes = (noise / spread) ** 2
            found = seed_mean(np.log(rows.column("alpha")))
            if abs(found.mean - math.log(bayes)) <= math.log(FACTOR) and not rows.column("at_edge").any():
                good.append((noise, spread))
            else:
                off.append((noise, spread))
            low, mean, high = (math.exp(value) for value in (found.low, found.mean, found.high))
            excess = rows.column("error").mean() / rows.column("bayes_error").mean() - 1
            said.append(
                f"σ = {noise:g}, τ = {spread:g}: α = {mean:.3g} [{low:.3g}, {high:.3g}], σ²/τ² = {bayes:g} "
                f"(error {excess:.1%} above Bayes', {len(rows)} of {len(everyone)} runs learned)"
            )
            unexplained.append(rows.column("unexplained").mean())
        everywhere = len(good) == len(settings.levels)
        all_learned = len(_learned(table, settings)) == len(table)
        condition = "" if all_learned else f"the run has learned, that is, errs at most {LEARNED:g} times as Bayes"
        ratios = {(noise / spread) ** 2 for noise, spread in good}
        where = "" if everywhere else f"(σ, τ) is {' or '.join(f'({a:g}, {b:g})' for a, b in good)}"
        ratio, near = self._ratio(_learned(table, settings), settings, condition), self._nearer(table)
        if not good and not off:
            nowhere = f"At no level half of the runs or more learned: {'; '.join(said)}."
            return [PARAMETER.untested(nowhere), ratio, FIT.untested(nowhere), near]
        return [
            PARAMETER.judged(
                not off and len(ratios) > 1,
                "; ".join(said),
                f"the geometric mean of α over the seeds that learned is within a factor {FACTOR:g} of σ²/τ² at every "
                "level at which half of them or more did, and these levels have two values of σ²/τ² or more",
                " and ".join(filter(None, (where, condition))),
            ),
            ratio,
            FIT.judged(
                max(unexplained) <= UNEXPLAINED,
                f"SPD over the mean square of the answers, at worst {max(unexplained):.4f}",
                f"its mean over the seeds that learned is at most {UNEXPLAINED:g} at every level",
                condition,
            ),
            near,
        ]

    @staticmethod
    def _nearer(table: Table) -> Verdict:
        """Over all runs: does the parameter come near as the error does?"""
        from scipy.stats import spearmanr

        factors = table.column("alpha") / (table.column("sigma") / table.column("tau")) ** 2
        excess = table.column("error") / table.column("bayes_error") - 1
        found = spearmanr(np.abs(np.log(factors)), excess)
        half = np.argsort(excess)
        near, far = (np.exp(np.log(factors[some]).mean()) for some in np.array_split(half, 2))
        return NEARER.judged(
            found.statistic >= RANK and found.pvalue < 0.01,
            f"rank correlation {found.statistic:.2f} (p = {found.pvalue:.1g}, {len(table)} runs); α/(σ²/τ²) is "
            f"{near:.2f} for the half of the runs with the least excess error, {far:.2f} for the other half",
            f"the rank correlation between |log α − log σ²/τ²| and the relative excess error is at least {RANK:g}, "
            "with p < 0.01",
        )

    @staticmethod
    def _ratio(learned: Table, settings: RidgeSettings, condition: str) -> Verdict:
        """For the levels (σ, τ), (2σ, τ), (2σ, 2τ): the last is nearer to the first than to the second."""
        for noise, spread in settings.levels:
            louder, both = (2 * noise, spread), (2 * noise, 2 * spread)
            if louder not in settings.levels or both not in settings.levels:
                continue
            by_seed = [
                {int(row["seed"] or 0): np.log(float(row["alpha"] or 0)) for row in learned.where(sigma=a, tau=b)}
                for a, b in ((noise, spread), louder, both)
            ]
            common = sorted(set.intersection(*(set(found) for found in by_seed)))
            if len(common) < 2:
                return RATIO.untested(
                    f"{len(common)} seeds learned all three levels, and an interval takes two or more."
                )
            first, second, third = (np.array([found[seed] for seed in common]) for found in by_seed)
            kept = seed_mean(third - first)
            moved = seed_mean(second - third)
            return RATIO.judged(
                abs(kept.mean) <= math.log(FACTOR) and moved.low > math.log(FACTOR),
                f"α at (σ, τ) = ({2 * noise:g}, {2 * spread:g}) is {math.exp(kept.mean):.2f} times that at ({noise:g}, "
                f"{spread:g}); at ({2 * noise:g}, {spread:g}) it is {math.exp(moved.mean):.2f} "
                f"[{math.exp(moved.low):.2f}, {math.exp(moved.high):.2f}] times that at ({2 * noise:g}, "
                f"{2 * spread:g}), and 4 times for Bayes; {len(common)} seeds that learned all three",
                f"the first factor is within {FACTOR:g}, and the interval of the second, paired by seed, begins above "
                f"{FACTOR:g}",
                condition,
            )
        return RATIO.untested("The levels have no (σ, τ), (2σ, τ) and (2σ, 2τ).")

    def plot(self, table: Table, settings: RidgeSettings) -> Figure:
        """Fitted against Bayes' parameter, one point a run that learned; the errors of all."""
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2)
        bayes = sorted({(noise / spread) ** 2 for noise, spread in settings.levels})
        ends = [bayes[0] / 2, bayes[-1] * 2]
        left.plot(ends, ends, "--", color="0.5", label="α = σ²/τ²")
        left.fill_between(ends, [e / FACTOR for e in ends], [e * FACTOR for e in ends], color="0.5", alpha=0.15, lw=0)
        for place, spread in enumerate(sorted({spread for _, spread in settings.levels})):
            rows = table.where(tau=spread)
            at = (rows.column("sigma") / spread) ** 2
            # Side by side, so that equal ratios of different spreads do not cover each other.
            shift = 1.06 ** (2 * place - 1)
            learned = rows.column("error") <= _limits(rows, settings)
            left.plot(
                at[learned] * shift,
                rows.column("alpha")[learned],
                "os^v"[place % 4],
                mfc="none",
                label=f"runs with τ = {spread:g}",
            )
            excess = rows.column("error") / rows.column("bayes_error") - 1
            right.plot(
                at * shift, np.clip(100 * excess, 1e-3, BLOWN), "os^v"[place % 4], mfc="none", label=f"τ = {spread:g}"
            )
        log_ticks(left.xaxis, bayes)
        log_ticks(left.yaxis, [bayes[0] / 2, *bayes, bayes[-1] * 2])
        left.set(xlabel="σ²/τ² of the training", ylabel="α of the nearest ridge regression")
        log_ticks(right.xaxis, bayes)
        right.set(xlabel="σ²/τ² of the training", ylabel="squared error above Bayes' (%)")
        log_ticks(right.yaxis, [0.001, 0.01, 0.1, 1, 10, 100])
        limits = _limits(table, settings) / table.column("bayes_error") - 1
        right.plot(
            (table.column("sigma") / table.column("tau")) ** 2,
            100 * limits,
            "_",
            color="0.5",
            markersize=24,
            label="learned, below; at the top: far above",
        )
        left.legend()
        right.legend()
        return figure


def _learned(table: Table, settings: RidgeSettings) -> Table:
    learned = table.column("error") <= _limits(table, settings)
    return Table(row for row, yes in zip(table, learned, strict=True) if yes)


def _limits(table: Table, settings: RidgeSettings) -> np.ndarray:
    """Return the largest error of a run that has learned, by row."""
    bayes = table.column("bayes_error")
    # Both laws of the inputs have variance 1.
    zero = settings.d * table.column("tau") ** 2 + table.column("sigma") ** 2
    return np.minimum(LEARNED * bayes, bayes + LEFT * (zero - bayes))


def _config(settings: RidgeSettings, noise: float, spread: float, seed: int) -> RunConfig:
    scale = 3**0.5 if settings.inputs == "uniform" else 1.0
    task = {"noise_std": noise, "weight_std": spread, "inputs": settings.inputs, "input_scale": scale}
    model = {"name": settings.model, "n_layers": settings.n_layers, "n_heads": settings.n_heads}
    return query_run(settings, seed, {"name": "linear", "d": settings.d, **task}, model)
