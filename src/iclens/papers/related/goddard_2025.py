"""Goddard et al.: from how wide a cap of tasks on does a model answer tasks outside it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch

from iclens.errors import UserError
from iclens.estimators.estimator import Estimator, build_estimator
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts, squared_error
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import Curve, seed_curve, seed_mean
from iclens.recipes.settings import chosen, require_counts
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.spherical_cap import SphericalCap
from iclens.training.config import RunConfig
from iclens.training.default_dtype import default_dtype

_stated = partial(Claim, source="Goddard et al. 2025 (arXiv 2506.05574), abstract", trust="stated")
_asked = partial(Claim, source="a question on Goddard et al. 2025", trust="asked")

SPECIALISED = _stated("Trained on a narrow cap of tasks, a model learns in context within the cap and not beyond it.")
TRANSITION = _stated("As the cap widens there is a transition to a solution that answers tasks of the whole sphere.")
BEYOND = _asked(
    "Beyond the transition, with tasks still left out of training, it answers those better than the Bayes predictor of "
    "its training does."
)
LEARNT = 0.25
"""Largest part of the way from ridge regression to answering 0 that a model may be from ridge regression to count as
general."""

LOST = 0.75
"""Least part of that way of a model that counts as specialised."""


@dataclass(frozen=True)
class CapSettings:
    """The caps, the model and its training; the paper's numbers are not known to us."""

    angles: tuple[float, ...] = chosen(
        (15.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0), "half-angles of the caps of training, in degrees"
    )
    n_bands: int = chosen(6, "bands of equal width from pole to pole, on which models are asked")
    d: int = chosen(8)
    n_context: int = chosen(16)
    noise_std: float = chosen(0.25, "σ, with weights of norm 1")
    n_layers: int = chosen(2)
    width: int = chosen(32)
    ffn_width: int = chosen(64)
    steps: int = chosen(10000, "of Adam")
    batch: int = chosen(64)
    learning_rate: float = chosen(3e-3, "cosine schedule")
    n_prompts: int = chosen(1000, "fresh prompts of every band")
    n_drawn: int = chosen(20000, "tasks of the cap for which the sum of the Bayes predictor stands")
    n_bayes: int = chosen(200, "prompts of every band that the Bayes predictor answers")
    n_seeds: int = chosen(5, "of weights and prompts together")

    def __post_init__(self) -> None:
        if not self.angles or not all(0 < angle <= 180 for angle in self.angles):
            raise UserError(f"angles={list(self.angles)}: give half-angles of caps, in degrees above 0 and up to 180.")
        require_counts(
            self, "n_bands", "n_context", "n_layers", "width", "ffn_width", "steps", "batch", "n_prompts", "n_drawn",
            "n_bayes", "n_seeds",
        )  # fmt: skip


