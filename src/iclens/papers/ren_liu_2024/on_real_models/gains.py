"""What was measured, by attention and set of demonstrations: gains over plain attention, and choices on other sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from iclens.intervals import Estimate
from iclens.papers.ren_liu_2024.on_real_models.modifications import PLAIN
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.table import Table

PUT_IN, TUNED = "put in", "fine-tuned"
LOSS, ACCURACY = "log_loss", "accuracy"

Unit = tuple[str, int]
"""A task and the number of a set of demonstrations: prompts of one set share them, so that it counts as one."""


@dataclass(frozen=True)
class Measured:
    """Means over a set's queries.

    Attributes:
        numbers: by attention, seed and set, the log-loss in nats and the accuracy.
    """

    numbers: Mapping[str, Mapping[int, Mapping[Unit, tuple[float, float]]]]

    @classmethod
    def of(cls, table: Table, study: str) -> Measured:
        """Those of a study; an attention that was not put on every set and seed of plain attention is left out."""
        found: dict[str, dict[int, dict[Unit, list[tuple[float, float]]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )
        for row in table:
            if row["study"] == study and row.get(LOSS) is not None:
                unit = str(row["task"]), int(row["number"] or 0)
                pair = float(row[LOSS] or 0.0), float(row["right"] or 0.0)
                found[str(row["row"])][int(row.get("seed") or 0)][unit].append(pair)
        means = {
            name: {seed: {unit: _mean(pairs) for unit, pairs in sets.items()} for seed, sets in seeds.items()}
            for name, seeds in found.items()
        }
        plain = means.get(PLAIN.name, {})
        whole = {
            name: seeds
            for name, seeds in means.items()
            if all(seed in seeds and sets.keys() <= seeds[seed].keys() for seed, sets in plain.items())
        }
        return cls(whole if plain else {})

    @property
    def seeds(self) -> list[int]:
        """The seeds of plain attention."""
        return sorted(self.numbers.get(PLAIN.name, {}))

    @property
    def units(self) -> list[Unit]:
        """The sets that every seed of plain attention was asked."""
        plain = self.numbers.get(PLAIN.name, {})
        return sorted(set.intersection(*map(set, plain.values()))) if plain else []

    def mean(self, name: str, unit: Unit, measure: str, seed: int | None = None) -> float:
        """The measure of an attention on a set: of a seed, or the mean of all seeds."""
        some = self.seeds if seed is None else [seed]
        place = (LOSS, ACCURACY).index(measure)
        return sum(self.numbers[name][one][unit][place] for one in some) / len(some)

    def gain(self, name: str, unit: Unit, measure: str, against: str = PLAIN.name, seed: int | None = None) -> float:
        """By how much it is better than another attention on a set, paired by prompt: less log-loss, more accuracy."""
        difference = self.mean(name, unit, measure, seed) - self.mean(against, unit, measure, seed)
        return -difference if measure == LOSS else difference

    def picks(self, names: Sequence[str]) -> dict[int, str]:
        """Of some attentions the one that is chosen for each number of a set.

        It is the one with the highest mean gain in log-loss on the sets of all tasks with other numbers.
        """
        numbers = sorted({number for _, number in self.units})
        return {
            number: max(
                names,
                key=lambda name: sum(self.gain(name, unit, LOSS) for unit in self.units if unit[1] != number),
            )
            for number in numbers
        }

    def gains(
        self,
        picks: Mapping[int, str],
        measure: str,
        against: Mapping[int, str] | None = None,
        seed: int | None = None,
        task: str | None = None,
    ) -> list[float]:
        """By set, the gain of what was chosen for its number over plain attention, or over what `against` names."""
        return [
            self.gain(picks[unit[1]], unit, measure, PLAIN.name if against is None else against[unit[1]], seed)
            for unit in self.units
            if task in (None, unit[0])
        ]


def over_sets(gains: Sequence[float], n_chosen_from: int = 1) -> Estimate:
    """The mean over sets of demonstrations with Student's t interval, for so many kinds at once (Bonferroni)."""
    return over_seeds(torch.tensor(gains, dtype=torch.float64), n_chosen_from)


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    losses, right = zip(*pairs, strict=True)
    return sum(losses) / len(losses), sum(right) / len(right)
