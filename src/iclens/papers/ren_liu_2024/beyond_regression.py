"""Ren & Liu's open question: the equivalence on classification and language modelling, at depths 1 to 12."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from iclens.papers.ren_liu_2024.beyond_regression_models import (
    CLASSES,
    REGRESSION,
    WORDS,
    BeyondSettings,
    held_before,
    models,
    pass_of,
    residual,
)
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.seed_curves import Curve, seed_curve, seed_mean
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"
_QUESTION = f"{_PAPER}, what the paper leaves open: beyond one layer and beyond regression"

EXACT = {
    kind: Claim(
        f"On {kind}, a stack of layers with residuals, norms and feed-forward blocks equals its sequence of dual "
        "models, at every depth, freshly initialised and trained.",
        _QUESTION,
        "asked",
    )
    for kind in (REGRESSION, CLASSES, WORDS)
}
ROUNDING = Claim(
    "What differs is rounding: in single precision the residual is larger as the precision is coarser.",
    "ours: the identity is exact",
    "derived",
)
DEPTH = Claim("Rounding grows no faster than the number of layers.", _QUESTION, "asked")
HELD = Claim(
    "The equivalence refers to its own output: with norms and gates held where they are before the gradient step, the "
    "layers are not reproduced.",
    "ours: docs/theory/transformer-layer.md",
    "derived",
)

_TOLERANCE = 1e-10
_TOLERANCE_SINGLE = 1e-3
_COARSER = torch.finfo(torch.float32).eps / torch.finfo(torch.float64).eps


@recipe("beyond-regression")
class BeyondRegression(Recipe[BeyondSettings]):
    """Stacks of 1 to 12 layers on three kinds of data, and the sequence of duals that each is said to be.

    The duals are built from the embeddings and the weights alone; their predictions at every token after every layer
    are compared with the states that the model's own code computes, in float64 and in float32. A fresh and a trained
    model of every depth, and the bundled language model. The identity holds for any weights: that trained models
    satisfy it too says nothing about learning. As a control, norms and gates are held where they are before the step.
    """

    title = "The equivalence on classification and language modelling, at depths 1 to 12"
    reference = f"{_PAPER} (arXiv 2310.13220), open question"
    claims = (*EXACT.values(), ROUNDING, DEPTH, HELD)
    quick = Preset(BeyondSettings(depths=(1, 4, 12), steps=60, n_prompts=4, n_seeds=3), seconds=35)
    paper = Preset(BeyondSettings(), seconds=680)

    def parts(self, settings: BeyondSettings) -> list[Part]:
        """Return one part per kind, depth and training, and one for the bundled model."""
        made: list[Part] = [
            {"kind": kind, "depth": depth, "weights": weights}
            for kind in EXACT
            for depth in settings.depths
            for weights in ("fresh", "trained")
        ]
        return [*made, {"kind": WORDS, "depth": 4, "weights": "bundled"}]

    def measure(self, part: Part, settings: BeyondSettings, progress: Progress) -> Table:
        """Residuals of every seed in both precisions, and the control's distance."""
        rows = []
        for seed, found in enumerate(models(part, settings, progress)):
            for dtype in (torch.float64, torch.float32):
                passed = pass_of(found, dtype)
                row = {"seed": seed, "dtype": str(dtype).removeprefix("torch."), "fall": found.fall}
                rows.append(row | {"residual": residual(passed), "held_before": held_before(passed)})
        return Table(rows)

    def check(self, table: Table, settings: BeyondSettings) -> list[Verdict]:
        """Largest residuals by kind, precision and depth."""
        double, single = (table.where(dtype=dtype) for dtype in ("float64", "float32"))
        verdicts = []
        for kind, claim in EXACT.items():
            rows = double.where(kind=kind)
            worst = float(rows.column("residual").max())
            fall = float(np.median(rows.where(weights="trained").column("fall")))
            depths = rows.numbers("depth")
            verdicts.append(
                claim.judged(
                    worst <= _TOLERANCE,
                    f"largest relative residual {worst:.1e} over {len(rows)} models of {depths[0]:.0f} to "
                    f"{depths[-1]:.0f} layers (float64); training took the loss to × {fall:.2f} (median)",
                    f"relative residual ≤ {_TOLERANCE:.0e} at every token after every layer",
                )
            )
        return [*verdicts, _rounding(double, single), _depth(single), _held(double)]

    def plot(self, table: Table, settings: BeyondSettings) -> Figure:
        """Return a panel a kind: residuals of both precisions against the depth, and the control's distance."""
        figure = new_figure(13.0, 4.2)
        axes = figure.subplots(1, len(EXACT), sharey=True)
        for ax, kind in zip(axes, EXACT, strict=True):
            for weights, style in (("fresh", "--"), ("trained", "-")):
                rows = table.where(kind=kind, weights=weights)
                for dtype, colour in (("float64", "C0"), ("float32", "C1")):
                    look: dict[str, Any] = {"color": colour, "linestyle": style, "marker": "o", "ms": 4}
                    band(ax, _log_curve(rows.where(dtype=dtype)), f"{dtype}, {weights}", **look)
                curve = seed_curve(rows.where(dtype="float64"), "depth", "held_before")
                ax.plot(curve.x, curve.mean, "C2", linestyle=style, marker="s", ms=4, label=f"control, {weights}")
            bundled = table.where(kind=kind, weights="bundled")
            for dtype, colour in (("float64", "C0"), ("float32", "C1")):
                if len(bundled):
                    at = bundled.where(dtype=dtype)
                    label = f"{dtype}, bundled model"
                    ax.plot(at.column("depth"), at.column("residual"), "*", color=colour, ms=11, label=label)
            log_ticks(ax.xaxis, table.where(kind=kind).numbers("depth"))
            ax.set(xlabel="layers", yscale="log", title=kind)
        axes[0].set_ylim(1e-17, 10)
        axes[0].set_ylabel("largest ‖dual − model‖ / ‖model‖")
        axes[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.5)
        return figure


