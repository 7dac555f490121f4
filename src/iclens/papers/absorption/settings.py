"""Settings of the study of absorption: the model, the data, the sizes, and how many draws."""

from __future__ import annotations

from dataclasses import dataclass

from iclens.absorption.training import Training
from iclens.errors import UserError
from iclens.recipes.settings import chosen, option

TUNING = ("antonym", "sentiment")
"""Tasks on which ridge, emphasis and targets were chosen: no verdict may rest on them."""


@dataclass(frozen=True)
class AbsorptionSettings:
    """The model, the data, the sizes, and how many draws.

    Raises:
        UserError: a tuning task, or counts that do not fit.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data")
    tasks: tuple[str, ...] = chosen(("sst2", "ag_news", "country-capital", "present-past"), "none of them was tuned on")
    n_draws: int = chosen(10, "draws of demonstrations and queries a task")
    n_shots: int = chosen(12, "demonstrations")
    n_fitted: int = chosen(32, "queries to fit by")
    n_held_out: int = chosen(100, "queries that take no part, or as many as the task has left")
    rank: int = chosen(8, "of every change")
    ranks: tuple[int, ...] = chosen((1, 2, 4, 16, 32), "other ranks that are measured")
    numbers: tuple[int, ...] = chosen((3, 6), "demonstrations of shorter prompts")
    lora_steps: int = chosen(20, "of training")
    lora_learning_rate: float = chosen(1e-3, "of Adam, falling along half a cosine; chosen on antonym")
    distilled: bool = chosen(True, "also train on what the model says behind the prompt to the fitted queries")
    alone: bool = chosen(True, "also fit the MLP's first matrices alone, as the patch of 2510.08734 does")
    seed: int = chosen(0, "of draws and training")

    def __post_init__(self) -> None:
        tuned = [name for name in self.tasks if name in TUNING]
        if tuned:
            raise UserError(f"{tuned[0]} was tuned on: give other tasks.")
        if min(self.n_shots, self.n_fitted, self.n_held_out) < 2 or self.n_draws < 1:
            raise UserError("n_shots, n_fitted and n_held_out are at least 2, n_draws is at least 1.")
        if any(not 1 <= one < self.n_shots for one in self.numbers) or min(self.rank, *self.ranks, self.rank) < 1:
            raise UserError("numbers lie between 1 and n_shots − 1, ranks are at least 1.")
        _ = self.training

    @property
    def training(self) -> Training:
        """How the rivals are trained."""
        return Training(self.lora_steps, self.lora_learning_rate)
