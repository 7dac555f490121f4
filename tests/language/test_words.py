from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.language.batches import FIRST_LABEL, FIRST_WORD, FULL_STOP, IS, START, sample_batch
from iclens.language.words import (
    CATEGORIES,
    CATEGORY_OF,
    LABELS,
    VOCABULARY,
    WORDS_PER_CATEGORY,
    held_out_label,
    sample_words,
)

seeds = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def drawn(seed, n_demonstrations, share, n_categories, split):
    n_relevant = min(round(share * n_demonstrations), 18)
    return sample_words(generator(seed), n_demonstrations, n_relevant, n_categories=n_categories, split=split)


# Prompts are drawn in the tests, not by the strategy: the runtime type checks use `random`, which strategies may not.
prompts = st.tuples(
    seeds,
    st.integers(1, 24),
    st.floats(0, 1),
    st.integers(3, len(CATEGORIES)),
    st.sampled_from(["train", "held-out", "any"]),
)


def test_no_token_has_two_meanings():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert {len(words) for words in CATEGORIES.values()} == {WORDS_PER_CATEGORY}
    assert all(token.isascii() and token == token.lower() for token in VOCABULARY)


def test_every_label_is_kept_from_one_word_of_each_category():
    for words in CATEGORIES.values():
        assert sorted(held_out_label(word) for word in words) == sorted(LABELS)


def test_a_word_of_no_category_has_no_held_out_label():
    with pytest.raises(UserError, match="'xylophone' is in none"):
        held_out_label("xylophone")


@settings(max_examples=30)
@given(prompts)
def test_relevant_are_exactly_the_demonstrations_of_the_querys_category(arguments):
    prompt = drawn(*arguments)
    own = CATEGORY_OF[prompt.query]
    relevant = [i for i, (word, _) in enumerate(prompt.demonstrations) if CATEGORY_OF[word] == own]
    assert list(prompt.relevant) == relevant
    assert all(prompt.demonstrations[i][1] == prompt.answer for i in relevant)
    assert prompt.categories == tuple(CATEGORY_OF[word] for word, _ in prompt.demonstrations)


@settings(max_examples=30)
@given(prompts)
def test_a_category_has_one_label_and_no_word_repeats(arguments):
    prompt = drawn(*arguments)
    labels = {}
    for (_, label), category in zip(prompt.demonstrations, prompt.categories, strict=True):
        assert labels.setdefault(category, label) == label
    words = [word for word, _ in prompt.demonstrations] + [prompt.query]
    assert len(set(words)) == len(words)


@settings(max_examples=30)
@given(seeds, st.integers(3, 20), st.sampled_from(["train", "held-out"]))
def test_the_split_keeps_held_out_pairs_out_of_training(seed, n_categories, split):
    prompt = sample_words(generator(seed), 12, 3, n_categories=n_categories, split=split)
    assert all(label != held_out_label(word) for word, label in prompt.demonstrations)
    assert (prompt.answer == held_out_label(prompt.query)) == (split == "held-out")


@settings(max_examples=30)
@given(seeds, st.integers(0, 4), st.integers(2, 9))
def test_counts_are_as_asked(seed, n_relevant, n_categories):
    prompt = sample_words(generator(seed), 12, n_relevant, n_categories=n_categories)
    assert len(prompt.demonstrations) == 12
    assert len(prompt.relevant) == n_relevant
    others = set(prompt.categories) - {CATEGORY_OF[prompt.query]}
    assert len(others) == min(n_categories - 1, 12 - n_relevant)


@settings(max_examples=30)
@given(seeds)
def test_seeds_reproduce_and_differ(seed):
    assert sample_words(generator(seed)) == sample_words(generator(seed))
    first = generator(seed)
    assert sample_words(first) != sample_words(first)


def test_labels_are_assigned_afresh_and_uniformly():
    source = generator(0)
    n = 2000
    counts = Counter()
    given_category = Counter()
    for _ in range(n):
        prompt = sample_words(source, 3, 1, n_categories=3, split="any")
        counts[prompt.answer] += 1
        if CATEGORY_OF[prompt.query] == "animal":
            given_category[prompt.answer] += 1
    expected = n / len(LABELS)
    # Five standard deviations of a binomial count.
    assert all(abs(counts[label] - expected) < 5 * expected**0.5 for label in LABELS)
    # About 100 draws: a label that the category never had leaves 1 in 170; 15 of 20 is far below.
    assert len(given_category) >= 15


