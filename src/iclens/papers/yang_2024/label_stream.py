"""The prompts that training on the dictionary task sees and is tested on, run by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.papers.yang_2024.task import Dictionary

_APART = 2**40
"""Added to data seeds: models may have the same seeds, and their draws must differ."""


class LabelStream:
    """Labels of all tokens in batches of prompts; a prompt of this task is nothing but its labels.

    Run r draws from its own generator: first both test sets, then the training set, then the order in which it is
    gone through, again and again (what does not fill a batch is left out each time), or fresh prompts.

    Args:
        dictionary: stacked, one for each run.
        seeds: one for each run.
        batch_size: prompts in a batch.
        n_draws: size of the training set; 0 for fresh prompts.
        n_test: prompts of each test set; 0 for none.
        dtype: of the batches; the rest has the dictionary's.

    Attributes:
        draws: the training set, or None.
        tests: the test sets, by whether λ is shifted.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        seeds: Sequence[int],
        batch_size: int,
        n_draws: int,
        n_test: int,
        dtype: torch.dtype,
    ) -> None:
        self.dictionary, self.seeds, self.batch_size, self.dtype = dictionary, list(seeds), batch_size, dtype
        self._generators = [torch.Generator().manual_seed(seed + _APART) for seed in seeds]
        self.tests: dict[bool, Float[Tensor, "runs n_test n_tokens"]] = {}
        if n_test:
            for shifted in (False, True):
                self.tests[shifted] = dictionary.sample_labels(self._generators, n_test, shifted=shifted)
        self.draws: Float[Tensor, "runs n_draws n_tokens"] | None = None
        if n_draws:
            self.draws = dictionary.sample_labels(self._generators, n_draws)
            self._cast = self.draws.to(dtype)
        self._order: list[Tensor] = []
        self._used = 0

    def batch(self) -> Float[Tensor, "runs batch n_tokens"]:
        """Return the next batch of every run."""
        if self.draws is None:
            return self.dictionary.sample_labels(self._generators, self.batch_size).to(self.dtype)
        n_draws = self.draws.shape[1]
        if not self._order or self._used + self.batch_size > n_draws:
            self._order = [torch.randperm(n_draws, generator=generator) for generator in self._generators]
            self._used = 0
        rows = slice(self._used, self._used + self.batch_size)
        self._used += self.batch_size
        picked = [
            draws.index_select(0, order[rows].to(draws.device))
            for draws, order in zip(self._cast, self._order, strict=True)
        ]
        return torch.stack(picked)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return {
            "seeds": list(self.seeds),
            "generators": [generator.get_state() for generator in self._generators],
            "order": [order.clone() for order in self._order],
            "used": self._used,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: a state of other seeds.
        """
        if state["seeds"] != self.seeds:
            raise UserError(f"this state is of data seeds {state['seeds']}, not {self.seeds}.")
        for generator, saved in zip(self._generators, state["generators"], strict=True):
            generator.set_state(saved)
        self._order, self._used = [order.clone() for order in state["order"]], state["used"]
