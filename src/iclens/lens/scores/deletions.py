"""The true leave-one-out: the prompt without a demonstration's text, read by the model once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.shared_texts import read_texts


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


def run_texts(
    lens_model: LensModel,
    texts: Sequence[tuple[Sequence[int], Readout]],
    most_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
    *,
    shared: bool = True,
) -> Outcome:
    """Run texts, each by the ids of its prompt and what is read from the last of them on; see `read_texts`.

    Args:
        lens_model: the model.
        texts: token ids and what is read after them; offsets count from the last id.
        most_tokens: how many go through the model at once; a longer text is a separate pass.
        advance: is called with the number of finished texts after every pass.
        shared: without it every text is read whole: the naive way beside the fast one.
    """
    if not texts:
        nothing = torch.zeros(0, dtype=torch.float64)
        return Outcome(nothing, nothing, nothing.bool())
    every = Readouts.of([readout for _, readout in texts], [len(ids) - 1 for ids, _ in texts], torch.device("cpu"))

    def read(numbers: Sequence[int], logits: Tensor) -> Outcome:
        here = every[torch.tensor(numbers)].to(logits.device)
        likeliest = logits.argmax(-1).gather(1, here.answer_rows)
        answered = ((likeliest == here.answer_indices) | (here.answer_weights == 0)).all(-1)
        margins, log_probabilities = here.margin(logits), here.log_probability(logits)
        return Outcome(margins.double().cpu(), log_probabilities.double().cpu(), answered.cpu())

    rows = [(*ids, *readout.forced) for ids, readout in texts]
    return Outcome(*read_texts(lens_model, rows, every.positions, read, most_tokens, advance, shared=shared))


def shortened_ids(lens_model: LensModel, prompt: Prompt, sets: Sequence[Iterable[int]]) -> list[list[int]]:
    """Ids of the prompt without the text of each set of demonstrations, and without end tokens that the tokenizer adds.

    Raises:
        UserError: an index that is not a demonstration.
    """
    return ids_of(lens_model, [prompt.without(left_out) for left_out in sets])


def ids_of(lens_model: LensModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Ids of prompts that are written alike, without end tokens that the tokenizer adds."""
    if not prompts:
        return []
    tokenizer = lens_model.tokenizer
    options = {"add_special_tokens": prompts[0].add_special_tokens, "truncation": False, "padding": False}
    options |= {"return_offsets_mapping": True, "return_attention_mask": False, "verbose": False}
    encoded = tokenizer([prompt.text for prompt in prompts], **options)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    rows = []
    for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        n = len(ids)
        while n and ids[n - 1] in special and offsets[n - 1][0] == offsets[n - 1][1]:
            n -= 1
        rows.append(ids[:n])
    return rows
