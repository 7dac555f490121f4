"""Raventós et al.: how many pretraining tasks until a model leaves them behind?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from iclens.estimators.estimator import build_estimator
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts, squared_error
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.linear import Linear
from iclens.training.config import RunConfig

_SOURCE = "the question of Raventós et al. 2023"
_asked = partial(Claim, source=_SOURCE, trust="asked")

FEW = _asked(
    "Trained on few tasks, a model answers fresh tasks as the posterior mean over its pool (dMMSE) does, not as ridge "
    "regression does."
)
NEAR = 0.25
"""Largest squared distance to ridge regression, relative to the mean square of its answers, of a pool beyond the
threshold: that of half of its answers. Nearer to it than to dMMSE is also a model that has hardly learned."""

THRESHOLD = _asked(
    "There is a threshold in the number of pretraining tasks, above which it answers fresh tasks more like ridge "
    "regression."
)
BEYOND = _asked(
    "Above the threshold it has a lower error on fresh tasks than dMMSE, the best answer under its own pretraining."
)


@dataclass(frozen=True)
class PoolSettings:
    """The pools, the model and its training; the paper's numbers are not known to us."""

    pools: tuple[int, ...] = chosen((2, 8, 32, 128, 512, 2048, 8192), "numbers of pretraining tasks")
    d: int = chosen(8)
    n_context: int = chosen(16)
    noise_std: float = chosen(0.5, "σ, with τ = 1: ridge regression with α = 0.25")
    n_layers: int = chosen(2)
    width: int = chosen(32)
    ffn_width: int = chosen(64)
    steps: int = chosen(10000, "of Adam")
    batch: int = chosen(64)
    learning_rate: float = chosen(3e-3, "cosine schedule")
    n_prompts: int = chosen(2000, "fresh prompts, on the pool and on fresh tasks")
    n_seeds: int = chosen(5, "of weights, prompts and pools together")


