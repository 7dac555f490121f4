"""The same queries after a prompt and alone: which tokens are the same, in two trees of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.prefix_tree import PrefixTree, prefix_trees

EMPHASIS = 10.0
"""How often a token counts behind which an answer is read; any other token of a query counts once."""

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Pairing:
    """Tokens of queries as nodes of two trees, one of the texts with the prompt and one of the queries alone.

    What all texts begin with is one node. The first token of a text is left out: models attend to it as to a sink,
    whatever it is, and alone it is another one than after the prompt.

    Attributes:
        behind: the tree of the texts with the prompt.
        alone: the tree of the queries alone.
        there: nodes of the first tree.
        here: the same tokens in the second.
        weights: how often each counts.
    """

    behind: PrefixTree
    alone: PrefixTree
    there: Int[Tensor, " n"]
    here: Int[Tensor, " n"]
    weights: Float[Tensor, " n"]

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens that run with the prompt and without it."""
        return len(self.behind.ids), len(self.alone.ids)


def paired(
    lens_model: LensModel, behind: Ids, alone: Ids, n_read: Sequence[int], emphasis: float = EMPHASIS
) -> Pairing:
    """Pair each token of a query after the demonstrations with the same token of the query alone.

    Args:
        lens_model: the model that reads them.
        behind: token ids of each query with the prompt before it.
        alone: those of the query without it.
        n_read: at how many last tokens of each an answer is read.
        emphasis: how often these count.

    Raises:
        UserError: a model whose positions depend on the length of the text, or queries of one token.
    """
    alike = longest_alike(lens_model)
    if alike is not None and max(map(len, behind)) > alike:
        raise UserError(
            f"the positions of {lens_model.name} depend on the length of a text beyond {alike} tokens, and a prompt "
            f"has {max(map(len, behind))}: give fewer demonstrations."
        )
    trees = [_tree(behind), _tree(alone)]
    found: dict[tuple[int, int], float] = {}
    nodes = [dict(zip(tree.numbers, tree.paths, strict=True)) for tree in trees]
    for i, (long, short) in enumerate(zip(behind, alone, strict=True)):
        for back in range(1, min(_alike_at_end(long, short), len(short) - 1) + 1):
            pair = nodes[0][i][-back], nodes[1][i][-back]
            found[pair] = found.get(pair, 0.0) + (emphasis if back <= n_read[i] else 1.0)
    if not found:
        raise UserError("the queries have a single token each, to which models attend as to a sink: give longer ones.")
    there, here = (torch.tensor(one) for one in zip(*found, strict=True))
    return Pairing(trees[0], trees[1], there, here, torch.tensor(list(found.values()), dtype=torch.float64))


def _tree(texts: Ids) -> PrefixTree:
    """All texts in one tree: every layer is fitted while one pass goes through it."""
    (tree,) = prefix_trees(texts, sum(map(len, texts)))
    return tree


def _alike_at_end(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
