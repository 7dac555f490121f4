"""One draw of demonstrations and queries: what every way to answer says to the same held-out queries, a row each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from iclens.absorption.absorbing import carried_out
from iclens.absorption.plan import plan
from iclens.absorption.reached import ABSORBED, DISTILLED, PROMPT, Reached
from iclens.absorption.sites import MLP_IN
from iclens.lens import LensModel
from iclens.papers.absorption.settings import AbsorptionSettings
from iclens.papers.attribution.real_models.data import Task
from iclens.recipes.contract import Progress
from iclens.recipes.table import Cell

FIRST_ALONE = "absorbed (MLP's first matrices alone)"


def draw_rows(
    lens_model: LensModel, task: Task, settings: AbsorptionSettings, seed: int, progress: Progress
) -> list[dict[str, Cell]]:
    """Absorb a prompt, by several ranks and from fewer demonstrations, and train its rivals."""
    generator, before = torch.Generator().manual_seed(seed), settings.n_shots + settings.n_fitted
    pairs = task.drawn(generator, min(before + settings.n_held_out, len(task.pairs)))
    made = plan(
        lens_model, pairs[: settings.n_shots], pairs[settings.n_shots : before], held_out=pairs[before:],
        template=task.template, candidates=task.labels, rank=settings.rank, ranks=settings.ranks,
        numbers=settings.numbers, training=settings.training, seed=seed,
    )  # fmt: skip
    if not settings.distilled:
        made = replace(made, rivals=tuple(one for one in made.rivals if one != DISTILLED))

    def tell(stage: int, done: int, name: str) -> None:
        progress(min(stage, 99), 100, f"{task.name}: {name}")

    found = carried_out(made, tell)
    rows = [row for one in found.main for row in _rows(one.name, one)]
    rows += [row for one in found.by_rank if one.rank != settings.rank for row in _rows(f"rank {one.rank}", one)]
    for one in found.by_number:
        if one.demonstrations < settings.n_shots:
            rows += _rows(f"{one.name} of {one.demonstrations}", one)
    if settings.alone:
        alone = plan(
            lens_model, pairs[: settings.n_shots], pairs[settings.n_shots : before], held_out=pairs[before:],
            template=task.template, candidates=task.labels, rank=settings.rank, ranks=(), numbers=(),
            targets=(MLP_IN,), seed=seed,
        )  # fmt: skip
        rows += _rows(FIRST_ALONE, carried_out(alone).named(ABSORBED))
    return rows


def _rows(name: str, one: Reached) -> Iterator[dict[str, Cell]]:
    for query, (divergence, log_p, value) in enumerate(zip(one.divergences, one.log_p, one.values, strict=True)):
        yield {
            "method": name,
            "prompt": query,
            "tokens": one.tokens,
            "divergence": divergence,
            "log_loss": -log_p,
            "accuracy": value,
        }


__all__ = ["ABSORBED", "FIRST_ALONE", "PROMPT", "draw_rows"]
