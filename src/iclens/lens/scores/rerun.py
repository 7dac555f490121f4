"""The true leave-one-out: the prompt without a demonstration's text, read by the model once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.answers import Margin
from iclens.lens.read.capture import run
from iclens.lens.read.readout import Readout


class Outcome(NamedTuple):
    """What the model says of shortened prompts, one entry each.

    Attributes:
        margins: the explained margin.
        log_probabilities: log p(answer), over all its tokens.
        answered: whether greedy decoding gives the answer: each of its tokens is the likeliest of the whole vocabulary.
    """

    margins: Float[Tensor, " n_prompts"]
    log_probabilities: Float[Tensor, " n_prompts"]
    answered: Bool[Tensor, " n_prompts"]


def reading(margin: Margin, last_position: int) -> tuple[tuple[int, ...], Readout]:
    """What to append to a prompt, and where to read, for the margin and for all the answer's tokens.

    Args:
        margin: the explained margin.
        last_position: position of the prompt's last token.

    Returns:
        the token ids to append (teacher forcing), and the read-out.
    """
    forced = margin.answer_ids[:-1]
    if len(margin.append) > len(forced):
        forced = margin.append
    answer = tuple((last_position + offset, index) for offset, index in enumerate(margin.answer_ids))
    return forced, Readout(margin.readout(last_position), answer)


@torch.no_grad()
def rerun(
    lens_model: LensModel,
    prompt: Prompt,
    margin: Margin,
    sets: Sequence[Iterable[int]],
    *,
    batch_size: int = 16,
    advance: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Margin and log p(answer) of the prompt after deleting the text of each set of demonstrations.

    The shortened text is tokenised afresh; the margin keeps its alternatives. Prompts run in batches, the shorter ones
    padded on the right, where a causal model does not see it; those whose length moves their positions run alone.

    Args:
        lens_model: a causal language model.
        prompt: the whole prompt.
        margin: the explained margin.
        sets: the demonstrations to leave out, one entry a prompt.
        batch_size: prompts in one forward pass.
        advance: called with the number of prompts done after every batch.
    """
    shortened = _token_ids(lens_model, [prompt.without(left_out) for left_out in sets])
    n_offsets = max([offset for offset, _, _ in margin.terms] + [len(margin.answer_ids) - 1]) + 1
    # Batches of like length waste least on padding.
    order = sorted(range(len(shortened)), key=lambda index: len(shortened[index]))
    margins, log_probabilities = torch.zeros(2, len(order), dtype=torch.float64)
    answered = torch.zeros(len(order), dtype=torch.bool)
    alike = longest_alike(lens_model)
    together = [i for i in order if alike is None or len(shortened[i]) + n_offsets <= alike]
    batches = [together[start : start + batch_size] for start in range(0, len(together), batch_size)]
    batches += [[i] for i in order[len(together) :]]
    done = 0
    for batch in batches:
        logits = _final_logits(lens_model, [shortened[index] for index in batch], margin, n_offsets)
        where = torch.tensor(batch)
        margins[where], log_probabilities[where], answered[where] = _read(margin, logits)
        done += len(batch)
        advance(done)
    return Outcome(margins, log_probabilities, answered)


def _token_ids(lens_model: LensModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Ids of each prompt, without end tokens that the tokenizer adds after the text."""
    if not prompts:
        return []
    tokenizer = lens_model.tokenizer
    encoded = tokenizer(
        [prompt.text for prompt in prompts],
        add_special_tokens=prompts[0].add_special_tokens,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    rows = []
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        n = len(ids)
        while n and ids[n - 1] in special and offsets[n - 1][0] == offsets[n - 1][1]:
            n -= 1
        rows.append(ids[:n])
    return rows


def _final_logits(
    lens_model: LensModel, prompts: list[list[int]], margin: Margin, n_offsets: int
) -> Float[Tensor, "batch n_offsets vocabulary"]:
    """The logits at each prompt's last token and at the forced answer tokens behind it."""
    forced, _ = reading(margin, 0)
    lengths = torch.tensor([len(ids) for ids in prompts])
    rows = torch.zeros(len(prompts), int(lengths.max()) + len(forced), dtype=torch.long)
    for row, ids in enumerate(prompts):
        rows[row, : len(ids) + len(forced)] = torch.tensor([*ids, *forced])
    mask = (torch.arange(rows.shape[1]) < (lengths + len(forced))[:, None]).long()
    positions = lengths[:, None] - 1 + torch.arange(n_offsets)
    keep, places = positions.unique(return_inverse=True)
    device = lens_model.device
    logits = run(lens_model, rows.to(device), mask.to(device), logits_to_keep=keep.to(device))
    return logits[torch.arange(len(prompts), device=device)[:, None], places.to(device)]


def _read(
    margin: Margin, logits: Float[Tensor, "batch n_offsets vocabulary"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    offsets, indices, weights = zip(*margin.terms, strict=True)
    wide = logits.double()
    margins = wide[:, list(offsets), list(indices)] @ wide.new_tensor(weights)
    steps, ids = torch.arange(len(margin.answer_ids)), torch.tensor(margin.answer_ids)
    at = wide[:, : len(ids)]
    log_probabilities = (at[:, steps, ids] - torch.logsumexp(at, -1)).sum(-1)
    answered = (at.argmax(-1) == ids.to(at.device)).all(-1)
    return margins.cpu(), log_probabilities.cpu(), answered.cpu()
