"""The demonstration that settles which of two rules holds: does it get the highest score?"""

from __future__ import annotations

from collections.abc import Sequence

from iclens.lens import LensModel
from iclens.papers.attribution.real_models.data import answering, settling_prompts
from iclens.recipes.table import Cell

MOST_TRIED = 10
"""Prompts that are tried for each one that the model has to get right."""


def settling_rows(
    lens_model: LensModel, folder: str, family: str, methods: Sequence[str], count: int, seed: int
) -> list[dict[str, Cell]]:
    """A row a method and prompt that the model answers by the right rule: whether the settling demonstration is first.

    Source: Ye et al. 2024, section 4: hit rate over prompts that the model gets right.
    """
    rows: list[dict[str, Cell]] = []
    n_right = 0
    for number, (asked, settles) in enumerate(settling_prompts(folder, family)):
        if n_right == count or number == MOST_TRIED * count:
            break
        subject = answering(lens_model, asked)
        if float(subject.lens().traced.margins[0]) <= 0:
            continue
        n_right += 1
        for name, one in subject.scored(methods, seed + number).items():
            values = one.scores.values
            rank = int((values > values[settles]).sum()) + 1
            row: dict[str, Cell] = {"method": name, "prompt": number, "hit": float(rank == 1), "rank": rank}
            rows.append(row | {"passes": one.passes, "seconds": one.seconds})
    return rows
