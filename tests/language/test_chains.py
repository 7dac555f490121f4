"""Chains: the answer is at the end of the query's two links, and in no demonstration that names the query."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.language.chains import MOST_CHAINS, sample, sample_batch
from iclens.language.words import CATEGORY_OF, LABELS, VOCABULARY


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 500), st.integers(2, MOST_CHAINS))
def test_following_the_links_from_the_query_gives_the_answer(seed, n_chains):
    drawn = sample(seeded(seed), n_chains)
    links = dict(drawn.demonstrations)
    assert len(links) == len(drawn.demonstrations) == 2 * n_chains
    assert links[links[drawn.query]] == drawn.answer
    first, last = drawn.relevant
    assert drawn.demonstrations[first] == (drawn.query, links[drawn.query])
    assert drawn.demonstrations[last] == (links[drawn.query], drawn.answer)
    assert not any(drawn.query in pair and drawn.answer in pair for pair in drawn.demonstrations)
    assert sum(right in LABELS for _, right in drawn.demonstrations) == n_chains


@given(st.integers(0, 500))
def test_no_other_link_is_of_the_query_s_category_or_ends_in_its_label(seed):
    drawn = sample(seeded(seed))
    lefts = [CATEGORY_OF[left] for left, _ in drawn.demonstrations]
    assert len(set(lefts)) == len(lefts)
    assert [right for _, right in drawn.demonstrations].count(drawn.answer) == 1


@given(st.integers(0, 500), st.integers(2, 6))
def test_batches_say_the_same_as_prompts(seed, n_chains):
    batch = sample_batch(seeded(seed), 4, n_chains)
    for row in batch.tokens:
        words = [VOCABULARY[i] for i in row.tolist()] + ["."]
        items = [words[i : i + 4] for i in range(1, len(words), 4)]
        assert all(verb == "is" and stop == "." for _, verb, _, stop in items)
        links = {left: right for left, _, right, _ in items[: 2 * n_chains]}
        queries = items[2 * n_chains :]
        assert len({query[0] for query in queries}) == n_chains
        for (left, _, right, _), at in zip(queries, batch.read_out, strict=True):
            assert right == links[links[left]]
            assert right in LABELS
            assert [words[at], words[at + 1]] == ["is", right]


def test_the_last_link_of_a_chain_comes_first_and_the_rest_is_random():
    drawn = [sample(seeded(s), 2) for s in range(300)]
    assert all(last < first for first, last in (prompt.relevant for prompt in drawn))
    counts = Counter(prompt.relevant for prompt in drawn)
    # Of the 6 pairs of places each is as likely as the others.
    assert set(counts) == {(first, last) for first in range(4) for last in range(first)}
    assert max(counts.values()) < 80
    assert min(counts.values()) > 25


@pytest.mark.parametrize("n_chains", [1, MOST_CHAINS + 1])
def test_too_many_or_too_few_chains_are_refused(n_chains):
    with pytest.raises(UserError, match="must lie between 2"):
        sample(seeded(), n_chains)
    with pytest.raises(UserError, match="must lie between 2"):
        sample_batch(seeded(), 1, n_chains)
