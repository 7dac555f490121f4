"""What must hold of a real model's heads, layers and bounds, and whether the numbers bear it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from iclens.papers.real_heads.residuals import BOUNDS
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"

HEADS = Claim(
    "Every head of every layer of a real model gives, at every token, what its dual model predicts after one step.",
    f"{_PAPER}, Theorem 3.1",
    "stated",
)
STEP = Claim(
    "A real W for each head, trained by autograd for one step, lands on the head's output.",
    f"{_PAPER}, Theorem 3.1",
    "stated",
)
LAYERS = Claim(
    "The duals of a layer's heads, through W_O, sum to what the layer's attention gives in the model's own pass.",
    f"{_PAPER}, Theorem 3.1; heads are derived in docs/theory/transformer-layer.md",
    "derived",
)
STACK = Claim(
    "The layers of a real model are a sequence of duals, each fed with what the one before predicts.",
    f"{_PAPER}, Fig. 5, made exact in docs/theory/stack.md",
    "stated",
)
COVERED = Claim(
    "With w, ρ and Tr K_S measured, the bound holds on the heads of a real model, in all three forms.",
    f"{_PAPER}, Theorem 3.2",
    "stated",
)
INFORMATIVE = Claim(
    "On at least half of the heads the smallest form of the bound is below the range of the loss: it says something.",
    f"{_PAPER}, Theorem 3.2",
    "asked",
)
LOOSE = Claim(
    "Key norms of a trained model make the printed bound more than 100 times the measured gap, in every layer.",
    f"{_PAPER}, Theorem 3.2: Tr K_S is exponential in the key norms",
    "derived",
)

CLAIMS = (HEADS, STEP, LAYERS, STACK, COVERED, INFORMATIVE, LOOSE)

TOLERANCES = {
    "head": {"float32": 1e-4, "float64": 1e-10},
    "layer": {"float32": 1e-4, "float64": 1e-10},
    "stack": {"float32": 1e-3, "float64": 1e-5},
}
"""Largest relative residual: in float64 the states of many models are spoilt by norms that compute in float32."""

_STEP = 1e-6


def judged(table: Table, delta: float) -> list[Verdict]:
    """A verdict on each of `CLAIMS`."""
    return [
        _residual(HEADS, table, "head", "heads"),
        _step(table),
        _residual(LAYERS, table, "layer", "layers"),
        _residual(STACK, table, "stack", "layers"),
        _covered(table, delta),
        _informative(table),
        _loose(table),
    ]


def numbers(table: Table, name: str) -> np.ndarray:
    """A column's numbers without those that are missing; none where there is no such column."""
    found = table.column(name) if name in table.names else np.array([])
    return found[~np.isnan(found)]


def by_layer(table: Table, name: str, take: Callable[[np.ndarray], float]) -> dict[int, float]:
    """Of every layer with numbers, what is taken of them."""
    layers = (int(layer) for layer in table.numbers("layer")) if len(table) else iter(())
    found = {layer: numbers(table.where(layer=layer), name) for layer in layers}
    return {layer: take(values) for layer, values in found.items() if len(values)}


def _residual(claim: Claim, table: Table, kind: str, noun: str) -> Verdict:
    found = {dtype: numbers(_of(table, dtype), f"{kind}_residual") for dtype in TOLERANCES[kind]}
    found = {dtype: values for dtype, values in found.items() if len(values)}
    if not found:
        return claim.untested(f"no {noun[:-1]} was measured, or the family has none that is read so.")
    text = "; ".join(
        f"{dtype}: at most {values.max():.1e}, {np.median(values):.1e} in the median of {len(values)} {noun} of prompts"
        for dtype, values in found.items()
    )
    limits = {dtype: TOLERANCES[kind][dtype] for dtype in found}
    asked = "relative residual " + ", ".join(f"≤ {limit:.0e} in {dtype}" for dtype, limit in limits.items())
    return claim.judged(all(found[dtype].max() <= limit for dtype, limit in limits.items()), text, asked)


def _of(table: Table, dtype: str) -> Table:
    return table.where(dtype=dtype) if "dtype" in table.names else Table()


def _step(table: Table) -> Verdict:
    found = numbers(table, "step_residual")
    if not len(found):
        return STEP.untested("no head was trained.")
    return STEP.judged(
        found.max() <= _STEP,
        f"relative difference at most {found.max():.1e}, {np.median(found):.1e} in the median of {len(found)} heads of "
        "prompts, in float64",
        f"relative difference ≤ {_STEP:.0e}",
    )


def _covered(table: Table, delta: float) -> Verdict:
    found = {name: numbers(table, f"coverage_{name}") for name in BOUNDS}
    if not _any(found.values()):
        return COVERED.untested("no bound was measured.")
    text = ", ".join(f"{name} in at least {100 * values.min():.0f} %" for name, values in found.items())
    return COVERED.judged(
        min(values.min() for values in found.values()) >= 1 - delta,
        f"of the resamples: {text}, over {len(found[BOUNDS[0]])} heads of prompts",
        f"every form holds in at least {100 * (1 - delta):g} % of the resamples of every head",
    )


def _informative(table: Table) -> Verdict:
    found = {name: numbers(table, f"{name}_over_range") for name in BOUNDS}
    if not _any(found.values()):
        return INFORMATIVE.untested("no bound was measured.")
    least = np.min(np.stack(list(found.values())), 0)
    share = float((least < 0).mean())
    text = ", ".join(f"{name} {_power(np.median(values))}" for name, values in found.items())
    return INFORMATIVE.judged(
        share >= 0.5,
        f"below the range in {100 * share:.1f} % of {len(least)} heads of prompts; over it in the median: {text}",
        "a share of at least 50 %",
    )


def _loose(table: Table) -> Verdict:
    found = by_layer(table, "printed_over_gap", lambda values: float(np.median(values)))
    if not found:
        return LOOSE.untested("no gap was measured.")
    low, high = min(found, key=lambda layer: found[layer]), max(found, key=lambda layer: found[layer])
    return LOOSE.judged(
        found[low] > 2,
        f"printed bound over measured gap, median of a layer: from {_power(found[low])} (layer {low}) to "
        f"{_power(found[high])} (layer {high})",
        "more than 100 in the median of every layer",
    )


def _any(columns: Iterable[np.ndarray]) -> bool:
    return all(len(values) for values in columns)


def _power(log10: float | np.floating) -> str:
    """A number from its logarithm, which may leave the range of floating point."""
    exponent = float(log10)
    return f"{10**exponent:.3g}" if abs(exponent) < 6 else f"10^{exponent:.1f}"
