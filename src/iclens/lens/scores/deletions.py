"""The true leave-one-out: the prompt without a demonstration's text, read by the model once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens, unembedding_only


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


@torch.no_grad()
def rerun(
    lens_model: LensModel,
    prompt: Prompt,
    readout: Readout,
    sets: Sequence[Iterable[int]],
    *,
    most_tokens: int = 1 << 12,
    advance: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Run a causal language model on a prompt without the text of each set of demonstrations.

    Shortened prompts stand side by side, those of like length together; one by one where the length of a text moves its
    positions. The offsets of what is read count from each one's last token. `most_tokens` go through the model at once;
    a longer prompt is a pass of its own. `advance` is called with the number of finished prompts after every pass.

    Raises:
        UserError: an index that is no demonstration.
    """
    shortened = _token_ids(lens_model, [prompt.without(left_out) for left_out in sets])
    return run_texts(lens_model, [(ids, readout) for ids in shortened], most_tokens, advance)


@torch.no_grad()
def run_texts(
    lens_model: LensModel,
    texts: Sequence[tuple[Sequence[int], Readout]],
    most_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Run texts side by side, each by the ids of its prompt and what is read from the last of them on; see `rerun`."""
    lengths = [len(ids) + len(readout.forced) for ids, readout in texts]
    alike = longest_alike(lens_model)
    batches: list[list[int]] = []
    # Batches of like length waste least on padding.
    for i in sorted(range(len(texts)), key=lengths.__getitem__):
        apart = alike is not None and lengths[i] > alike
        if batches and not apart and (len(batches[-1]) + 1) * lengths[i] <= most_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    margins, log_probabilities = torch.zeros(2, len(texts), dtype=torch.float64)
    whole = Outcome(margins, log_probabilities, torch.zeros(len(texts), dtype=torch.bool))
    done = 0
    for batch in batches:
        for every, some in zip(whole, _run(lens_model, [texts[i] for i in batch]), strict=True):
            every[batch] = some
        done += len(batch)
        advance(done)
    return whole


def _token_ids(lens_model: LensModel, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Ids of each prompt, without end tokens that the tokenizer adds after the text."""
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


def _run(lens_model: LensModel, texts: Sequence[tuple[Sequence[int], Readout]]) -> Outcome:
    rows = [torch.tensor([*ids, *readout.forced], dtype=torch.long) for ids, readout in texts]
    tokens = PaddedTokens.of(rows, [0] * len(rows), lens_model.device)
    origins = [len(ids) - 1 for ids, _ in texts]
    readouts = Readouts.of([readout for _, readout in texts], origins, lens_model.device)
    with unembedding_only(lens_model, readouts.positions):
        logits = doubled(run(lens_model, tokens.ids, position_ids=tokens.places))
    here = readouts.to(logits.device)
    likeliest = logits.argmax(-1).gather(1, here.answer_rows)
    answered = ((likeliest == here.answer_indices) | (here.answer_weights == 0)).all(-1)
    return Outcome(readouts.margin(logits).cpu(), readouts.log_probability(logits).cpu(), answered.cpu())
