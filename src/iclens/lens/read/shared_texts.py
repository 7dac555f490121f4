"""Many texts read at some of their positions: what they begin with alike runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.capture import run
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.read.prefix_tree import PrefixTree, prefix_trees, read_tree
from iclens.lens.read.tolerance import tolerance_of

WORTH = 0.8
"""Tokens of a tree over those of its texts, from which on a tree is quicker."""

_SHARES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a model was seen to read a text in a tree as by itself; checked against its own pass once."""

_TIMES = 10
"""How far a number may be off, in residuals that count as exact: it is a difference of logits, which are larger."""

Numbers = tuple[Tensor, ...]
"""What is read of some texts, an entry each along the first axis of every tensor."""

Read = Callable[[Sequence[int], Float[Tensor, "n_texts n_positions vocabulary"]], Numbers]
"""What is read of texts, by their numbers, from their logits in no less than double precision where there is one."""


@torch.no_grad()
def read_texts(
    lens_model: LensModel,
    rows: Sequence[Sequence[int]],
    positions: Int[Tensor, "n_texts n_positions"],
    read: Read,
    most_tokens: int,
    advance: Callable[[int], None] = lambda done: None,
    *,
    shared: bool = True,
) -> Numbers:
    """Run texts and read numbers of each.

    What texts begin with alike is read once (see `prefix_tree`; for every model one of them is checked against its own
    pass). Where they share little they stand side by side, those of like length together; one by one where the length
    of a text moves its positions.

    Args:
        lens_model: the model.
        rows: token ids of each text.
        positions: where the logits of each are needed.
        read: what is read of them. Floating-point numbers are those by which a tree is checked against an own pass.
        most_tokens: how many go through the model at once, beside the longest text where what texts begin with alike
            is read once; a longer text is a separate pass where it is not.
        advance: is called with the number of finished texts after every pass.
        shared: without it every text is read whole: the naive way beside the fast one.
    """
    found: dict[int, Numbers] = {}

    def put(numbers: Sequence[int], some: Numbers) -> None:
        found.update(zip(numbers, zip(*some, strict=True), strict=True))
        advance(len(found))

    for tree in trees_of(lens_model, rows, _room(rows, most_tokens)) if shared else ():
        if len(tree.numbers) == 1:
            continue
        some = read(tree.numbers, doubled(read_tree(lens_model, tree, positions[list(tree.numbers)])))
        if lens_model.model not in _SHARES:
            last = tree.numbers[-1:]
            own = read(last, _logits(lens_model, rows, positions, last))
            _SHARES[lens_model.model] = _same(lens_model, [one[-1:] for one in some], own)
        if not _SHARES[lens_model.model]:
            break
        put(tree.numbers, some)
    for batch in _batches(lens_model, {i: len(row) for i, row in enumerate(rows) if i not in found}, most_tokens):
        put(batch, read(batch, _logits(lens_model, rows, positions, batch)))
    return tuple(torch.stack(parts) for parts in zip(*(found[i] for i in range(len(rows))), strict=True))


def trees_of(lens_model: LensModel, rows: Sequence[Sequence[int]], most_tokens: int) -> list[PrefixTree]:
    """Trees that hold all texts, or none where they share too little, or the length of a text moves its positions."""
    alike = longest_alike(lens_model)
    if len(rows) < 2 or not _SHARES.get(lens_model.model, True) or (alike is not None and max(map(len, rows)) > alike):
        return []
    trees = list(prefix_trees(rows, most_tokens))
    return trees if sum(len(tree.ids) for tree in trees) <= WORTH * sum(map(len, rows)) else []


def cost_of(lens_model: LensModel, rows: Sequence[Sequence[int]], most_tokens: int) -> int:
    """Return how many tokens `read_texts` reads for texts of these ids."""
    trees = trees_of(lens_model, rows, _room(rows, most_tokens))
    return sum(map(len, (tree.ids for tree in trees) if trees else rows))


def _room(rows: Sequence[Sequence[int]], most_tokens: int) -> int:
    """Return how many tokens a tree may have: long texts would else be read again for every few that share them."""
    return most_tokens + max(map(len, rows), default=0)


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


def _logits(
    lens_model: LensModel, rows: Sequence[Sequence[int]], positions: Tensor, numbers: Sequence[int]
) -> Float[Tensor, "n_texts n_positions vocabulary"]:
    """Return the logits of texts side by side, with the model's own attention."""
    ids = [torch.tensor(rows[i], dtype=torch.long) for i in numbers]
    tokens = PaddedTokens.of(ids, [0] * len(ids), lens_model.device)
    with unembedding_only(lens_model, positions[list(numbers)].to(lens_model.device)):
        return doubled(run(lens_model, tokens.ids, position_ids=tokens.places))


def _same(lens_model: LensModel, found: Sequence[Tensor], own: Numbers) -> bool:
    """Return whether a text of a tree, read by itself with the model's own attention, says the same."""
    pairs = [(mine, alone) for mine, alone in zip(found, own, strict=True) if alone.is_floating_point()]
    size = max(1.0, *(float(alone.abs().max()) for _, alone in pairs))
    off = max(float((mine - alone).abs().max()) for mine, alone in pairs)
    return off <= _TIMES * tolerance_of(lens_model.dtype) * size