def _log_curve(rows: Table) -> Curve:
    """Return the geometric mean of the residual against the depth, with its interval."""
    logs = Table({"depth": row["depth"], "log": np.log10(max(float(row["residual"] or 0), 1e-18))} for row in rows)
    curve = seed_curve(logs, "depth", "log")
    return Curve(curve.x, 10**curve.mean, 10**curve.low, 10**curve.high)


def _rounding(double: Table, single: Table) -> Verdict:
    ratios = single.column("residual") / np.maximum(double.column("residual"), 1e-18) / _COARSER
    worst, middle = float(single.column("residual").max()), float(np.median(ratios))
    return ROUNDING.judged(
        worst <= _TOLERANCE_SINGLE and 0.05 <= middle <= 20,
        f"largest relative residual {worst:.1e} (float32); float32 over float64, in units of the ratio of their "
        f"precisions: {middle:.2g} (median)",
        f"float32 residual ≤ {_TOLERANCE_SINGLE:.0e}, and the median ratio between 1/20 and 20 of the precisions'",
    )


def _depth(single: Table) -> Verdict:
    """Power of the depth, one number a kind, weights and seed; the bundled model has one depth only."""
    powers = []
    rows = Table(row for row in single if row["weights"] != "bundled")
    for kind in rows.unique("kind"):
        for weights in rows.unique("weights"):
            for seed in rows.unique("seed"):
                line = rows.where(kind=kind, weights=weights, seed=seed)
                at, values = line.column("depth"), np.maximum(line.column("residual"), 1e-18)
                powers.append(np.polyfit(np.log(at), np.log(values), 1)[0])
    found = seed_mean(np.array(powers))
    return DEPTH.judged(
        found.high <= 1.0,
        f"the residual grows as the depth to the power {found:.2f} (float32, {found.n} series of depths)",
        "the upper end of the power's 95 % interval is at most 1",
    )


def _held(double: Table) -> Verdict:
    rows = Table(row for row in double if row["weights"] != "fresh")
    least, middle = float(rows.column("held_before").min()), float(np.median(rows.column("held_before")))
    return HELD.judged(
        least >= 1e-4,
        f"held before the step, the worst layer of every trained model is off by {least:.1e} at least, {middle:.1e} in "
        "the median",
        "a relative distance of at least 1e-4 in every trained model",
    )
