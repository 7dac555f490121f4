"""Many word prompts at once, as token ids, for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.language.words import CATEGORIES, LABELS, SPECIAL_TOKENS, WORDS_PER_CATEGORY

IS = len(SPECIAL_TOKENS)
FULL_STOP = IS + 1
FIRST_LABEL = FULL_STOP + 1
FIRST_WORD = FIRST_LABEL + len(LABELS)
START = SPECIAL_TOKENS.index("<s>")


@dataclass(frozen=True)
class WordBatch:
    """Token ids of a batch of prompts, every item of which is the query of the items before it.

    Attributes:
        tokens: `<s>` and then `word is label .` for every item; the last full stop is left out.
        known: whether an earlier item of the prompt is of the item's category, so that its label can be known.
        read_out: positions of the tokens `is`; the label follows at `read_out + 1`.
    """

    tokens: Int[Tensor, "batch n_tokens"]
    known: Bool[Tensor, "batch n_items"]
    read_out: Int[Tensor, " n_items"]


def sample_batch(
    generator: torch.Generator,
    batch: int,
    n_items: int = 25,
    *,
    n_words: int = WORDS_PER_CATEGORY,
    n_categories: tuple[int, int] = (2, 12),
    n_labels: int = len(LABELS),
    first_categories: int = len(CATEGORIES),
) -> WordBatch:
    """Draw a batch of training prompts (no held-out pair of word and label occurs).

    Every prompt draws its number of categories uniformly from the range `n_categories`, its categories, a label
    for each (uniform, independent), and then the category of every item uniformly among them. Words do not
    repeat within a prompt until a category's words are used up.

    Args:
        generator: the source of randomness.
        batch: how many prompts.
        n_items: demonstrations and query together.
        n_words: only the first `n_words` words of every category are used (the curriculum).
        n_categories: smallest and largest number of categories.
        n_labels: only the first `n_labels` labels are used (the curriculum); at least 2.
        first_categories: the number of categories used, from the first on (the curriculum).

    Raises:
        UserError: a count lies outside what the categories offer.
    """
    low, high = n_categories
    total = len(CATEGORIES)
    if not 1 <= n_words <= WORDS_PER_CATEGORY or not 2 <= n_labels <= len(LABELS):
        raise UserError(
            f"n_words={n_words} must lie between 1 and {WORDS_PER_CATEGORY}, n_labels={n_labels} between 2 and"
            f" {len(LABELS)}."
        )
    if not 1 <= low <= high <= first_categories <= total:
        raise UserError(
            f"n_categories={n_categories} must be a range within 1 to first_categories={first_categories}, which is"
            f" at most {total}."
        )
    if batch < 1 or n_items < 1:
        raise UserError(f"batch={batch} and n_items={n_items} must be at least 1.")
    # The dtype is said, because the numbers drawn depend on it.
    real = torch.float32
    chosen = torch.rand(batch, first_categories, generator=generator, dtype=real).argsort(-1)
    how_many = torch.randint(low, high + 1, (batch, 1), generator=generator)
    slots = (torch.rand(batch, n_items, generator=generator, dtype=real) * how_many).long()
    categories = chosen.gather(1, slots)
    label_of = torch.randint(n_labels, (batch, total), generator=generator)

    # The held-out word of (category c, label l) is number (l - c) mod len(LABELS): see `held_out_label`.
    held_out = (label_of - torch.arange(total)) % len(LABELS)
    if n_words == 1:
        # The only word would be left out for one label in 20: that category takes the next label.
        label_of = torch.where(held_out == 0, (label_of + 1) % n_labels, label_of)
        held_out = (label_of - torch.arange(total)) % len(LABELS)
    keys = torch.rand(batch, total, n_words, generator=generator, dtype=real)
    is_held_out = torch.arange(n_words) == held_out.unsqueeze(-1)
    word_order = keys.masked_fill(is_held_out, 2.0).argsort(-1)
    n_allowed = n_words - is_held_out.any(-1).long()

    labels = label_of.gather(1, categories)
    one_hot = torch.nn.functional.one_hot(categories, total)
    earlier = (one_hot.cumsum(1) - one_hot).gather(2, categories.unsqueeze(-1)).squeeze(-1)
    rank = earlier % n_allowed.gather(1, categories)
    rows = torch.arange(batch).unsqueeze(-1)
    words = word_order[rows, categories, rank]

    items = torch.stack(
        [
            FIRST_WORD + categories * WORDS_PER_CATEGORY + words,
            torch.full_like(words, IS),
            FIRST_LABEL + labels,
            torch.full_like(words, FULL_STOP),
        ],
        dim=-1,
    ).flatten(1)
    start = torch.full((batch, 1), START)
    return WordBatch(
        tokens=torch.cat([start, items[:, :-1]], dim=1),
        known=earlier > 0,
        read_out=2 + 4 * torch.arange(n_items),
    )
