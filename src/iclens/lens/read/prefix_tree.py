"""Texts that begin alike, run as one tree: a token that several of them share is read once.

Every token attends to the tokens before it in its own texts and to no others, at the position that it has there;
windows and chunks of a model count in these positions too. So each text is read as if it stood alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, Given, Plain, Seen, attending
from iclens.lens.read.attend import fast
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.padded import unembedding_only

_ROWS = 128
"""Tokens whose attention is formed at once."""


@dataclass(frozen=True)
class PrefixTree:
    """Token ids as a tree, a node for each token with all that stands before it; parents come before their children.

    Attributes:
        numbers: which of the given texts these are.
        ids: vocabulary id of each node.
        parents: the node before it, −1 at the start of a text.
        paths: for each text the nodes of its tokens.
    """

    numbers: tuple[int, ...]
    ids: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @cached_property
    def places(self) -> Int[Tensor, " n"]:
        """The position of every node in its texts."""
        places: list[int] = []
        for parent in self.parents:
            places.append(0 if parent < 0 else places[parent] + 1)
        return torch.tensor(places)

    def before(self, rows: slice) -> Bool[Tensor, "rows n"]:
        """Which nodes stand before each of some nodes in its texts, itself among them."""
        first, last, _ = rows.indices(len(self.ids))
        found = torch.zeros(last - first, len(self.ids), dtype=torch.bool)
        for node in range(first, last):
            own, parent = found[node - first], self.parents[node]
            own[node] = True
            if parent >= first:
                own |= found[parent - first]
                continue
            above = []
            while parent >= 0:
                above.append(parent)
                parent = self.parents[parent]
            own[above] = True
        return found


def prefix_trees(texts: Sequence[Sequence[int]], most_tokens: int) -> Iterator[PrefixTree]:
    """Put texts, none of them empty, into trees of at most `most_tokens` nodes each, or of one longer text.

    In the order of their ids neighbours share most, and a text shares with its neighbour whatever it shares with any
    text before it.
    """
    numbers: list[int] = []
    ids: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = []
    for number in sorted(range(len(texts)), key=lambda one: tuple(texts[one])):
        text = texts[number]
        shared = _alike(text, texts[numbers[-1]]) if numbers else 0
        if numbers and len(ids) + len(text) - shared > most_tokens:
            yield PrefixTree(tuple(numbers), tuple(ids), tuple(parents), tuple(paths))
            numbers, ids, parents, paths, shared = [], [], [], [], 0
        path = list(paths[-1][:shared]) if shared else []
        for token in text[shared:]:
            parents.append(path[-1] if path else -1)
            path.append(len(ids))
            ids.append(token)
        numbers.append(number)
        paths.append(tuple(path))
    if numbers:
        yield PrefixTree(tuple(numbers), tuple(ids), tuple(parents), tuple(paths))


def read_tree(
    lens_model: LensModel, tree: PrefixTree, positions: Int[Tensor, "n_texts n_positions"]
) -> Float[Tensor, "n_texts n_positions vocabulary"]:
    """Return the logits at some positions of every text, from one pass over the tree."""
    device = lens_model.device
    nodes = torch.tensor(
        [[path[place] for place in own] for path, own in zip(tree.paths, positions.tolist(), strict=True)]
    )
    ids, places = torch.tensor([tree.ids], device=device), tree.places.to(device)
    known: dict[Seen, list[_Block]] = {}

    def attend(call: AttentionCall) -> Tensor:
        if call.seen not in known:
            known[call.seen] = list(_blocks(tree, call.seen, places))
        pieces = []
        for rows, keys, mask in known[call.seen]:
            k, v = call.k[:, :, keys], call.v[:, :, keys]
            pieces.append(fast(replace(call, q=call.q[:, :, rows], k=k, v=v, seen=mask)))
        return torch.cat(pieces, dim=2)

    # With a mask given, transformers does not take positions that begin again for texts in a row.
    with (
        attending(lens_model, attend, places=places[None]),
        unembedding_only(lens_model, nodes.flatten()[None].to(device)),
        fused_activations(lens_model),
    ):
        logits = run(lens_model, ids, torch.ones_like(ids), position_ids=places[None])
    return logits[0].unflatten(0, nodes.shape)


_Block = tuple[slice, Int[Tensor, " n_keys"], Given]


def _blocks(tree: PrefixTree, seen: Seen, places: Int[Tensor, " n"]) -> Iterator[_Block]:
    """Some rows at a time, with the keys that any of them sees: texts that lie apart form no scores with each other."""
    for first in range(0, len(places), _ROWS):
        rows = slice(first, min(first + _ROWS, len(places)))
        mask = tree.before(rows).to(places.device)
        if not isinstance(seen, Plain):
            mask &= seen.at(places, rows)
        keys = mask.any(0).nonzero().flatten()
        yield rows, keys, Given(mask[:, keys][None, None])


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    for count, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return count
    return min(len(one), len(other))
