"""Wurgaft et al.: a model between memorising its tasks and generalising, as a posterior over both says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.papers.related.strategy_odds import Condition, fitted, squares
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts, squared_error
from iclens.recipes.lab_runs import query_run, train_through
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, require_counts
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.linear import Linear
from iclens.training.config import RunConfig

_stated = partial(Claim, source="Wurgaft et al. 2025 (arXiv 2506.17859), abstract", trust="stated")
_asked = partial(Claim, source="a question on Wurgaft et al. 2025", trust="asked")

PREDICTED = _stated(
    "A posterior over the memorising and the generalising predictor, which weighs loss against complexity, predicts a "
    "model's answers throughout training."
)
BETTER = _asked(
    "With numbers of tasks that it was not fitted to, it predicts the answers better than either predictor, and better "
    "than one mixture of both for all of training."
)
TIMESCALE = _stated(
    "The time after which a model turns from generalising to memorising grows faster than the number of tasks."
)
NEAR = 0.9
"""Least share of the variance of a model's answers that a prediction of it explains."""


@dataclass(frozen=True)
class StrategySettings:
    """The pools, the model and its training; the paper's numbers are not known to us."""

    pools: tuple[int, ...] = chosen((4, 8, 16, 32, 64, 128, 256, 512), "numbers of tasks")
    d: int = chosen(8)
    n_context: int = chosen(16)
    noise_std: float = chosen(0.5, "σ, with weights N(0, I): the generalising predictor is ridge regression, α = 0.25")
    n_layers: int = chosen(2)
    width: int = chosen(32)
    ffn_width: int = chosen(64)
    steps: int = chosen(30000, "of Adam, of one rate after its warm-up")
    n_kept: int = chosen(10, "steps at which models are compared, a constant factor apart, from a tenth to the end")
    batch: int = chosen(64)
    learning_rate: float = chosen(1e-3)
    n_prompts: int = chosen(1000, "fresh prompts, on the pool and on fresh tasks")
    n_seeds: int = chosen(5, "of weights, prompts and pools together")

    def __post_init__(self) -> None:
        if len(set(self.pools)) < 2:
            raise UserError(f"pools={list(self.pools)}: each is judged by the others, so give at least 2.")
        require_counts(
            self, "d", "n_context", "n_layers", "width", "ffn_width", "steps", "batch", "n_prompts", "n_seeds"
        )
        if self.n_kept < 2 or min(self.pools) < 1:
            raise UserError(f"n_kept={self.n_kept} must be at least 2, and pools={list(self.pools)} each at least 1.")


