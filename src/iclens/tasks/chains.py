"""Two hops: demonstrations `b is c .` and, somewhere after it, `a is b .`, and the query `a is` with answer c.

No demonstration holds both a and c, so that the answer takes two steps: from a to b, and from b to c. The links of
different chains are mixed; within a chain the last link comes first, so that a causal model can already take that step
when it reads the first link. (With links in any order a small learner solves only the prompts that have this one.)
Words and labels are those of `iclens.tasks.words`: a and b are words of categories that no other link of the prompt
uses, c is a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iclens.errors import UserError
from iclens.tasks.word_batches import FIRST_LABEL, FIRST_WORD, FULL_STOP, IS, START
from iclens.tasks.words import CATEGORIES, LABELS, VOCABULARY, WORDS_PER_CATEGORY

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
    """Token ids of a batch of prompts; behind the demonstrations, every chain is asked for once.

    The queries do not see each other and stand at the same positions: what one of them answers must not tell
    another one which answers are left.

    Attributes:
        tokens: `<s>`, the demonstrations `left is right .`, then the queries `a is`, whose answers are left out.
        allowed: which tokens a token may attend to.
        positions: of the tokens, from 0.
        read_out: places of the queries' `is`.
        answers: the labels that follow there.
        middles: for each query, the place of b in its first link `a is b`.
    """

    tokens: Int[Tensor, "batch n_tokens"]
    allowed: Bool[Tensor, "n_tokens n_tokens"]
    positions: Int[Tensor, " n_tokens"]
    read_out: Int[Tensor, " n_chains"]
    answers: Int[Tensor, "batch n_chains"]
    middles: Int[Tensor, "batch n_chains"]


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


def sample_batch(
    generator: torch.Generator,
    batch: int,
    n_chains: int = 6,
    *,
    n_categories: int = len(CATEGORIES),
    n_words: int = WORDS_PER_CATEGORY,
    n_labels: int = len(LABELS),
) -> ChainBatch:
    """Draw a batch of training prompts.

    Args:
        generator: the source of randomness.
        batch: how many prompts.
        n_chains: chains a prompt.
        n_categories: only the first so many categories are used (the curriculum).
        n_words: only the first so many words of each.
        n_labels: only the first so many labels.

    Raises:
        UserError: more chains than the categories, or than the labels, allow.
    """
    _check(n_chains, n_categories, n_words, n_labels)
    chains = _chains(generator, batch, n_chains, n_categories, n_words, n_labels)
    links = torch.cat([chains[..., :2], chains[..., 1:]], dim=1)
    order = _order(generator, batch, n_chains)
    links = links.gather(1, order[..., None].expand(-1, -1, 2))
    starts = chains[..., 0]
    queries = torch.stack([starts, torch.full_like(starts, IS)], dim=-1).flatten(1)
    tokens = torch.cat([torch.full((batch, 1), START), _write(links[..., 0], links[..., 1]), queries], dim=1)
    prefix, places = 1 + 8 * n_chains, torch.arange(tokens.shape[1])
    query = torch.where(places < prefix, -1, (places - prefix) // 2)
    return ChainBatch(
        tokens=tokens,
        allowed=(places[:, None] >= places) & ((query == -1) | (query[:, None] == query)),
        positions=torch.where(places < prefix, places, prefix + (places - prefix) % 2),
        read_out=prefix + 1 + 2 * torch.arange(n_chains),
        answers=chains[..., 2],
        middles=3 + 4 * order.argsort(-1)[:, :n_chains],
    )


def _chains(
    generator: torch.Generator,
    batch: int,
    n_chains: int,
    n_categories: int = len(CATEGORIES),
    n_words: int = WORDS_PER_CATEGORY,
    n_labels: int = len(LABELS),
) -> Int[Tensor, "batch n_chains 3"]:
    """Vocabulary ids of a, b and c of every chain; no category and no label is used twice in a prompt."""
    categories = torch.rand(batch, n_categories, generator=generator).argsort(-1)[:, : 2 * n_chains]
    words = torch.randint(n_words, (batch, 2 * n_chains), generator=generator)
    ids = (FIRST_WORD + categories * WORDS_PER_CATEGORY + words).reshape(batch, n_chains, 2)
    labels = FIRST_LABEL + torch.rand(batch, n_labels, generator=generator).argsort(-1)[:, :n_chains]
    return torch.cat([ids, labels[..., None]], dim=-1)


def _order(generator: torch.Generator, batch: int, n_chains: int) -> Int[Tensor, "batch n_links"]:
    """A random order of the links (first ones 0 … n_chains − 1, then last ones), each chain's last link first."""
    keys = torch.rand(batch, 2, n_chains, generator=generator).sort(dim=1, descending=True).values
    return keys.flatten(1).argsort(-1)


def _write(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([left, torch.full_like(left, IS), right, torch.full_like(left, FULL_STOP)], dim=-1).flatten(1)


def _check(
    n_chains: int,
    n_categories: int = len(CATEGORIES),
    n_words: int = WORDS_PER_CATEGORY,
    n_labels: int = len(LABELS),
) -> None:
    if not (n_categories <= len(CATEGORIES) and 1 <= n_words <= WORDS_PER_CATEGORY and n_labels <= len(LABELS)):
        raise UserError(
            f"n_categories={n_categories}, n_words={n_words} and n_labels={n_labels} reach beyond the {len(CATEGORIES)} "
            f"categories of {WORDS_PER_CATEGORY} words and the {len(LABELS)} labels."
        )
    most = min(n_categories // 2, n_labels)
    if not 2 <= n_chains <= most:
        raise UserError(
            f"n_chains={n_chains} must lie between 2 and {most}: every chain takes two categories and a label."
        )
