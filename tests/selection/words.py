"""Pools of the made-up language, of which is known which demonstrations matter and which labels are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from iclens.language.words import CATEGORIES, LABELS, held_out_label
from iclens.lens import LensModel, load

TEMPLATE = "{input} is {output} ."
COUNTS = (4, 4, 2, 1, 1)
"""Demonstrations of each category; the development set asks for the first two."""


@dataclass(frozen=True)
class Known:
    """A pool of 12.

    Attributes:
        pool, dev: pairs.
        relevant: demonstrations of the development set's categories with the right label.
        wrong: those of these categories with the other one's label.
        labels: all labels.
    """

    pool: list[tuple[str, str]]
    dev: list[tuple[str, str]]
    relevant: set[int]
    wrong: set[int]
    labels: list[str]


@cache
def learner() -> LensModel:
    return load("bundled")


def draw(seed: int, n_wrong: int = 2, n_dev: int = 12) -> Known:
    """Draw a pool; one demonstration of each of the first categories has the other's label, when there are two."""
    generator = torch.Generator().manual_seed(seed)
    names = [list(CATEGORIES)[i] for i in torch.randperm(20, generator=generator)[:5].tolist()]
    labels = [LABELS[i] for i in torch.randperm(20, generator=generator)[:5].tolist()]
    words = {
        name: [
            CATEGORIES[name][i]
            for i in torch.randperm(20, generator=generator).tolist()
            if held_out_label(CATEGORIES[name][i]) != label
        ]
        for name, label in zip(names, labels, strict=True)
    }
    rows = [(words[names[c]].pop(), c) for c, count in enumerate(COUNTS) for _ in range(count)]
    wrong = [0, COUNTS[0]][:n_wrong]
    pairs = [(word, labels[1 - c if i in wrong else c]) for i, (word, c) in enumerate(rows)]
    order = torch.randperm(len(rows), generator=generator).tolist()
    dev = [(words[names[c]].pop(), labels[c]) for _ in range(n_dev) for c in (0, 1)]
    return Known(
        pool=[pairs[i] for i in order],
        dev=dev,
        relevant={place for place, i in enumerate(order) if rows[i][1] < 2 and i not in wrong},
        wrong={place for place, i in enumerate(order) if i in wrong},
        labels=sorted(labels),
    )