@recipe("wurgaft-strategies")
class Strategies(Recipe[StrategySettings]):
    """Small transformers trained on linear regression with weights from pools of several sizes, during training.

    The memorising predictor is the posterior mean over the pool (dMMSE), the generalising one ridge regression with the
    prior that the pool was drawn from. A model's answer at the query is compared with w times the first plus 1 − w
    times the second. After t steps on M tasks the posterior says log w/(1 − w) = γ t^a ΔL(M) − κ M^c: evidence, by the
    loss that memorising saves on its own tasks in nats, against complexity. Loss against complexity is the paper's,
    these powers are our form of it. Its four numbers are fitted to all pools but one, and judged on that one, in turn.
    """

    title = "Memorising and generalising predictors over training, fitted"
    reference = "Wurgaft et al. 2025"
    claims = (PREDICTED, BETTER, TIMESCALE)
    quick = Preset(
        StrategySettings(
            pools=(4, 16, 64),
            d=3,
            n_context=8,
            steps=800,
            n_kept=5,
            batch=32,
            learning_rate=3e-3,
            n_prompts=500,
            n_seeds=3,
        ),
        seconds=30,
    )
    paper = Preset(StrategySettings(), seconds=9000)
    more: ClassVar[Mapping[str, Preset[StrategySettings]]] = {
        "short": Preset(
            StrategySettings(
                pools=(4, 8, 16, 32, 64, 128),
                d=3,
                n_context=8,
                steps=1500,
                n_kept=6,
                batch=32,
                learning_rate=3e-3,
                n_seeds=3,
            ),
            seconds=90,
        )
    }

    def parts(self, settings: StrategySettings) -> list[Part]:
        """Return one part per number of tasks, with all its seeds."""
        return [{"tasks": n_tasks} for n_tasks in settings.pools]

    def measure(self, part: Part, settings: StrategySettings, progress: Progress) -> Table:
        """Return, by seed, step and kind of prompts, the products that every mixture's error follows from."""
        configs = [_config(settings, int(part["tasks"] or 0), seed) for seed in range(settings.n_seeds)]
        fresh = Linear(d=settings.d, noise_std=settings.noise_std)
        generalising = build_estimator("ridge", {"alpha": settings.noise_std**2})
        rows: list[dict[str, Cell]] = []
        for config, kept in zip(configs, train_through(configs, kept_steps(settings), progress), strict=True):
            task = config.make_task()
            optimal = task.optimal()
            memorising = build_estimator(optimal.estimator, optimal.options)
            saved = 0.0
            for kind, of in (("pool", task), ("fresh", fresh)):
                prompt = fresh_prompts(of, config.seed, settings.n_prompts, settings.n_context)
                by_pool, by_prior = memorising.predict(prompt), generalising.predict(prompt)
                if kind == "pool":
                    lost = squared_error(by_prior, prompt.target) - squared_error(by_pool, prompt.target)
                    saved = lost / (2 * settings.noise_std**2)
                for step, run in kept.items():
                    answers = answers_of(double_model(run), prompt)[:, -1]
                    rows.append(
                        {
                            "seed": config.seed,
                            "status": run.status,
                            "step": step,
                            "prompts": kind,
                            "saved": saved,
                            "between": squared_error(by_pool, by_prior),
                            "along": float(((by_pool - by_prior) * (answers - by_prior)).mean()),
                            "from_prior": squared_error(answers, by_prior),
                            "variance": float(answers.var()),
                        }
                    )
        return Table(rows)

    def check(self, table: Table, settings: StrategySettings) -> list[Verdict]:
        """Return how well the posterior, fitted to the other pools, predicts each pool's models."""
        kept = [held_out(table, settings, pool) for pool in settings.pools]
        explained = {pool: one["posterior"] for pool, one in zip(settings.pools, kept, strict=True)}
        worst = min(explained, key=lambda pool: float(explained[pool].mean()))
        everywhere = {name: np.mean([one[name] for one in kept], 0) for name in kept[0]}
        gains = {
            name: seed_mean(everywhere["posterior"] - values)
            for name, values in everywhere.items()
            if name != "posterior"
        }
        odds, most = fitted(conditions(table)), ceiling(table, settings)
        turns = turning_steps(table, settings)
        words = ", ".join(f"{name} {values.mean():.3f}" for name, values in everywhere.items())
        verdicts = [
            PREDICTED.judged(
                float(explained[worst].mean()) >= NEAR,
                "share of the variance of the answers that is explained with the pool that was left out: "
                + ", ".join(f"{pool} tasks {values.mean():.3f}" for pool, values in explained.items())
                + f"; fitted to all pools: {odds}. The best weight of every pool and step would explain {most:.3f}, so "
                "much of the answers lies between the two predictors",
                f"its mean over seeds, steps and both kinds of prompts is at least {NEAR:g} for every pool",
            ),
            BETTER.judged(
                min(gain.low for gain in gains.values()) > 0,
                f"share explained, mean over the pools that were left out: {words}; more than "
                + ", ".join(f"{name} by {gain:.3f}" for name, gain in gains.items()),
                "the intervals of all three differences, paired by seed, lie above 0",
            ),
        ]
        if len(turns) < 3:
            said = ", ".join(f"{pool} tasks after {step:.0f} steps" for pool, step in turns.items()) or "none"
            return [
                *verdicts,
                TIMESCALE.untested(
                    f"A slope needs three pools whose models turn from w < 1/2 to w > 1/2 at the steps kept: {said}."
                ),
            ]
        slope = np.polyfit(np.log(list(turns)), np.log(list(turns.values())), 1)[0]
        return [
            *verdicts,
            TIMESCALE.judged(
                slope > 1,
                "w passes 1/2 after "
                + ", ".join(f"{step:.0f} steps with {pool} tasks" for pool, step in turns.items())
                + f": power {slope:.2f}",
                "the power of the number of tasks, by least squares on logarithms, is above 1",
            ),
        ]

    def plot(self, table: Table, settings: StrategySettings) -> Figure:
        """Return the best weight at every step beside the posterior's, and the share explained by pool."""
        figure = new_figure(10.5, 4.2)
        left, right = figure.subplots(1, 2)
        odds, steps = fitted(conditions(table)), kept_steps(settings)
        for place, pool in enumerate(settings.pools):
            found = [_joined(table.where(tasks=pool, step=step)) for step in steps]
            colour = f"C{place % 6}"
            left.plot(steps, [one.best for one in found], "o", color=colour, label=f"{pool} tasks")
            left.plot(steps, [odds.weight(one) for one in found], "-" if place < 6 else "--", color=colour)
        left.axhline(0.5, color="0.5", linewidth=1, linestyle=":")
        log_ticks(left.xaxis, steps[:: max(1, len(steps) // 5)])
        left.set(xlabel="steps of training", ylabel="weight of the memorising predictor", ylim=(-0.1, 1.1))
        left.set_title("points: nearest to the models; lines: posterior")
        left.legend(fontsize="small", ncols=2)
        kept = [held_out(table, settings, pool) for pool in settings.pools]
        for name in kept[0]:
            right.plot(settings.pools, [one[name].mean() for one in kept], "o-", label=name)
        log_ticks(right.xaxis, settings.pools)
        right.set(
            xlabel="tasks of the pool that was left out", ylabel="share of the variance explained", ylim=(-0.5, 1.05)
        )
        right.legend(fontsize="small")
        return figure


def kept_steps(settings: StrategySettings) -> list[int]:
    """Return the steps at which models are compared: a constant factor apart, from a tenth of all to the last."""
    places = range(settings.n_kept)
    return sorted({max(1, round(settings.steps * 10 ** (place / (settings.n_kept - 1) - 1))) for place in places})


def conditions(rows: Table) -> list[Condition]:
    """Return what the odds are fitted to: every run at every step, on either kind of prompts."""
    return [Condition.of(row) for row in rows]


def held_out(table: Table, settings: StrategySettings, pool: int) -> dict[str, np.ndarray]:
    """Return the share of variance explained on a pool's models by seed, by what was fitted to the others."""
    rest = [one for one in conditions(table) if one.tasks != pool]
    odds = fitted(rest)
    constant = squares(rest).best
    ways = {
        "posterior": odds.weight,
        "memorising": lambda one: 1.0,
        "generalising": lambda one: 0.0,
        "one mixture": lambda one: min(1.0, max(0.0, constant)),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(settings.n_seeds):
        own = conditions(table.where(tasks=pool, seed=seed))
        for name, weight in ways.items():
            missed = sum(one.error(weight(one)) for one in own)
            found[name].append(1 - missed / sum(one.variance for one in own))
    return {name: np.array(values) for name, values in found.items()}


def ceiling(table: Table, settings: StrategySettings) -> float:
    """Return the share of variance that one weight for every pool and step explains: no posterior does better."""
    joined = [_joined(table.where(tasks=pool, step=step)) for pool in settings.pools for step in kept_steps(settings)]
    return 1 - sum(one.error(min(1.0, max(0.0, one.best))) for one in joined) / sum(one.variance for one in joined)


def turning_steps(table: Table, settings: StrategySettings) -> dict[int, float]:
    """Return, for pools whose models do so, the step at which their best weight passes 1/2 upwards, linear in log t."""
    found, steps = {}, kept_steps(settings)
    for pool in settings.pools:
        best = [_joined(table.where(tasks=pool, step=step)).best for step in steps]
        for place in range(len(steps) - 1):
            if best[place] < 0.5 <= best[place + 1]:
                part = (0.5 - best[place]) / (best[place + 1] - best[place])
                found[pool] = steps[place] * (steps[place + 1] / steps[place]) ** part
                break
    return found


def _joined(rows: Table) -> Condition:
    return squares(conditions(rows))


def _config(settings: StrategySettings, n_tasks: int, seed: int) -> RunConfig:
    pool = {"d": settings.d, "n_tasks": n_tasks, "noise_std": settings.noise_std, "seed": seed}
    sizes = {"n_layers": settings.n_layers, "n_heads": 2, "width": settings.width, "ffn_width": settings.ffn_width}
    model = {"name": "transformer", **sizes, "norm": "pre", "tokens": "joint", "query_in_keys": False}
    rates = {"schedule": "constant", "warmup": min(100, settings.steps)}
    return query_run(settings, seed, {"name": "pool", **pool}, model, **rates)
