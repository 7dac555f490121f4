"""Two hops: demonstrations `b is c .` and, somewhere after it, `a is b .`, and the query `a is` with answer c.

No demonstration holds both a and c, so that the answer takes two steps: from a to b, and from b to c. The links of
different chains are mixed; within a chain the last link comes first, so that a causal model can already take that step
when it reads the first link. (With links in any order a small learner solves only the prompts that have this one.)
Words and labels are those of `iclens.language.words`: a and b are words of categories that no other link of the prompt
uses, c is a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.errors import UserError
from iclens.language.batches import FIRST_LABEL, FIRST_WORD, FULL_STOP, IS, START
from iclens.language.words import CATEGORIES, LABELS, VOCABULARY, WORDS_PER_CATEGORY

MOST_CHAINS = len(CATEGORIES) // 2
"""Every chain takes two categories."""


@dataclass(frozen=True)
class ChainPrompt:
    """One prompt and what is known about it.

    Attributes:
        demonstrations: (left, right) pairs in the order of the prompt.
        query: the start of the chain that is asked for.
        answer: the label at its end.
        relevant: indices of the demonstrations of its chain, the first hop first.
    """

    demonstrations: tuple[tuple[str, str], ...]
    query: str
    answer: str
    relevant: tuple[int, int]


@dataclass(frozen=True)
class ChainBatch:
    """Token ids of a batch of prompts with several queries each.

    Attributes:
        tokens: `<s>`, the demonstrations `a is b .`, then the queries `a is c .`; the last full stop is left out.
        read_out: positions of the queries' `is`; the answer follows at `read_out + 1`.
    """

    tokens: Int[Tensor, "batch n_tokens"]
    read_out: Int[Tensor, " n_chains"]


def sample(generator: torch.Generator, n_chains: int = 6) -> ChainPrompt:
    """Draw one prompt of 2 · n_chains demonstrations.

    Raises:
        UserError: more chains than the categories allow.
    """
    _check(n_chains)
    chains = [[VOCABULARY[i] for i in chain] for chain in _chains(generator, 1, n_chains)[0].tolist()]
    links = [(a, b) for a, b, _ in chains] + [(b, c) for _, b, c in chains]
    order = _order(generator, 1, n_chains)[0].tolist()
    asked = int(torch.randint(n_chains, (1,), generator=generator))
    return ChainPrompt(
        demonstrations=tuple(links[i] for i in order),
        query=chains[asked][0],
        answer=chains[asked][2],
        relevant=(order.index(asked), order.index(n_chains + asked)),
    )


def sample_batch(generator: torch.Generator, batch: int, n_chains: int = 6) -> ChainBatch:
    """Draw a batch of training prompts; every chain is asked for once, in random order.

    Args:
        generator: the source of randomness.
        batch: how many prompts.
        n_chains: chains a prompt.

    Raises:
        UserError: more chains than the categories allow.
    """
    _check(n_chains)
    chains = _chains(generator, batch, n_chains)
    links = torch.cat([chains[..., :2], chains[..., 1:]], dim=1)
    order = _order(generator, batch, n_chains)
    links = links.gather(1, order[..., None].expand(-1, -1, 2))
    # The chains come in random order, so that asking for them one by one asks in random order too.
    items = [_write(links[..., 0], links[..., 1]), _write(chains[..., 0], chains[..., 2])]
    return ChainBatch(
        tokens=torch.cat([torch.full((batch, 1), START), *items], dim=1)[:, :-1],
        read_out=2 + 4 * (2 * n_chains + torch.arange(n_chains)),
    )


def _chains(generator: torch.Generator, batch: int, n_chains: int) -> Int[Tensor, "batch n_chains 3"]:
    """Vocabulary ids of a, b and c of every chain; no label is used twice in a prompt."""
    categories = torch.rand(batch, len(CATEGORIES), generator=generator).argsort(-1)[:, : 2 * n_chains]
    words = torch.randint(WORDS_PER_CATEGORY, (batch, 2 * n_chains), generator=generator)
    ids = (FIRST_WORD + categories * WORDS_PER_CATEGORY + words).reshape(batch, n_chains, 2)
    labels = FIRST_LABEL + torch.rand(batch, len(LABELS), generator=generator).argsort(-1)[:, :n_chains]
    return torch.cat([ids, labels[..., None]], dim=-1)


def _order(generator: torch.Generator, batch: int, n_chains: int) -> Int[Tensor, "batch n_links"]:
    """A random order of the links (first ones 0 … n_chains − 1, then last ones), each chain's last link first."""
    keys = torch.rand(batch, 2, n_chains, generator=generator).sort(dim=1, descending=True).values
    return keys.flatten(1).argsort(-1)


def _write(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([left, torch.full_like(left, IS), right, torch.full_like(left, FULL_STOP)], dim=-1).flatten(1)


def _check(n_chains: int) -> None:
    if not 2 <= n_chains <= MOST_CHAINS:
        raise UserError(f"n_chains={n_chains} must lie between 2 and {MOST_CHAINS}: every chain takes two categories.")
