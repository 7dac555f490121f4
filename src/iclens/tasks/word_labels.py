"""The word-label prompts of `iclens.language.words` as one-hot inputs and labels, for models of the lab."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from iclens.errors import UserError
from iclens.language.batches import FIRST_LABEL, FIRST_WORD, sample_batch
from iclens.language.words import CATEGORIES, LABELS, WORDS_PER_CATEGORY
from iclens.tasks.draws import integers
from iclens.tasks.function_first import checked_shape
from iclens.tasks.options import require_one_of
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal, Task

N_CATEGORIES = len(CATEGORIES)
SPLITS = ("train", "held-out")


@TASKS.register("words")
class Words(Task):
    """Words of categories, each category under a random label: the language of `iclens.language.words`, one-hot.

    Inputs are one-hot over the 400 words, labels over the 20 labels. Prompts are those of
    `iclens.language.batches.sample_batch`: no held-out pair of word and label, unless the split is `held-out`, where
    the query is replaced by the word that never carries its category's label in training. `function` holds `labels`,
    (*batch, 20): the label of each category, in the order of `CATEGORIES`.

    Args:
        split: `train` or `held-out`.
        fewest_categories: smallest number of categories of a prompt, at least 1.
        most_categories: largest number, at most 20.
        n_labels: the number of labels used, from the first on, 2 to 20.

    Raises:
        UserError: an option out of its range.
    """

    d = N_CATEGORIES * WORDS_PER_CATEGORY
    d_y = len(LABELS)

    def __init__(
        self,
        *,
        split: str = "train",
        fewest_categories: int = 2,
        most_categories: int = 12,
        n_labels: int = len(LABELS),
    ) -> None:
        require_one_of("split", split, SPLITS)
        if not 1 <= fewest_categories <= most_categories <= N_CATEGORIES:
            raise UserError(
                f"fewest_categories={fewest_categories} and most_categories={most_categories} must be a range within 1 "
                f"to {N_CATEGORIES}."
            )
        if not 2 <= n_labels <= len(LABELS):
            raise UserError(f"n_labels={n_labels} must lie between 2 and {len(LABELS)}.")
        self.split, self.n_labels = split, n_labels
        self.fewest_categories, self.most_categories = fewest_categories, most_categories

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:
        """Words of prompts whose labels are not told: which words may occur depends on them."""
        return self.sample(generator, batch, n_points - 1).inputs

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`labels`: (*batch, 20)."""
        return {"labels": integers(self.n_labels, generator, *batch, N_CATEGORIES)}

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        categories = inputs.argmax(-1) // WORDS_PER_CATEGORY
        return one_hot(function["labels"].gather(-1, categories), self.d_y).to(inputs)

    def sample(self, generator: torch.Generator, batch: int | tuple[int, ...], n_context: int) -> PromptBatch:
        """See `Task.sample`."""
        shape = checked_shape(batch, n_context)
        drawn = sample_batch(
            generator,
            math.prod(shape),
            n_context + 1,
            n_categories=(self.fewest_categories, self.most_categories),
            n_labels=self.n_labels,
        )
        words = drawn.tokens[:, drawn.read_out - 1] - FIRST_WORD
        labels = drawn.tokens[:, drawn.read_out + 1] - FIRST_LABEL
        categories = words // WORDS_PER_CATEGORY
        if self.split == "held-out":
            # `held_out_label` the other way round.
            word = (labels[:, -1] - categories[:, -1]) % len(LABELS)
            words[:, -1] = categories[:, -1] * WORDS_PER_CATEGORY + word
        # Labels of categories that do not occur are independent of all that the prompt shows.
        label_of = self.sample_function(generator, (len(words),))["labels"].scatter(-1, categories, labels)
        dtype = torch.get_default_dtype()
        return PromptBatch(
            one_hot(words, self.d).to(dtype).reshape(*shape, n_context + 1, self.d),
            one_hot(labels, self.d_y).to(dtype).reshape(*shape, n_context + 1, self.d_y),
            {"labels": label_of.reshape(*shape, N_CATEGORIES)},
        )

    @staticmethod
    def categories(inputs: Inputs) -> Float[Tensor, "*batch n_points n_categories"]:
        """φ(x): the category of the word, one-hot."""
        return inputs.unflatten(-1, (N_CATEGORIES, WORDS_PER_CATEGORY)).sum(-1)

    def optimal(self) -> Optimal:
        """Least squares on the category: the label of the demonstrations of the query's category.

        Where there is none, it answers 0 for every label, and the Bayes predictor nearly 1/20.
        """
        return Optimal("least-squares", {"features": self.categories}, source="the categories are known")