@recipe("raventos-threshold")
class TaskDiversity(Recipe[PoolSettings]):
    """Small transformers trained on noisy linear regression whose weights come from a pool of M fixed vectors.

    Two layers of softmax attention with feed-forward networks and LayerNorm, on joint tokens (x, y), answer the query.
    Every seed has its own pool, and larger pools contain the smaller ones. On fresh prompts in float64, with weights
    from the pool and with fresh weights from N(0, I), the answers are compared with dMMSE and with ridge regression.
    With many tasks dMMSE and ridge regression become the same, so only pools where they differ can tell them apart.
    """

    title = "How many pretraining tasks until in-context learning is general"
    reference = "Raventós et al. 2023"
    claims = (FEW, THRESHOLD, BEYOND)
    quick = Preset(PoolSettings(pools=(2, 4, 8, 32, 128), d=3, n_context=8, steps=1000, n_prompts=1000), seconds=80)
    paper = Preset(PoolSettings(), seconds=1350)

    def parts(self, settings: PoolSettings) -> list[Part]:
        """Return one part per number of tasks, with all its seeds."""
        return [{"tasks": n_tasks} for n_tasks in settings.pools]

    def measure(self, part: Part, settings: PoolSettings, progress: Progress) -> Table:
        """Errors of every run, of dMMSE and of ridge, and the distances between them."""
        configs = [_config(settings, int(part["tasks"] or 0), seed) for seed in range(settings.n_seeds)]
        fresh = Linear(d=settings.d, noise_std=settings.noise_std)
        ridge = build_estimator("ridge", {"alpha": settings.noise_std**2})
        rows: list[dict[str, Cell]] = []
        for run in train_all(configs, progress):
            task, seed, model = run.config.make_task(), run.config.seed, double_model(run)
            optimal = task.optimal()
            pool = build_estimator(optimal.estimator, optimal.options)
            for kind, of in (("pool", task), ("fresh", fresh)):
                prompt = fresh_prompts(of, seed, settings.n_prompts, settings.n_context)
                answers = answers_of(model, prompt)[:, -1]
                by_pool, by_ridge = pool.predict(prompt), ridge.predict(prompt)
                rows.append(
                    {
                        "seed": seed,
                        "status": run.status,
                        "prompts": kind,
                        "error": squared_error(answers, prompt.target),
                        "pool_error": squared_error(by_pool, prompt.target),
                        "ridge_error": squared_error(by_ridge, prompt.target),
                        "from_pool": squared_error(answers, by_pool),
                        "from_ridge": squared_error(answers, by_ridge),
                    }
                )
        return Table(rows)

    def check(self, table: Table, settings: PoolSettings) -> list[Verdict]:
        """On fresh tasks: which of the two is nearer, from which number of tasks on."""
        fresh = table.where(prompts="fresh")
        nearer = {n: seed_mean(_share(fresh.where(tasks=n))) for n in settings.pools}
        away = {n: seed_mean(distance_from_ridge(fresh.where(tasks=n), settings)) for n in settings.pools}
        # No interval may cross one half: such a pool is on neither side.
        above = [n for n in settings.pools if nearer[n].low > 0.5]
        of_ridge = [n for n in above if away[n].high <= NEAR]
        of_pool = [n for n in settings.pools if nearer[n].high < 0.5]
        said = ", ".join(f"{n} tasks {nearer[n]:.2f}" for n in settings.pools)
        distances = ", ".join(f"{n} tasks {away[n]:.2f}" for n in settings.pools)
        means = {n: fresh.where(tasks=n).column("error").mean() for n in settings.pools}
        errors = "error on fresh tasks " + ", ".join(f"{n} tasks {mean:.2f}" for n, mean in means.items())
        errors += f", ridge regression {fresh.column('ridge_error').mean():.2f}"
        few = settings.pools[0]
        first = fresh.where(tasks=few)
        parted = bool(of_ridge) and bool(of_pool) and max(of_pool) < min(above)
        verdicts = [
            FEW.judged(
                nearer[few].high < 0.5,
                f"with {few} tasks the mean squared distance to dMMSE is {seed_mean(first.column('from_pool')):.2f}, "
                f"to ridge regression {seed_mean(first.column('from_ridge')):.2f}",
                "the share of the distance to dMMSE in the sum of both has an interval below 0.5",
            ),
            THRESHOLD.judged(
                parted,
                f"share of the distance to dMMSE in the sum of both: {said}; squared distance to ridge regression over "
                f"the mean square of its answers: {distances}; {errors}"
                + (f"; the threshold lies between {max(of_pool)} and {min(of_ridge)} tasks" if parted else ""),
                "intervals of the share lie below 0.5 for some pools and above 0.5 for some larger ones, and for none "
                f"the other way round; above, the interval of the relative distance to ridge regression ends below "
                f"{NEAR:g}, that of half of its answers",
            ),
        ]
        if not parted:
            return [*verdicts, BEYOND.untested("No threshold was found.")]
        gains = {}
        for n in of_ridge:
            rows = fresh.where(tasks=n)
            # Any of them would do.
            gains[n] = over_seeds(torch.from_numpy(rows.column("pool_error") - rows.column("error")), len(of_ridge))
        won = [n for n in of_ridge if gains[n].low > 0]
        return [
            *verdicts,
            BEYOND.judged(
                bool(won),
                "error of dMMSE minus that of the model: "
                + ", ".join(f"{n} tasks {gains[n]:.2f}" for n in of_ridge)
                + f"; {errors}",
                "its interval, paired by seed and corrected for the number of pools above the threshold, lies above 0 "
                "for one of them",
                "" if len(won) == len(of_ridge) else f"the pool has {' or '.join(map(str, won))} tasks",
            ),
        ]

    def plot(self, table: Table, settings: PoolSettings) -> Figure:
        """Errors against the number of tasks, on the pool and on fresh tasks, and which algorithm is nearer."""
        figure = new_figure(12.0, 4.0)
        axes = figure.subplots(1, 3)
        names = {"error": "model", "pool_error": "dMMSE", "ridge_error": "ridge"}
        titles = {"pool": "weights of the pool", "fresh": "fresh weights"}
        for ax, (kind, title) in zip(axes, titles.items(), strict=False):
            rows = table.where(prompts=kind)
            for column, label in names.items():
                band(ax, seed_curve(rows, "tasks", column), label, least=0.1, marker="o", markersize=4)
            log_ticks(ax.yaxis, [0.25, 0.35, 0.5, 0.7, 1, 2, 4, 8])
            ax.set(ylabel="squared error, noise included", title=title)
            ax.legend()
        fresh = table.where(prompts="fresh")
        shares = Table({"tasks": row["tasks"], "share": value} for row, value in zip(fresh, _share(fresh), strict=True))
        band(axes[2], seed_curve(shares, "tasks", "share"), "model", marker="o", markersize=4)
        axes[2].axhline(0.5, color="0.5", linestyle="--", label="as far from both")
        axes[2].set(ylabel="distance to dMMSE / (to dMMSE + to ridge)", title="fresh weights", ylim=(0, 1))
        axes[2].legend()
        for ax in axes:
            log_ticks(ax.xaxis, settings.pools)
            ax.set(xlabel="number of pretraining tasks")
        return figure


def _share(rows: Table) -> np.ndarray:
    """Distance to dMMSE in the sum of both: 0 is dMMSE, 1 is ridge regression."""
    pool, ridge = rows.column("from_pool"), rows.column("from_ridge")
    return np.asarray(pool / (pool + ridge))


def distance_from_ridge(rows: Table, settings: PoolSettings) -> np.ndarray:
    """Squared distance to ridge regression on fresh tasks over the mean square of its answers, in expectation.

    Ridge regression is Bayes' answer there, so that the mean square of its answers is that of the labels less its
    error.
    """
    labels = settings.d + settings.noise_std**2
    return np.asarray(rows.column("from_ridge") / (labels - rows.column("ridge_error")))


def _config(settings: PoolSettings, n_tasks: int, seed: int) -> RunConfig:
    pool = {"d": settings.d, "n_tasks": n_tasks, "noise_std": settings.noise_std, "seed": seed}
    sizes = {"n_layers": settings.n_layers, "n_heads": 2, "width": settings.width, "ffn_width": settings.ffn_width}
    model = {"name": "transformer", **sizes, "norm": "pre", "tokens": "joint", "query_in_keys": False}
    return query_run(settings, seed, {"name": "pool", **pool}, model, warmup=min(100, settings.steps))
