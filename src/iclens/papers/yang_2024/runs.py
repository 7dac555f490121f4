"""Runs of Yang et al. 2024's models as tables: several seeds at once, with unit-norm and with raw tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iclens.papers.yang_2024.closed_forms import smallest_loss
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.rates import floor, zeta
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining, Measurement
from iclens.recipes.contract import Progress
from iclens.recipes.figures import band
from iclens.recipes.seed_curves import Curve, seed_curve
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

SOURCE = "Yang et al. 2024"
TOKENS = {True: "unit-norm tokens", False: "raw tokens"}
"""By `normalised`. The paper's theory has unit-norm tokens; its experiments draw standard normal ones and do not say
whether they are normalised."""


@dataclass(frozen=True)
class TaskSettings:
    """The dictionary task of Figs 2 and 4, and how both models are trained on it."""

    n_prompt: int = stated(30, "N, the experiments")
    n_tokens: int = stated(200, "K")
    d: int = stated(100)
    n_features: int = stated(20, "m")
    tau: float = chosen(0.01, "stated for Fig. 3 only")
    batch: int = stated(256)
    n_draws: int = stated(10_000, "training prompts")
    n_test: int = stated(200, "test prompts, in domain and shifted")
    learning_rate: float = stated(1e-4, "Adam")
    steps: int = chosen(10_000, "not stated")
    every: int = chosen(100, "steps between measurements")
    n_seeds: int = chosen(5, "each with a dictionary, initial values and prompts of its own")

    def dictionaries(self, normalised: bool) -> Dictionary:
        """One for each seed, stacked."""
        sizes = (self.d, self.n_features, self.n_tokens, self.n_prompt, self.tau)
        return Dictionary.stack([Dictionary.draw(*sizes, seed, normalised=normalised) for seed in range(self.n_seeds)])

    def training(self) -> DictionaryTraining:
        """How to train."""
        names = ("batch", "n_draws", "n_test", "learning_rate", "every")
        return DictionaryTraining(**{name: getattr(self, name) for name in names})


def one_layer_rows(settings: TaskSettings, normalised: bool, n_heads: int, progress: Progress) -> Table:
    """Curves of the one-layer model, one row a seed and measurement, in float32.

    Rows of step 0 also have L*, the floor with Q as it starts, and ζ_0.
    """
    dictionary = settings.dictionaries(normalised)
    seeds = range(settings.n_seeds)
    model = DictionaryModel.on(dictionary, seeds, n_heads=n_heads, dtype=torch.float32)
    known = {
        "smallest_loss": smallest_loss(dictionary).tolist(),
        "floor": floor(dictionary, model).tolist(),
        "zeta": zeta(dictionary, model).tolist(),
    }

    def watch(found: Measurement) -> None:
        progress(found.step, settings.steps, f"{TOKENS[normalised]}, H = {n_heads}")

    trainer = DictionaryTrainer(dictionary, model, settings.training())
    rows = []
    for found in trainer.run(settings.steps, watch):
        for seed in seeds:
            row: dict[str, Any] = {"seed": seed, "step": found.step}
            row |= {name: float(getattr(found, name)[seed]) for name in ("loss", "excess", "in_domain", "shifted")}
            rows.append(row | ({name: values[seed] for name, values in known.items()} if found.step == 0 else {}))
    return Table(rows)


def judged_by_tokens(claim: Claim, table: Table, judge: Callable[[Table], tuple[bool, str]], test: str) -> Verdict:
    """Return a verdict on both kinds of tokens: it holds, holds under the condition of one kind, or does not hold.

    Args:
        claim: the claim.
        table: rows with `normalised`.
        judge: says of the rows of one kind whether the claim holds, and the numbers.
        test: the condition on the numbers.
    """
    found: Mapping[bool, tuple[bool, str]] = {
        normalised: judge(table.where(normalised=normalised)) for normalised in TOKENS
    }
    numbers = "; ".join(f"{TOKENS[normalised]}: {text}" for normalised, (_, text) in found.items())
    right = [normalised for normalised, (holds, _) in found.items() if holds]
    condition = TOKENS[right[0]] if len(right) == 1 else ""
    return claim.judged(bool(right), numbers, test, condition)


def log_band(axes: Any, rows: Table, x: str, y: str, label: str, **line: Any) -> None:
    """The geometric mean of a positive column over the seeds, with the interval of its logarithm.

    Positions that some seed lacks, or where some value is not positive, are left out.
    """
    logs = [
        {"x": row[x], "log": math.log(value)}
        for row in rows
        if isinstance(value := row.get(y), int | float) and value > 0
    ]
    curve = seed_curve(Table(logs), "x", "log")
    at = np.array([row["x"] for row in logs])
    whole = np.array([(at == position).sum() for position in curve.x]) == len(rows.unique("seed"))
    band(axes, Curve(curve.x[whole], *(np.exp(of[whole]) for of in (curve.mean, curve.low, curve.high))), label, **line)
