"""The probability of every candidate answer behind many prompts, whose common beginnings run once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.shared_texts import Numbers, Read, cost_of, read_texts
from iclens.selection.asked import Query

MOST_TOKENS = 1 << 12
"""Tokens that go through the model at once."""

Reader = Callable[[LensModel, Sequence[Sequence[int]], Int[Tensor, "n_texts n_positions"], Read, int], Numbers]
"""What runs texts, as `read_texts` does."""


def log_probabilities(
    lens_model: LensModel,
    texts: Sequence[tuple[Sequence[int], Query]],
    most_tokens: int = MOST_TOKENS,
    *,
    shared: bool = True,
    reader: Reader | None = None,
) -> tuple[list[list[float]], list[bool], int]:
    """Read log p of every answer of a query behind a prompt, the sum over all of the answer's tokens, in nats.

    Args:
        lens_model: the model.
        texts: the token ids of each prompt, which ends with its query, and the query.
        most_tokens: how many go through the model at once.
        shared: without it every text is read whole: the naive way beside the fast one.
        reader: runs the texts; `read_texts` unless given. Tokens are then counted as if every text was read whole.

    Returns:
        For each text the numbers in the order of the query's answers, whether greedy decoding would begin with the
        first of them, and how many tokens were read in all.
    """
    rows: list[tuple[int, ...]] = []
    read_of: list[list[tuple[int, ...]]] = []  # the answers that are read of each row
    places: list[list[tuple[int, int]]] = []  # of each text's answers: the row, and which of its answers
    for ids, query in texts:
        behind_each = [one[:-1] for one in query.ids]
        # Where the length of a text moves its positions, each answer is read in a text of its own length.
        forced = _fewest(behind_each) if longest_alike(lens_model) is None else list(dict.fromkeys(behind_each))
        first = len(rows)
        rows += [(*ids, *behind) for behind in forced]
        read_of += [[] for _ in forced]
        places.append([])
        for answer in query.ids:
            row = first + next(i for i, behind in enumerate(forced) if _begins(behind, answer[:-1], forced))
            places[-1].append((row, len(read_of[row])))
            read_of[row].append(answer)
    lengths = [len(ids) for (ids, _), own in zip(texts, places, strict=True) for _ in {row for row, _ in own}]
    size = (len(rows), max(map(len, read_of)), max(len(one) for own in read_of for one in own))
    indices, counted = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.float64)
    for row, own in enumerate(read_of):
        for slot, answer in enumerate(own):
            indices[row, slot, : len(answer)] = torch.tensor(answer)
            counted[row, slot, : len(answer)] = 1.0
    ends = torch.tensor([len(row) - 1 for row in rows])
    positions = torch.minimum(torch.tensor(lengths)[:, None] - 1 + torch.arange(size[2]), ends[:, None])

    def read(numbers: Sequence[int], logits: Float[Tensor, "n_texts n_positions vocabulary"]) -> tuple[Tensor, Tensor]:
        chosen = list(numbers)
        own, weights = indices[chosen].to(logits.device), counted[chosen].to(logits.device)
        log_p = (logits.gather(-1, own.transpose(1, 2)) - logits.logsumexp(-1, keepdim=True)).transpose(1, 2)
        likeliest = (logits.argmax(-1)[:, None] == own) | (weights == 0)
        return (log_p * weights).sum(-1).cpu(), likeliest.all(-1).cpu()

    run = partial(read_texts, shared=shared) if reader is None else reader
    found, greedy = run(lens_model, rows, positions, read, most_tokens)
    values = [[float(found[place]) for place in own] for own in places]
    tokens = cost_of(lens_model, rows, most_tokens) if shared and reader is None else sum(map(len, rows))
    return values, [bool(greedy[own[0]]) for own in places], tokens


def _begins(behind: tuple[int, ...], answer: tuple[int, ...], forced: Sequence[tuple[int, ...]]) -> bool:
    """Whether an answer is read in the text with these tokens behind it: its own, if there is one, or a longer one."""
    return behind == answer if answer in forced else behind[: len(answer)] == answer


def _fewest(forced: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of tokens that are forced behind a text, those that no longer ones begin with."""
    kept: list[tuple[int, ...]] = []
    for one in sorted(forced, key=len, reverse=True):
        if not any(other[: len(one)] == one for other in kept):
            kept.append(one)
    return kept
