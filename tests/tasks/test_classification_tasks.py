"""Clusters, digits and words: labels are one-hot, classes are permuted, splits do not touch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.language.words import CATEGORIES, LABELS, held_out_label
from iclens.tasks.task import build_task

WORDS = [word for words in CATEGORIES.values() for word in words]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def answers(task, prompt):
    optimal = task.optimal()
    return build_estimator(optimal.estimator, optimal.options).predict(prompt)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["clusters", "digits", "words"]), st.integers(0, 500))
def test_labels_are_one_hot(name, seed):
    labels = build_task(name).sample(seeded(seed), (2, 3), 6).labels
    assert set(labels.unique().tolist()) <= {0.0, 1.0}
    assert (labels.sum(-1) == 1).all()


@pytest.mark.parametrize("name", ["clusters", "digits"])
def test_every_label_is_as_often_right(name):
    task = build_task(name)
    labels = task.sample(seeded(), 3000, 4).labels
    assert torch.allclose(labels.mean((0, 1)), torch.full((task.n_classes,), 1 / task.n_classes), atol=0.02)


def test_clusters_lie_around_their_centres():
    task = build_task("clusters", cluster_std=0.1, separation=3.0)
    prompt = task.sample(seeded(), 200, 20)
    offsets = prompt.inputs - prompt.labels @ prompt.function["centres"]
    assert offsets.std() == pytest.approx(0.1, rel=0.02)
    assert offsets.mean(-2).abs().max() < 0.2
    assert prompt.function["centres"].std() == pytest.approx(3.0, rel=0.05)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 500), st.integers(1, 4), st.sampled_from([0.0, 0.3, 2.0]))
def test_the_label_of_a_cluster_is_the_nearest_centre(seed, d, cluster_std):
    prompt = build_task("clusters", d=d, cluster_std=cluster_std).sample(seeded(seed), 3, 10)
    nearest = torch.cdist(prompt.inputs, prompt.function["centres"]).argmin(-1)
    assert torch.equal(prompt.labels.argmax(-1), nearest)


def test_fixed_clusters_come_in_every_order_and_fresh_ones_do_not_come_back():
    fixed = build_task("clusters", n_classes=3, n_clusters=3, seed=4)
    centres = fixed.sample_function(seeded(), (2000,))["centres"]
    kinds, counts = centres.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 6
    assert counts.min() > 250
    assert torch.equal(build_task("clusters", n_classes=3, n_clusters=3, seed=4)._fixed, fixed._fixed)
    some = build_task("clusters", n_classes=3, n_clusters=10).sample_function(seeded(), (2000,))["centres"]
    assert len(some.flatten(0, 1).unique(dim=0)) == 10
    # Without replacement: no prompt has a centre twice.
    assert (torch.cdist(some, some) + 9 * torch.eye(3)).min() > 0.1
    fresh = build_task("clusters", n_classes=3).sample_function(seeded(), (200,))["centres"]
    assert len(fresh.flatten(0, 1).unique(dim=0)) == 600


@pytest.mark.parametrize("split", ["train", "held-out"])
def test_digits_have_the_label_of_their_prompt(split):
    from sklearn.datasets import load_digits

    bundle = load_digits()
    pixels, digits = torch.from_numpy(bundle.data), torch.from_numpy(bundle.target)
    task = build_task("digits", split=split)
    prompt = task.sample(seeded(), 30, 12)
    shown = torch.cdist(prompt.inputs.flatten(0, 1) * 16, pixels)
    assert shown.min(-1).values.max() == 0
    digit = digits[shown.argmin(-1)].reshape(30, 13)
    assert torch.equal(prompt.function["digits"].gather(-1, prompt.labels.argmax(-1)), digit)
    # Over prompts, a digit has every label.
    seen = {(int(d), int(label)) for d, label in zip(digit.flatten(), prompt.labels.argmax(-1).flatten(), strict=True)}
    assert len(seen) > 40


def test_splits_of_digits_do_not_touch_and_make_up_the_whole():
    drawn = {}
    for split in ("train", "held-out", "all"):
        task = build_task("digits", split=split, n_classes=10, held_out=0.25)
        drawn[split] = set(task.indices(task.sample_inputs(seeded(), (40,), 700)).unique().tolist())
    assert not drawn["train"] & drawn["held-out"]
    assert drawn["train"] | drawn["held-out"] == drawn["all"] == set(range(1797))
    assert len(drawn["held-out"]) == pytest.approx(0.25 * 1797, abs=10)
    other = build_task("digits", split="held-out", n_classes=10, held_out=0.25, seed=1)
    assert set(other.indices(other.sample_inputs(seeded(), (40,), 700)).unique().tolist()) != drawn["held-out"]


def test_no_image_comes_twice_in_a_prompt():
    task = build_task("digits", n_classes=2)
    indices = task.indices(task.sample(seeded(), 50, 99).inputs)
    assert all(len(row.unique()) == 100 for row in indices)


def test_what_is_no_digit_has_no_label():
    task = build_task("digits")
    prompt = task.sample(seeded(), 2, 3)
    with pytest.raises(UserError, match="none of scikit-learn's digits"):
        task.values(2 * prompt.inputs + 0.1, prompt.function)
    with pytest.raises(UserError, match="none of scikit-learn's digits"):
        task.values(torch.full_like(prompt.inputs, 1e6), prompt.function)


def test_digits_are_found_in_float32_too():
    task = build_task("digits")
    torch.set_default_dtype(torch.float32)
    prompt = task.sample(seeded(), 20, 20)
    assert prompt.inputs.dtype == torch.float32
    assert torch.equal(task.values(prompt.inputs, prompt.function), prompt.labels)


@pytest.mark.parametrize(("name", "least"), [("clusters", 0.9), ("digits", 0.8)])
def test_the_best_known_classifier_classifies(name, least):
    task = build_task(name)
    prompt = task.sample(seeded(), 300, 30)
    right = answers(task, prompt).argmax(-1) == prompt.target.argmax(-1)
    assert right.double().mean() > least


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 500), st.sampled_from(["train", "held-out"]))
def test_word_prompts_speak_the_language_of_the_bundled_learner(seed, split):
    prompt = build_task("words", split=split).sample(seeded(seed), 4, 15)
    assert (prompt.inputs.sum(-1) == 1).all()
    for b in range(4):
        words = [WORDS[i] for i in prompt.inputs[b].argmax(-1)]
        labels = [LABELS[i] for i in prompt.labels[b].argmax(-1)]
        forbidden = [held_out_label(word) == label for word, label in zip(words, labels, strict=True)]
        assert forbidden == [False] * 15 + [split == "held-out"]
        category = {word: name for name, of in CATEGORIES.items() for word in of}
        label_of = {}
        assert all(label_of.setdefault(category[w], label) == label for w, label in zip(words, labels, strict=True))


def test_words_answer_by_category_wherever_it_was_shown():
    task = build_task("words", split="held-out", most_categories=6)
    prompt = task.sample(seeded(), 300, 20)
    categories = task.categories(prompt.inputs)
    known = (categories[:, :-1] * categories[:, -1:]).sum((1, 2)) > 0
    given_answers = answers(task, prompt)
    assert 0.8 < known.double().mean() < 1
    assert torch.allclose(given_answers[known], prompt.target[known], atol=1e-8)
    assert given_answers[~known].abs().max() < 1e-8


def test_the_number_of_categories_and_labels_is_that_of_the_options():
    prompt = build_task("words", fewest_categories=3, most_categories=3, n_labels=4).sample(seeded(), 40, 60)
    categories = build_task("words").categories(prompt.inputs)
    assert ((categories.sum(-2) > 0).sum(-1) == 3).all()
    assert prompt.labels.sum((0, 1)).nonzero().flatten().tolist() == [0, 1, 2, 3]
