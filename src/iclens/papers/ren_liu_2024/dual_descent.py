"""Ren & Liu's Fig. 3, left: the dual model's prediction on its way to the attention output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from iclens.features import FeatureMap, Mercer, PositiveRandomFeatures, TaylorFeatures
from iclens.papers.ren_liu_2024.softmax_layer import random_layer
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.seed_curves import Curve, seed_curve, seed_estimate
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"

ONE_STEP = Claim(
    "The attention output of the query equals the test prediction of the dual model f(x) = W φ(x) after one step of "
    "gradient descent.",
    f"{_PAPER}, Theorem 3.1",
    "stated",
)
ANY_ORDER = Claim(
    "One demonstration at a time in any order, or all of them in small steps: gradient descent ends at the same place.",
    f"{_PAPER}, Theorem 3.1 and Fig. 3, left: the loss is linear in W",
    "derived",
)
NOT_MONOTONE = Claim(
    "One demonstration at a time, the distance to the attention output does not fall at every step; in full-batch "
    "steps it falls on a straight line.",
    f"{_PAPER}, Fig. 3, left: the loss is linear in W",
    "derived",
)
OWN_FEATURES = Claim(
    "With random or Taylor features training ends exactly at the attention that uses the same features, and as far "
    "from softmax attention as those features are.",
    f"{_PAPER}, positive random features",
    "derived",
)

FULL_BATCH = "full batch"
MERCER = "Mercer"


@dataclass(frozen=True)
class DescentSettings:
    """The layer, the features, and the orders of the demonstrations."""

    n_demonstrations: int = stated(15, "the synthetic experiments")
    d: int = chosen(11, "width of a token (x, y); the paper's could not be read")
    logit_scale: float = chosen(1.0, "factor of the scores beside d^(−1/2)")
    n_features: int = chosen(1000, "positive random features")
    taylor_order: int = chosen(4, "degree of the Taylor features: 1,365 of them")
    n_orders: int = chosen(4, "orders of the demonstrations: the prompt's and random ones")
    n_seeds: int = chosen(50)


@recipe("ren-liu-fig-3-left")
class DualDescent(Recipe[DescentSettings]):
    """‖W φ(q) − h'‖₂ while W is trained by autograd on the dual's loss, h' being the softmax attention output.

    A random softmax layer on a linear task for every seed. W starts at W_0, the part of the query's own token, and
    takes one demonstration a step in several orders, or as many full-batch steps at η/N. Mercer features are exact on
    the given tokens; positive random and Taylor features are not. The equality is an identity: it holds for any
    weights and data, and is no evidence of learning.
    """

    title = "Gradient descent on the dual model ends at the attention output"
    reference = f"{_PAPER} (arXiv 2310.13220), Fig. 3, left, and Theorem 3.1"
    claims = (ONE_STEP, ANY_ORDER, NOT_MONOTONE, OWN_FEATURES)
    quick = Preset(DescentSettings(n_seeds=20), seconds=2)
    paper = Preset(DescentSettings(), seconds=7)

    def parts(self, settings: DescentSettings) -> list[Part]:
        """Return one part per seed."""
        return [{"seed": seed} for seed in range(settings.n_seeds)]

    def measure(self, part: Part, settings: DescentSettings, progress: Progress) -> Table:
        """Distances after every step, relative to the length of the attention output."""
        seed = int(part["seed"] or 0)
        generator = torch.Generator().manual_seed(seed)
        dual = random_layer(generator, settings.n_demonstrations, settings.d).dual(settings.logit_scale)
        length = float(dual.predict().norm())
        n = settings.n_demonstrations
        orders: dict[str, tuple[int, Literal["batch"] | Sequence[int]]] = {FULL_BATCH: (n, "batch")}
        orders |= {"in one step": (1, "batch"), "order 0": (1, list(range(n)))}
        for index in range(1, settings.n_orders):
            orders[f"order {index}"] = (1, torch.randperm(n, generator=generator).tolist())
        rows: list[dict[str, float | str]] = []
        for name, features in _features(settings, seed).items():
            explicit = dual.explicit(features)
            for order, (steps, schedule) in orders.items():
                trained = explicit.train(steps, schedule)
                taken = trained.trajectory.shape[-1] - 1
                for step in range(taken + 1):
                    rows.append(
                        {
                            "features": name,
                            "order": order,
                            "step": step * n / taken,
                            "distance": float(trained.trajectory[0, step]) / length,
                            "distance_same_features": float(trained.trajectory_same_features[0, step]) / length,
                        }
                    )
        return Table(rows)

    def check(self, table: Table, settings: DescentSettings) -> list[Verdict]:
        """Distances at the end, and along the way."""
        end = table.where(step=float(settings.n_demonstrations))
        one_step = float(end.where(features=MERCER, order="in one step").column("distance").max())
        every = float(end.where(features=MERCER).column("distance").max())
        verdicts = [
            ONE_STEP.judged(
                one_step <= 1e-10,
                f"largest relative distance {one_step:.1e} over {settings.n_seeds} layers, Mercer features",
                "relative distance ≤ 1e-10 after one step",
            ),
            ANY_ORDER.judged(
                every <= 1e-10,
                f"largest relative distance {every:.1e}, {settings.n_orders} orders and {settings.n_demonstrations} "
                "full-batch steps",
                "relative distance ≤ 1e-10 at the end of each",
            ),
        ]
        rising, bend = self._rising(table, settings), self._bend(table, settings)
        verdicts.append(
            NOT_MONOTONE.judged(
                rising > 0.5 and bend <= 1e-10,
                f"the distance rises at some step in {100 * rising:.0f} % of the orders; full-batch steps leave the "
                f"straight line by at most {bend:.1e}",
                "it rises in more than half of the orders, and deviates from the line by ≤ 1e-10 of the start",
            )
        )
        own, far, found = 0.0, 1.0, []
        for name in end.unique("features"):
            if name == MERCER:
                continue
            rows = end.where(features=name)
            own = max(own, float(rows.column("distance_same_features").max()))
            distance = seed_estimate(rows.where(order="in one step"), "distance")
            far = min(far, float(rows.column("distance").min()))
            found.append(f"{name}: {distance:.2g} from softmax attention")
        return [
            *verdicts,
            OWN_FEATURES.judged(
                own <= 1e-10 and far > 1e-8,
                f"at most {own:.1e} from attention with the same features; {'; '.join(found)}",
                "≤ 1e-10 from attention with the same features, and more than 1e-8 from softmax attention everywhere",
            ),
        ]

    def plot(self, table: Table, settings: DescentSettings) -> Figure:
        """Left: one layer, every order. Right: the features, over all layers."""
        figure = new_figure(9.0, 3.9)
        left, right = figure.subplots(1, 2)
        one = table.where(seed=0, features=MERCER)
        for index in range(settings.n_orders):
            rows = one.where(order=f"order {index}")
            label = "one demonstration a step" if index == 0 else None
            left.plot(rows.column("step"), rows.column("distance"), "C0", alpha=0.45 + 0.55 * (index == 0), label=label)
        rows = one.where(order=FULL_BATCH)
        left.plot(rows.column("step"), rows.column("distance"), "C1o-", ms=4, label="full-batch steps")
        left.set(
            xlabel="demonstrations seen, or steps taken",
            ylabel="‖W φ(q) − h'‖ / ‖h'‖",
            ylim=(0, None),
            title=f"one layer, Mercer features, {settings.n_orders} orders",
        )
        left.legend()
        for name in table.unique("features"):
            curve = seed_curve(table.where(features=name, order="order 0"), "step", "distance")
            seen = Curve(curve.x, *(np.maximum(of, 1e-17) for of in (curve.mean, curve.low, curve.high)))
            band(right, seen, str(name))
        right.set(
            xlabel="demonstrations seen",
            ylabel="‖W φ(q) − h'‖ / ‖h'‖",
            yscale="log",
            ylim=(1e-17, 10),
            title=f"mean of {settings.n_seeds} layers, 95 % interval",
        )
        right.legend()
        return figure

    @staticmethod
    def _rising(table: Table, settings: DescentSettings) -> float:
        """Share of layers and orders in which some step takes the prediction farther away."""
        rises = []
        for index in range(settings.n_orders):
            rows = table.where(features=MERCER, order=f"order {index}")
            distances = rows.column("distance").reshape(settings.n_seeds, -1)
            rises.append((np.diff(distances, axis=1) > 1e-12).any(1))
        return float(np.mean(rises))

    @staticmethod
    def _bend(table: Table, settings: DescentSettings) -> float:
        """Largest deviation of the full-batch distances from the straight line to 0, relative to the start."""
        rows = table.where(features=MERCER, order=FULL_BATCH)
        distances = rows.column("distance").reshape(settings.n_seeds, -1)
        line = 1 - rows.column("step").reshape(settings.n_seeds, -1) / settings.n_demonstrations
        return float(np.abs(distances / distances[:, :1] - line).max())


def _features(settings: DescentSettings, seed: int) -> dict[str, FeatureMap]:
    return {
        MERCER: Mercer(),
        f"{settings.n_features} positive random": PositiveRandomFeatures(settings.n_features, seed=seed),
        f"Taylor, order {settings.taylor_order}": TaylorFeatures(settings.taylor_order),
    }
