"""The best of many rows, and what choosing it does to its gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.intervals import Estimate
from iclens.papers.ren_liu_2024.table_1.glue import TaskData, headline
from iclens.papers.ren_liu_2024.table_1.rows import ORIGINAL
from iclens.recipes.best_of_many import Nested, halves, max_statistic, nested, over_seeds

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Best:
    """The best row of a type, or of all.

    Attributes:
        of: the type, or `"all"`.
        row: the row with the highest mean.
        score: its scores over seeds.
        gain: its differences to the original, or to the control that it was compared with; biased upwards, since the
            row was chosen by them.
        simultaneous: the same differences with an interval that holds for all rows of the choice at once (Bonferroni).
        p: of the gain, corrected for the choice (`max_statistic`).
        nested: the gain on seeds and examples that did not choose.
        n_rows: among how many rows it was chosen.
    """

    of: str
    row: str
    score: Estimate
    gain: Estimate
    simultaneous: Estimate
    p: float
    nested: Nested
    n_rows: int

    def beats(self, n_asked: int = 1) -> bool:
        """Return whether both corrections find a gain: p ≤ 0.05 / n_asked, and the nested gain's interval above 0.

        Args:
            n_asked: among how many such answers one would do, e.g. tasks.
        """
        return self.p <= SIGNIFICANT / n_asked and self.nested.gain.low > 0


def best_row(
    of: str,
    names: Sequence[str],
    scores: Mapping[str, Float[Tensor, " n_seeds"]],
    folds: Mapping[str, Float[Tensor, "n_seeds n_folds 2"]],
    corrected_for: Sequence[str] = (),
    against: str = ORIGINAL.name,
) -> Best:
    """Return the row with the highest mean score, with what the choice among many does to its gain.

    Args:
        of: what the rows are, for the answer.
        names: the rows to choose from.
        scores: headline numbers by row, those of `against` among them.
        folds: `fold_scores` by row.
        corrected_for: the rows for which p and the simultaneous interval are corrected, `names` among them; `names`
            when empty.
        against: the row that gains are differences to.
    """
    asked = list(corrected_for or names)
    gains = torch.stack([scores[name] for name in asked]) - scores[against]
    places = [asked.index(name) for name in names]
    place = places[int(gains[places].mean(-1).argmax())]
    parts = torch.stack([folds[name] for name in names]) - folds[against]
    return Best(
        of=of,
        row=asked[place],
        score=over_seeds(scores[asked[place]]),
        gain=over_seeds(gains[place]),
        simultaneous=over_seeds(gains[place], len(asked)),
        p=float(max_statistic(gains)[place]),
        # The folds come in pairs of halves: what reports in one chooses in the other.
        nested=nested(parts[..., 0], parts[..., 1]),
        n_rows=len(names),
    )


def fold_scores(data: TaskData, predictions: Sequence[Sequence[float]]) -> Float[Tensor, "n_seeds n_folds 2"]:
    """Headline numbers on random halves of the validation examples: the one that chooses, and the one that reports.

    Args:
        data: the task.
        predictions: of every seed, for all validation examples.
    """
    labels = torch.tensor([example.label for example in data.validation], dtype=torch.float64)
    given = torch.tensor(predictions, dtype=torch.float64)
    return torch.tensor(
        [
            [
                [headline(data.task, one[half].tolist(), labels[half].tolist()) for half in pair]
                for pair in halves(len(labels))
            ]
            for one in given
        ],
        dtype=torch.float64,
    )