@recipe("goddard-spherical-cap")
class CapOfTasks(Recipe[CapSettings]):
    """Small transformers trained on noisy linear regression whose weights come from a cap of the sphere.

    Two layers of softmax attention with feed-forward networks and LayerNorm, on joint tokens (x, y), answer the query.
    Weights of norm 1 lie within some angle of one direction. On fresh prompts in float64 a model is asked on bands from
    that direction to the opposite one, beside ridge regression with the prior of the whole sphere and the Bayes
    predictor of its training, a sum over many tasks drawn from its cap. A band is outside where it has no part in the
    cap.
    """

    title = "How wide a cap of tasks until in-context learning reaches the whole sphere"
    reference = "Goddard et al. 2025"
    claims = (SPECIALISED, TRANSITION, BEYOND)
    quick = Preset(
        CapSettings(
            angles=(15.0, 90.0, 180.0), d=3, n_context=8, steps=800, batch=32, n_prompts=500, n_drawn=4000, n_seeds=3
        ),
        seconds=60,
    )
    paper = Preset(CapSettings(), seconds=3600)
    more: ClassVar[Mapping[str, Preset[CapSettings]]] = {
        "short": Preset(
            CapSettings(
                angles=(15.0, 45.0, 75.0, 105.0, 135.0, 180.0),
                d=3,
                n_context=10,
                steps=1500,
                batch=32,
                n_drawn=5000,
                n_bayes=100,
                n_seeds=3,
            ),
            seconds=120,
        )
    }

    def parts(self, settings: CapSettings) -> list[Part]:
        """Return one part per cap, with all its seeds."""
        return [{"angle": angle} for angle in settings.angles]

    def measure(self, part: Part, settings: CapSettings, progress: Progress) -> Table:
        """Return the errors of every run, of ridge regression and of the Bayes predictor, on every band."""
        angle = float(part["angle"] or 0)
        configs = [_config(settings, angle, seed) for seed in range(settings.n_seeds)]
        ridge = build_estimator("ridge", {"alpha": settings.noise_std**2 * settings.d})
        rows: list[dict[str, Cell]] = []
        for run in train_all(configs, progress):
            seed, model = run.config.seed, double_model(run)
            cap = run.config.make_task()
            assert isinstance(cap, SphericalCap)
            bayes = cap_predictor(cap, settings.n_drawn)
            for inner, outer in bands(settings):
                prompt = fresh_prompts(_task(settings, outer, inner), seed, settings.n_prompts, settings.n_context)
                some = fresh_prompts(_task(settings, outer, inner), seed, settings.n_bayes, settings.n_context)
                ours = answers_of(model, prompt)[:, -1]
                rows.append(
                    {
                        "seed": seed,
                        "status": run.status,
                        "inner": inner,
                        "outer": outer,
                        "outside": inner >= angle,
                        "error": squared_error(ours, prompt.target),
                        "ridge_error": squared_error(ridge.predict(prompt), prompt.target),
                        "zero_error": float(prompt.target.square().mean()),
                        "bayes_error": squared_error(bayes.predict(some), some.target),
                        "error_beside_bayes": squared_error(answers_of(model, some)[:, -1], some.target),
                    }
                )
            own = fresh_prompts(cap, seed, settings.n_prompts, settings.n_context)
            rows.append(
                {
                    "seed": seed,
                    "status": run.status,
                    "own_error": squared_error(answers_of(model, own)[:, -1], own.target),
                    "own_ridge_error": squared_error(ridge.predict(own), own.target),
                }
            )
        return Table(rows)

    def check(self, table: Table, settings: CapSettings) -> list[Verdict]:
        """On the last band, opposite to the caps: how near to ridge regression, from which cap on."""
        last = bands(settings)[-1][0]
        opposite = table.where(inner=last)
        way = {angle: seed_mean(_way(opposite.where(angle=angle))) for angle in settings.angles}
        said = ", ".join(f"{angle:g}° {way[angle]:.2f}" for angle in settings.angles)
        narrow = settings.angles[0]
        own = table.where(angle=narrow).only("own_error")
        gain = seed_mean(own.column("own_ridge_error") - own.column("own_error"))
        learnt = seed_mean(mean_task_error(_task(settings, narrow)) - own.column("own_error"))
        lost = [angle for angle in settings.angles if way[angle].low > LOST]
        general = [angle for angle in settings.angles if way[angle].high < LEARNT]
        parted = bool(lost) and bool(general) and max(lost) < min(general)
        beyond = [angle for angle in general if angle <= last]
        verdicts = [
            SPECIALISED.judged(
                min(gain.low, learnt.low) > 0 and way[narrow].low > LOST,
                f"with {narrow:g}°: on tasks of its cap the error of ridge regression minus the model's is {gain:.3f}, "
                f"that of answering with the mean task, without the context, minus the model's {learnt:.3f}; on the "
                f"opposite band it is at {way[narrow]:.2f} of the way from ridge regression to answering 0",
                f"the intervals of the first two lie above 0, that of the last above {LOST:g}",
            ),
            TRANSITION.judged(
                parted,
                f"part of the way from ridge regression to answering 0 on the band from {last:g}° to 180°: {said}"
                + (f"; the transition lies between {max(lost):g}° and {min(general):g}°" if parted else ""),
                f"for some caps its interval lies above {LOST:g}, and for some wider ones below {LEARNT:g}",
            ),
        ]
        if not beyond:
            why = "No cap leaves the opposite band out and has a model that is general there."
            return [*verdicts, BEYOND.untested(why)]
        gains = {}
        for angle in beyond:
            rows = opposite.where(angle=angle)
            gains[angle] = seed_mean(rows.column("bayes_error") - rows.column("error_beside_bayes"))
        won = [angle for angle in beyond if gains[angle].low > 0]
        return [
            *verdicts,
            BEYOND.judged(
                len(won) == len(beyond),
                f"error of the Bayes predictor minus that of the model on the band from {last:g}° to 180°: "
                + ", ".join(f"{angle:g}° {gains[angle]:.3f}" for angle in beyond),
                "its interval, paired by seed, lies above 0 for every cap that leaves the band out and is general",
            ),
        ]

    def plot(self, table: Table, settings: CapSettings) -> Figure:
        """Return the errors by band, one curve a cap; and the part of the way to answering 0 by cap."""
        figure = new_figure(10.0, 4.2)
        left, right = figure.subplots(1, 2)
        asked = table.only("inner")
        middles = Table({**row, "middle": (float(row["inner"] or 0) + float(row["outer"] or 0)) / 2} for row in asked)
        for angle in settings.angles:
            curve = seed_curve(middles.where(angle=angle), "middle", "error")
            band(left, curve, f"cap of {angle:g}°", least=0.05, marker="o", markersize=4)
        ridge = seed_curve(middles.where(angle=settings.angles[0]), "middle", "ridge_error")
        left.plot(ridge.x, ridge.mean, "--", color="0.5", label="ridge regression")
        log_ticks(left.yaxis, [0.05, 0.1, 0.2, 0.5, 1, 2, 5])
        left.set(xlabel="angle of the task and the pole, degrees", ylabel="squared error, noise included")
        left.legend(fontsize="small")
        band(right, _ways(asked, settings, outside=True), "bands outside", marker="o", markersize=4)
        band(right, _ways(asked, settings, outside=False), "bands of the cap", marker="s", markersize=4)
        for level in (0, 1):
            right.axhline(level, color="0.5", linestyle="--", linewidth=1)
        right.set(
            xlabel="half-angle of the cap of training, degrees", ylabel="from ridge regression (0) to answering 0 (1)"
        )
        right.legend()
        return figure


