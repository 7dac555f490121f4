"""Which prompts go through the model together: those of like length, so that little is spent on filling up.

The plan depends on the prompts, the model and the tokens allowed at once alone, not on what is done already or by how
many processes, because the company of a prompt moves the last bits of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.question import Question

MEMORY = 2 << 30
"""Bytes that a batch may take by the estimate of `tokens_at_once`."""

_MOST_TOKENS = 8192
"""Larger batches are no faster on a processor."""

_LEAST_FULL = 0.8
"""Share of real tokens in a batch."""


def batches(questions: Sequence[Question], lens_model: LensModel, most_tokens: int) -> list[list[int]]:
    """Indices of the prompts of each batch, the shortest prompts first.

    A batch has at most `most_tokens` tokens, filled-up ones counted; a longer prompt is a separate batch, and so is
    one after `longest_alike`.
    """
    alike = longest_alike(lens_model)
    size = {i: (one.longest, one.n_query, one.tokenized.n_demonstrations, i) for i, one in enumerate(questions)}
    planned: list[list[int]] = []
    real = 0  # tokens of the last batch
    for i in sorted(size, key=size.__getitem__):
        length = questions[i].longest
        filled = length * (len(planned[-1]) + 1) if planned else 0
        fits = bool(planned) and filled <= most_tokens and real + length >= _LEAST_FULL * filled
        if fits and (alike is None or length <= alike):
            planned[-1].append(i)
            real += length
        else:
            planned.append([i])
            real = length
    return planned


def tokens_at_once(lens_model: LensModel) -> int:
    """How many tokens fit into `MEMORY`, by an estimate of what the path keeps for its backward pass in float64."""
    config = lens_model.text_config
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width)
    of_a_token = 8 * (lens_model.n_layers * (16 * width + 4 * inner))
    return max(1, min(_MOST_TOKENS, MEMORY // of_a_token))