def test_the_answer_cannot_be_known_without_its_category():
    source = generator(1)
    n = 2000
    hits = 0
    for _ in range(n):
        prompt = sample_words(source, 6, 0, n_categories=4, split="any")
        hits += prompt.answer == prompt.demonstrations[0][1]
    expected = n / len(LABELS)
    assert abs(hits - expected) < 5 * expected**0.5


@settings(max_examples=30)
@given(prompts, st.data())
def test_removing_demonstrations_keeps_the_rest(arguments, data):
    prompt = drawn(*arguments)
    indices = range(len(prompt.demonstrations))
    removed = data.draw(st.sets(st.sampled_from(indices)))
    rest = prompt.without(removed)
    assert rest.demonstrations == tuple(d for i, d in enumerate(prompt.demonstrations) if i not in removed)
    assert [rest.demonstrations[i] for i in rest.relevant] == [
        prompt.demonstrations[i] for i in prompt.relevant if i not in removed
    ]
    assert (rest.query, rest.answer) == (prompt.query, prompt.answer)


def test_the_text_ends_with_the_query():
    prompt = sample_words(generator(0), 2, 1, n_categories=2)
    (a, b), (c, d) = prompt.demonstrations
    assert prompt.text() == f"{a} is {b} . {c} is {d} . {prompt.query} is"
    assert prompt.text("\n\n").split("\n\n") == [f"{a} is {b} .", f"{c} is {d} .", f"{prompt.query} is"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_demonstrations": 4, "n_relevant": 5}, "n_relevant=5"),
        ({"n_demonstrations": 40, "n_relevant": 19}, "n_relevant=19"),
        ({"n_demonstrations": 4, "n_relevant": -1}, "n_relevant=-1"),
        ({"n_categories": 1}, "n_categories=1"),
        ({"n_categories": 21}, "n_categories=21"),
        ({"n_demonstrations": 24, "n_relevant": 1, "n_categories": 2}, "room for 23"),
    ],
)
def test_counts_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        sample_words(generator(0), **arguments)


def test_an_index_that_is_no_demonstration_cannot_be_removed():
    with pytest.raises(UserError, match="demonstrations 0 to 2"):
        sample_words(generator(0), 3, 1, n_categories=2).without({3})


@settings(max_examples=30)
@given(seeds, st.integers(1, 20), st.integers(1, 25), st.integers(2, 20), st.integers(4, 20))
def test_a_batch_holds_training_prompts(seed, n_words, n_items, n_labels, first_categories):
    batch = sample_batch(
        generator(seed),
        3,
        n_items,
        n_words=n_words,
        n_categories=(2, 4),
        n_labels=n_labels,
        first_categories=first_categories,
    )
    assert batch.tokens.shape == (3, 4 * n_items)
    assert (batch.tokens[:, 0] == START).all()
    assert (batch.tokens[:, batch.read_out] == IS).all()
    assert (batch.tokens[:, 4::4] == FULL_STOP).all()
    names = list(CATEGORIES)
    for row, known in zip(batch.tokens.tolist(), batch.known.tolist(), strict=True):
        label_of = {}
        seen = []
        for index in range(n_items):
            word, label = VOCABULARY[row[1 + 4 * index]], VOCABULARY[row[3 + 4 * index]]
            category = CATEGORY_OF[word]
            assert known[index] == (category in label_of)
            assert label_of.setdefault(category, label) == label
            assert label != held_out_label(word)
            assert label in LABELS[:n_labels]
            assert names.index(category) < first_categories
            assert CATEGORIES[category].index(word) < n_words
            seen.append(word)
        assert 1 <= len(label_of) <= 4
        if n_words == WORDS_PER_CATEGORY and n_items < WORDS_PER_CATEGORY:
            assert len(set(seen)) == len(seen)


def test_batches_reproduce():
    one, two, other = (sample_batch(generator(seed), 4) for seed in (0, 0, 1))
    assert torch.equal(one.tokens, two.tokens)
    assert not torch.equal(one.tokens, other.tokens)


def test_token_ranges_follow_the_vocabulary():
    assert VOCABULARY[FIRST_LABEL : FIRST_LABEL + len(LABELS)] == LABELS
    assert VOCABULARY[FIRST_WORD:] == tuple(word for words in CATEGORIES.values() for word in words)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_words": 0},
        {"n_words": 21},
        {"n_labels": 1},
        {"n_categories": (3, 2)},
        {"first_categories": 5},
        {"n_items": 0},
    ],
)
def test_a_batch_outside_the_language_is_refused(arguments):
    with pytest.raises(UserError):
        sample_batch(generator(0), 2, **arguments)