def bands(settings: CapSettings) -> list[tuple[float, float]]:
    """Return the bands of the sphere on which models are asked: least and largest angle, in degrees."""
    ends = [180 * place / settings.n_bands for place in range(settings.n_bands + 1)]
    return list(pairwise(ends))


def cap_predictor(cap: SphericalCap, n_drawn: int) -> Estimator:
    """Return the Bayes predictor of a cap: the posterior mean over tasks drawn from it, which tends to it with many."""
    with default_dtype(torch.float64):
        drawn = cap.sample_function(torch.Generator().manual_seed(0), (n_drawn,))["weight"].squeeze(-1)
    return build_estimator("finite-pool", {"pool": drawn, "noise_std": cap.noise_std})


def mean_task_error(cap: SphericalCap) -> float:
    """Return E (E[w]ᵀx − y)² = ‖w‖² (1 − (E cos θ)²) + σ², the error of the best answer that no context enters."""
    return cap.weight_norm**2 * (1 - cap.moments()[0] ** 2) + cap.noise_std**2


def _way(rows: Table) -> np.ndarray:
    """Return the part of the way from ridge regression to answering 0, one a row."""
    error, ridge, zero = (rows.column(name) for name in ("error", "ridge_error", "zero_error"))
    return np.asarray((error - ridge) / (zero - ridge))


def _ways(asked: Table, settings: CapSettings, *, outside: bool) -> Curve:
    rows = []
    for angle in settings.angles:
        for seed in range(settings.n_seeds):
            found = asked.where(angle=angle, seed=seed, outside=outside)
            if len(found):
                rows.append({"angle": angle, "way": float(_way(found).mean())})
    return seed_curve(Table(rows), "angle", "way")


def _task(settings: CapSettings, angle: float, inner: float = 0.0) -> SphericalCap:
    return SphericalCap(d=settings.d, angle=angle, inner=inner, noise_std=settings.noise_std)


def _config(settings: CapSettings, angle: float, seed: int) -> RunConfig:
    task = {"name": "spherical-cap", "d": settings.d, "angle": angle, "noise_std": settings.noise_std}
    sizes = {"n_layers": settings.n_layers, "n_heads": 2, "width": settings.width, "ffn_width": settings.ffn_width}
    model = {"name": "transformer", **sizes, "norm": "pre", "tokens": "joint", "query_in_keys": False}
    return query_run(settings, seed, task, model, warmup=min(100, settings.steps))
