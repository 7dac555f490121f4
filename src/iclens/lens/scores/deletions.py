"""The true leave-one-out: the prompt without a demonstration's text, read by the model once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.read.prefix_tree import PrefixTree, prefix_trees, read_tree
from iclens.lens.read.tolerance import tolerance_of

WORTH = 0.8
"""Tokens of a tree over those of its texts, from which on a tree is quicker."""

_SHARES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a model was seen to read a text in a tree as by itself; held against its own pass once."""

_TIMES = 10
"""How far a margin may be off, in residuals that count as exact: it is a difference of logits, which are larger."""


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
def run_texts(
    lens_model: LensModel,
    texts: Sequence[tuple[Sequence[int], Readout]],
    most_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
    *,
    shared: bool = True,
) -> Outcome:
    """Run texts, each by the ids of its prompt and what is read from the last of them on.

    What texts begin with alike is read once (see `prefix_tree`; for every model one of them is held against its own
    pass). Where they share little they stand side by side, those of like length together; one by one where the length
    of a text moves its positions.

    Args:
        lens_model: the model.
        texts: token ids and what is read behind them; offsets count from the last id.
        most_tokens: how many go through the model at once; a longer text is a pass of its own.
        advance: is called with the number of finished texts after every pass.
        shared: without it every text is read whole: the naive way beside the fast one.
    """
    rows = [(*ids, *readout.forced) for ids, readout in texts]
    margins, log_probabilities = torch.zeros(2, len(texts), dtype=torch.float64)
    whole = Outcome(margins, log_probabilities, torch.zeros(len(texts), dtype=torch.bool))
    left = set(range(len(texts)))

    def put(numbers: Sequence[int], outcome: Outcome) -> None:
        for every, some in zip(whole, outcome, strict=True):
            every[list(numbers)] = some
        left.difference_update(numbers)
        advance(len(texts) - len(left))

    for tree in _trees(lens_model, rows, most_tokens) if shared else ():
        if len(tree.numbers) == 1:
            continue
        some = [texts[i] for i in tree.numbers]
        found = _read(some, lens_model, partial(read_tree, lens_model, tree))
        if lens_model.model not in _SHARES:
            _SHARES[lens_model.model] = _same(lens_model, found, some)
        if not _SHARES[lens_model.model]:
            break
        put(tree.numbers, found)
    for batch in _batches(lens_model, {i: len(rows[i]) for i in left}, most_tokens):
        put(batch, _run(lens_model, [texts[i] for i in batch]))
    return whole


def cost_of(lens_model: LensModel, rows: Sequence[Sequence[int]], most_tokens: int) -> int:
    """How many tokens `run_texts` reads for texts of these ids."""
    trees = _trees(lens_model, rows, most_tokens)
    return sum(map(len, (tree.ids for tree in trees) if trees else rows))


def _trees(lens_model: LensModel, rows: Sequence[Sequence[int]], most_tokens: int) -> list[PrefixTree]:
    """Trees that hold all texts, or none where they share too little, or the length of a text moves its positions."""
    alike = longest_alike(lens_model)
    if len(rows) < 2 or not _SHARES.get(lens_model.model, True) or (alike is not None and max(map(len, rows)) > alike):
        return []
    trees = list(prefix_trees(rows, min(most_tokens, lens_model.context_length or most_tokens)))
    return trees if sum(len(tree.ids) for tree in trees) <= WORTH * sum(map(len, rows)) else []


def _batches(lens_model: LensModel, lengths: Mapping[int, int], most_tokens: int) -> list[list[int]]:
    """Texts of like length together, by their numbers: these waste least on padding."""
    alike = longest_alike(lens_model)
    batches: list[list[int]] = []
    for i in sorted(lengths, key=lengths.__getitem__):
        apart = alike is not None and lengths[i] > alike
        if batches and not apart and (len(batches[-1]) + 1) * lengths[i] <= most_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def shortened_ids(lens_model: LensModel, prompt: Prompt, sets: Sequence[Iterable[int]]) -> list[list[int]]:
    """Ids of the prompt without the text of each set of demonstrations, and without end tokens that the tokenizer adds.

    Raises:
        UserError: an index that is no demonstration.
    """
    prompts = [prompt.without(left_out) for left_out in sets]
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

    def read(positions: Tensor) -> Tensor:
        with unembedding_only(lens_model, positions):
            return run(lens_model, tokens.ids, position_ids=tokens.places)

    return _read(texts, lens_model, read)


def _read(
    texts: Sequence[tuple[Sequence[int], Readout]], lens_model: LensModel, read: Callable[[Tensor], Tensor]
) -> Outcome:
    """The outcome of texts whose logits at given positions somebody reads."""
    origins = [len(ids) - 1 for ids, _ in texts]
    readouts = Readouts.of([readout for _, readout in texts], origins, lens_model.device)
    logits = doubled(read(readouts.positions))
    here = readouts.to(logits.device)
    likeliest = logits.argmax(-1).gather(1, here.answer_rows)
    answered = ((likeliest == here.answer_indices) | (here.answer_weights == 0)).all(-1)
    return Outcome(readouts.margin(logits).cpu(), readouts.log_probability(logits).cpu(), answered.cpu())


def _same(lens_model: LensModel, found: Outcome, texts: Sequence[tuple[Sequence[int], Readout]]) -> bool:
    """Whether the last text of a tree, read by itself with the model's own attention, says the same."""
    alone = _run(lens_model, texts[-1:])
    size = max(1.0, float(alone.margins.abs()), float(alone.log_probabilities.abs()))
    off = max(float((mine[-1] - own[-1]).abs()) for mine, own in zip(found[:2], alone[:2], strict=True))
    return off <= _TIMES * tolerance_of(lens_model.dtype) * size
