"""`iclens match`: what did a trained model learn?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from iclens.cli.output import check_at_least_one, note, say, show, table
from iclens.cli.subcommand import command
from iclens.plain_data import finite
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from rich.table import Table

    from iclens.matching.comparisons import Match
    from iclens.matching.layers import LayerMatch


@command("match")
@dataclass(frozen=True)
class MatchRun:
    """Compare a trained model with known algorithms.

    Prints, on fresh prompts of the model's own task: how far its predictions (SPD) and its implied linear weights
    (ILWD) are from every estimator's, with 95 % intervals over prompts; the alignment of the sensitivities; the ridge
    parameter that fits best, beside Bayes' σ²/τ²; what a linear read-out of every layer knows, and to how many steps of
    gradient descent and of Newton's method it is nearest; every head as a dual model, with its check.

    Attributes:
        key: key of a finished run, or its first letters (`iclens runs list`); the only run of the store when left
            out.
        store: folder of finished runs.
        prompts: number of prompts.
        context: demonstrations of a prompt; those of the training when left out.
        estimators: registered names to compare with besides the standard ones.
        seed: seed of the prompts.
        threads: torch threads.
        json: also write everything to this file.
    """

    key: Annotated[str, tyro.conf.Positional] = ""
    store: Path = Path("iclens-runs")
    prompts: int = 256
    context: int | None = None
    estimators: tuple[str, ...] = ()
    seed: int = 0
    threads: int = 2
    json: Path | None = None

    def run(self) -> int:
        """Print the tables; 0, or 1 when a head's dual does not give the head's output."""
        from iclens.matching.comparisons import match
        from iclens.sweeps.store import Store
        from iclens.training.config import RunConfig
        from iclens.work.workers import torch_threads

        if self.json is not None:
            check_writable(self.json)
        check_at_least_one(threads=self.threads)
        store = Store(self.store, create=False)
        stored = store.load(store.find(self.key))
        note(f"run {stored.key} of {self.store}")
        with torch_threads(self.threads):
            result = match(
                RunConfig.from_dict(stored.config),
                stored.tensors(),
                n_prompts=self.prompts,
                n_context=self.context,
                seed=self.seed,
                estimators=self.estimators,
            )
        show(_algorithms(result))
        say(
            f"model: error {result.error:.4g} on {result.n_prompts} prompts of {result.n_context} demonstrations;"
            f" linear in the query to R² = {result.linearity:.4f}"
        )
        at_edge = ", at the end of the searched range" if result.ridge.at_edge else ""
        bayes = "" if result.bayes_alpha is None else f"; Bayes' σ²/τ² = {result.bayes_alpha:.4g}"
        say(f"nearest ridge regression: α = {result.ridge.alpha:.4g}{at_edge}, SPD {result.ridge.spd:.4g}{bayes}")
        if result.layers:
            show(_layers(result))
            show(_heads(result))
        if self.json is not None:
            write_atomically(self.json, json.dumps(finite(result.to_dict()), indent=2, allow_nan=False))
        return 1 if any(not head.residual < 1e-9 for head in result.heads) else 0


def _algorithms(result: Match) -> Table:
    numbers = ("its own error", "SPD to the model", "ILWD", "alignment")
    return table(
        "the model beside known algorithms, the nearest first",
        {"algorithm": "left", **dict.fromkeys(numbers, "right")},
        (
            (one.estimator, f"{one.error:.4g}", f"{one.spd:.3g}", f"{one.ilwd:.3g}", f"{one.alignment:.3f}")
            for one in result.comparisons
        ),
    )


def _layers(result: Match) -> Table:
    def cells(one: LayerMatch) -> list[str]:
        pairs = ((str(one.steps[name]), f"{one.spd[name]:.3g}") for name in one.steps)
        return [str(one.layer), f"{one.error:.4g}", *chain.from_iterable(pairs)]

    return table(
        "after each layer: a linear read-out, and the steps whose answers are nearest to it",
        ("layers", "error", "GD steps", "SPD", "Newton steps", "SPD"),
        map(cells, result.layers),
    )


def _heads(result: Match) -> Table:
    return table(
        "each head as one gradient step on the demonstrations",
        ("layer", "head", "share of the step", "residual"),
        (
            (str(one.layer + 1), str(one.head + 1), f"{one.step_share:.3f}", f"{one.residual:.1e}")
            for one in result.heads
        ),
    )
