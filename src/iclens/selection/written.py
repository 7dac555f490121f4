"""Free answers that the model writes, of many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.read.shared_texts import cost_of, read_texts
from iclens.selection.asked import Query

LONGER = 8
"""Tokens by which a written answer may exceed the right one."""


def write_answers(
    lens_model: LensModel, texts: Sequence[tuple[Sequence[int], Query]], stop: str, most_tokens: int
) -> tuple[list[str], int]:
    """Let the model write the likeliest tokens after each prompt, up to a line end or `stop`, and count what is read.

    A step reads the texts once more, with what they begin with alike read once.
    """
    rows = [list(ids) for ids, _ in texts]
    starts, tokens = [len(ids) for ids, _ in texts], 0
    most = [len(query.ids[0]) + LONGER for _, query in texts]
    tokenizer = lens_model.tokenizer
    going = list(range(len(rows)))

    def read(numbers: Sequence[int], logits: Tensor) -> tuple[Tensor, Tensor]:
        best = logits[:, 0].max(-1)
        return best.values.cpu(), best.indices.cpu()

    def text(i: int) -> str:
        return tokenizer.decode(rows[i][starts[i] :], clean_up_tokenization_spaces=False)

    def ends(i: int) -> bool:
        return stop in text(i) or "\n" in text(i).lstrip()

    while going:
        some = [rows[i] for i in going]
        positions = torch.tensor([[len(row) - 1] for row in some])
        _, likeliest = read_texts(lens_model, some, positions, read, most_tokens)
        tokens += cost_of(lens_model, some, most_tokens)
        for i, index in zip(going, likeliest.tolist(), strict=True):
            rows[i].append(index)
        going = [
            i
            for i in going
            if rows[i][-1] != tokenizer.eos_token_id
            and len(rows[i]) < min(starts[i] + most[i], lens_model.context_length or len(rows[i]) + 1)
            and not ends(i)
        ]
    return [_first(text(i).removesuffix(tokenizer.eos_token or "\n"), stop) for i in range(len(rows))], tokens


def _first(text: str, stop: str) -> str:
    """Return a text up to its first line end, and up to what ends an output."""
    return text.lstrip().split("\n")[0].split(stop)[0].strip()
