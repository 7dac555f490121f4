"""Ren & Liu's Figs. 6–8: attention under positive random features against exact softmax attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iclens.features import PositiveRandomFeatures
from iclens.intervals import Estimate
from iclens.papers.ren_liu_2024.softmax_layer import random_layer
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.seed_curves import seed_curve, seed_estimate, seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"

CONVERGES = Claim(
    "With more positive random features the attention matrix and the output approach those of softmax attention, like "
    "1/√d_r.",
    f"{_PAPER}, Figs. 6–8; the features are unbiased with variance ∝ 1/d_r",
    "derived",
)
SCALE = Claim(
    "That convergence needs small scores: the relative variance of a kernel value is (exp(‖z_q + z_k‖²) − 1)/d_r, so "
    "no practical number of features helps when queries and keys are long.",
    f"{_PAPER}, Figs. 6–8; Choromanski et al. 2021, Lemma 1",
    "derived",
)
ORTHOGONAL = Claim(
    "Orthogonal features are better than independent ones.",
    f"{_PAPER}, Figs. 6–8: whether the paper's are orthogonal could not be read",
    "asked",
)

KINDS = {False: "independent", True: "orthogonal"}


@dataclass(frozen=True)
class FeatureSettings:
    """The layer, the numbers of features, and the sizes of the scores."""

    n_demonstrations: int = stated(15, "the synthetic experiments")
    d: int = chosen(11, "width of a token (x, y); the paper's could not be read")
    n_features: tuple[int, ...] = chosen((10, 100, 1000, 10000), "the paper shows four values, which could not be read")
    logit_scales: tuple[float, ...] = chosen((0.25, 1.0, 4.0, 16.0), "factors of the scores beside d^(−1/2)")
    n_seeds: int = chosen(50, "layers, each with features of its own")


@recipe("ren-liu-figs-6-8")
class RandomFeatures(Recipe[FeatureSettings]):
    """Attention whose numerator and normaliser use positive random features, against softmax attention.

    A random softmax layer on a linear task for every seed; all 16 tokens ask. Errors of the attention matrix and of
    the output: mean square, mean absolute, and relative in the Frobenius norm, against the number of features, for
    independent and orthogonal directions and for several sizes of the scores.
    """

    title = "Random features approach softmax attention while the scores are small"
    reference = f"{_PAPER} (arXiv 2310.13220), Figs. 6–8"
    claims = (CONVERGES, SCALE, ORTHOGONAL)
    quick = Preset(FeatureSettings(n_seeds=20), seconds=5)
    paper = Preset(FeatureSettings(), seconds=10)
    revision = 2

    def parts(self, settings: FeatureSettings) -> list[Part]:
        """Return one part per seed."""
        return [{"seed": seed} for seed in range(settings.n_seeds)]

    def measure(self, part: Part, settings: FeatureSettings, progress: Progress) -> Table:
        """Errors of every number of features, kind and scale; of the first seed also the matrices and outputs."""
        seed = int(part["seed"] or 0)
        layer = random_layer(torch.Generator().manual_seed(seed), settings.n_demonstrations, settings.d)
        rows: list[dict[str, float | str | bool]] = []
        for scale in settings.logit_scales:
            dual = layer.dual(scale, slice(None))
            exact, output = dual.coefficients, dual.predict()
            if seed == 0:
                rows += _matrix("weight", exact, scale, 0) + _matrix("value", output, scale, 0)
            for n_features in settings.n_features:
                for orthogonal in KINDS:
                    explicit = dual.explicit(PositiveRandomFeatures(n_features, orthogonal, seed=seed))
                    wrong, off = explicit.coefficients - exact, explicit.predict() - output
                    row: dict[str, float | str | bool] = {
                        "logit_scale": scale,
                        "n_features": n_features,
                        "orthogonal": orthogonal,
                    }
                    for name, error, true in (("attention", wrong, exact), ("output", off, output)):
                        row[f"{name}_mse"] = float(error.square().mean())
                        row[f"{name}_mae"] = float(error.abs().mean())
                        row[f"{name}_relative"] = float(error.norm() / true.norm())
                    rows.append(row)
                    if seed == 0 and not orthogonal:
                        rows += _matrix("weight", explicit.coefficients, scale, n_features)
                        rows += _matrix("value", explicit.predict(), scale, n_features)
        return Table(rows)

    def check(self, table: Table, settings: FeatureSettings) -> list[Verdict]:
        """Slopes of the errors, where they stay large, and the two kinds paired by layer."""
        errors = table.only("output_relative")
        few, many = min(settings.n_features), max(settings.n_features)
        calm, wild = min(settings.logit_scales), max(settings.logit_scales)
        slopes = {
            name: _slope(errors.where(orthogonal=False, logit_scale=calm), f"{name}_relative")
            for name in ("attention", "output")
        }
        ends = {
            scale: [
                seed_estimate(errors.where(orthogonal=False, logit_scale=scale, n_features=n), "output_relative")
                for n in (few, many)
            ]
            for scale in settings.logit_scales
        }
        at = "; ".join(
            f"scores × {scale:g}: {first.mean:.2g} with {few}, {last:.2g} with {many}"
            for scale, (first, last) in ends.items()
        )
        converges = all(-0.65 <= slope <= -0.35 for slope in slopes.values())
        stuck, fine = ends[wild][1], ends[calm][1]
        ratios = {
            (scale, n): self._ratio(errors.where(logit_scale=scale, n_features=n))
            for scale in settings.logit_scales
            for n in settings.n_features
        }
        better = {setting for setting, ratio in ratios.items() if ratio.high < 0}
        gentle = all((calm, n) in better for n in settings.n_features)
        everywhere = len(better) == len(ratios)
        return [
            CONVERGES.judged(
                converges,
                f"slopes {slopes['attention']:.2f} (attention matrix) and {slopes['output']:.2f} (output) at scores × "
                f"{calm:g}; relative error of the output, {at}",
                "the slope of the relative error in log–log is −0.5 ± 0.15 for both",
                f"the scores are × {calm:g}",
            ),
            SCALE.judged(
                stuck.low >= 0.3 and fine.high <= 0.05,
                f"relative error of the output with {many} features: {fine:.2g} at scores × {calm:g}, {stuck:.2g} at × "
                f"{wild:g}",
                f"with {many} features the interval is below 0.05 at the smallest scores and above 0.3 at the largest",
            ),
            ORTHOGONAL.judged(
                gentle,
                f"in {len(better)} of {len(ratios)} settings the interval of the ratio lies below 1; geometric means: "
                + ", ".join(f"{math.exp(r.mean):.2f} (× {scale:g}, {n})" for (scale, n), r in ratios.items()),
                "the interval of log(error, orthogonal / error, independent), paired by layer, lies below 0 for every "
                "number of features",
                "" if everywhere else f"the scores are × {calm:g}",
            ),
        ]

    @staticmethod
    def _ratio(errors: Table) -> Estimate:
        """Mean over layers of log(error of orthogonal features / error of independent ones)."""
        orthogonal, independent = (
            errors.where(orthogonal=kind).sorted_by("seed").column("output_relative") for kind in (True, False)
        )
        return seed_mean(np.log(orthogonal / independent))

    def plot(self, table: Table, settings: FeatureSettings) -> Figure:
        """Top: attention matrices (Fig. 6) and outputs of one layer. Bottom: their errors (Fig. 8), and by scale."""
        figure = new_figure(11.0, 9.4)
        top, between, bottom = figure.subfigures(3, 1, height_ratios=(1, 1, 1.35))  # type: ignore[misc]
        middle = min(settings.logit_scales, key=lambda scale: abs(math.log(scale)))
        shown = table.where(seed=0, logit_scale=middle)
        for place, name, columns, title, label in (
            (top, "weight", "key", "attention matrix", "attention weight"),
            (between, "value", "coordinate", "output", "output"),
        ):
            place.suptitle(f"{title} of one layer, scores × {middle:g}", fontsize="medium")
            self._maps(place, shown.only(name), name, columns, label, settings)
        errors = table.only("output_relative")
        matrix, output, scales = bottom.subplots(1, 3)
        for ax, name in ((matrix, "attention"), (output, "output")):
            for colour, measure in (("C0", "mse"), ("C1", "mae")):
                for kind, line in ((False, "-"), (True, "--")):
                    curve = seed_curve(
                        errors.where(orthogonal=kind, logit_scale=middle), "n_features", f"{name}_{measure}"
                    )
                    label = f"{measure.upper()}, {KINDS[kind]}"
                    band(ax, curve, label, least=curve.mean / 30, color=colour, linestyle=line)
            title = "attention matrix" if name == "attention" else "output"
            ax.set(xscale="log", yscale="log", xlabel="number of features $d_r$", ylabel=f"error of the {title}")
        matrix.legend(fontsize="small")
        for index, scale in enumerate(settings.logit_scales):
            curve = seed_curve(errors.where(orthogonal=False, logit_scale=scale), "n_features", "output_relative")
            band(scales, curve, f"scores × {scale:g}", color=f"C{index}")
        scales.set(xscale="log", yscale="log", xlabel="number of features $d_r$", ylabel="relative error of the output")
        scales.legend(fontsize="small")
        return figure

    @staticmethod
    def _maps(place: Any, table: Table, name: str, columns: str, label: str, settings: FeatureSettings) -> None:
        """A heat map for every number of features, and the exact one, in one scale of colours."""
        n_features = (*settings.n_features, 0)
        cells = {n: table.where(n_features=n).sorted_by("row", "column").column(name) for n in n_features}
        exact = cells[0]
        # Where features fail their values are far off: the colours are those of the exact map, and the rest is cut.
        low, high = (0.0, float(exact.max())) if name == "weight" else (float(exact.min()), float(exact.max()))
        axes = place.subplots(1, len(n_features), sharey=True)
        for ax, n in zip(axes, n_features, strict=True):
            image = ax.imshow(cells[n].reshape(settings.n_demonstrations + 1, -1), vmin=low, vmax=high, aspect="auto")
            ax.set(title=f"{n:,} features" if n else "softmax", xlabel=columns)
            ax.grid(False)
        axes[0].set_ylabel("query")
        place.colorbar(image, ax=list(axes), label=label, shrink=0.85, extend="both" if name == "value" else "max")


def _matrix(name: str, matrix: torch.Tensor, scale: float, n_features: int) -> list[dict[str, float | str | bool]]:
    return [
        {"logit_scale": scale, "n_features": n_features, "orthogonal": False, "row": row, "column": column, name: value}
        for row, values in enumerate(matrix.tolist())
        for column, value in enumerate(values)
    ]


def _slope(table: Table, name: str) -> float:
    """Least-squares slope of log mean error against log n_features."""
    curve = seed_curve(table, "n_features", name)
    return float(np.polyfit(np.log(curve.x), np.log(curve.mean), 1)[0])
