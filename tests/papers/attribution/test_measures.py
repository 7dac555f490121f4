"""The study: its measures on planted scores, its truths, and the gradient step on the bundled learner."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.lens.word_learner import learner, tokenizer

from iclens.attribution import ATTRIBUTIONS, Scores
from iclens.errors import UserError
from iclens.intervals import estimate
from iclens.language.words import CATEGORY_OF, LABELS
from iclens.lens.scores.deletions import Outcome
from iclens.papers.attribution import measures as attribution
from iclens.papers.attribution.contexts.settings import USUAL as OF_CONTEXTS
from iclens.papers.attribution.measures import MEASURES, METHODS, TRUTH, run
from iclens.papers.attribution.patches.recipe import METHODS as OF_PATCHES
from iclens.papers.attribution.real_models.settings import HEAVY, USUAL
from iclens.papers.attribution.word_cases import conflicting_cases, margin, word_cases


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_measures_of_planted_scores():
    """Of a model that is right exactly when it sees a demonstration that matters."""
    case = word_cases(tokenizer(), seeded(), 1)[0]
    truth = torch.zeros(len(case.prompt.demonstrations))
    truth[list(case.relevant)] = 1.0

    def deletions(keep):
        margins = keep.double() @ truth
        return Outcome(margins, margins, margins > 0)

    subsets = torch.rand(16, len(truth), generator=seeded()) < 0.5
    ranked = {"right": truth, "wrong": -truth, "flat": torch.zeros(len(truth))}
    scores = {name: Scores(values, 0.0) for name, values in ranked.items()}
    found, answered = attribution.measures_of(deletions, truth.bool(), scores, subsets)
    assert answered == 1.0
    # AUC, right after removal of the top ones, right with only these, LDS.
    assert found["right"] == pytest.approx((1.0, 0.0, 1.0, 1.0))
    assert found["wrong"] == pytest.approx((0.0, 1.0, 0.0, -1.0))
    assert found["flat"][0] == 0.5
    assert math.isnan(found["flat"][3])


def test_removal_really_removes_the_text():
    cases = word_cases(tokenizer(), seeded(), 3)
    read = set()

    def listen(module, given, named):
        for row, places in zip(named["input_ids"].tolist(), named["position_ids"].tolist(), strict=True):
            # Where texts share what they begin with, a token continues the last one of the place before its own.
            text = []
            for token, place in zip(row, places, strict=True):
                text = [*text[:place], token]
                read.add(tuple(text))

    handle = learner().model.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        run(learner(), cases, methods=["random"], n_subsets=4)
    finally:
        handle.remove()
    for case in cases:
        others = set(range(12)) - set(case.relevant)
        for left_out in ((), case.relevant, others):
            assert tuple(tokenizer()(case.prompt.without(left_out).text)["input_ids"]) in read


def test_run_is_repeatable_and_random_scores_know_nothing():
    cases = word_cases(tokenizer(), seeded(), 30)
    first, again = (run(learner(), cases, methods=["random"], n_subsets=2, seed=4) for _ in range(2))
    for measure in MEASURES:
        for name in ("random", TRUTH):
            torch.testing.assert_close(
                first.methods[name].measures[measure], again.methods[name].measures[measure], equal_nan=True
            )
    of_random = first.methods["random"].of("auc")
    assert of_random.low < 0.5 < of_random.high
    assert first.methods[TRUTH].of("auc").low == 1.0
    assert first.n_cases == 30


def test_every_known_method_is_measured_by_one_of_the_studies():
    assert set(METHODS) | set(USUAL) | set(HEAVY) | set(OF_CONTEXTS) | set(OF_PATCHES) == set(ATTRIBUTIONS)


def test_run_without_a_prompt_or_with_an_unknown_method_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        run(learner(), [])
    with pytest.raises(UserError, match="unknown attribution method 'lassoo'"):
        run(learner(), word_cases(tokenizer(), seeded(), 1), methods=["lassoo"])


def test_interval_holds_the_mean_and_leaves_undefined_numbers_out():
    values = torch.randn(300, generator=seeded())
    found = estimate(values)
    assert found.mean == pytest.approx(float(values.mean()))
    half = 1.96 * float(values.std()) / 300**0.5
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.15 * half)
    assert estimate(torch.cat([values, torch.tensor([math.nan])])) == found
    assert estimate(torch.ones(5)) == dataclasses.replace(found, mean=1.0, low=1.0, high=1.0, n=5)
    assert estimate(torch.tensor([math.nan])).n == 0


def category_truth(case) -> list[int]:
    """Demonstrations whose word is of the query's category, read from the text."""
    text = case.prompt.text.split()
    query = text[-2]
    words = [span.of(case.prompt.text).split()[0] for span in case.prompt.demonstrations]
    return [i for i, word in enumerate(words) if CATEGORY_OF[word] == CATEGORY_OF[query]]


def test_word_cases_have_the_asked_number_of_demonstrations_that_matter():
    cases = word_cases(tokenizer(), seeded(), 40)
    assert {len(case.relevant) for case in cases} == {2, 3, 4}
    for case in cases:
        assert len(case.prompt.demonstrations) == 12
        assert list(case.relevant) == category_truth(case)
        labels = {case.prompt.demonstrations[i].of(case.prompt.text).split()[2] for i in case.relevant}
        assert labels == {case.margin.answer}
        assert sum(weight for _, _, weight in case.margin.terms) == pytest.approx(0.0)
        assert len(case.margin.terms) == len(LABELS)


def test_conflicting_cases_contradict_the_truth_within_its_category():
    for case in conflicting_cases(tokenizer(), seeded(), 20):
        same = category_truth(case)
        labels = [span.of(case.prompt.text).split()[2] for span in case.prompt.demonstrations]
        assert [i for i in same if labels[i] == case.margin.answer] == list(case.relevant)
        against = [labels[i] for i in same if i not in case.relevant]
        assert (len(case.relevant), len(against)) == (4, 2)
        assert len(set(against)) == 1
        assert labels.count(against[0]) == 2


def test_cases_are_refused_where_they_cannot_be_had():
    with pytest.raises(UserError, match="cannot be of the query's category"):
        word_cases(tokenizer(), seeded(), 1, 4, (2, 4))
    with pytest.raises(UserError, match="does not know 'bonjour'"):
        margin(tokenizer(), "dax", ["dax", "bonjour"])


@pytest.fixture
def single_precision():
    torch.set_default_dtype(torch.float32)


def test_gradient_step_finds_what_matters_in_the_bundled_learner(single_precision):
    from iclens.lens.model.loading import load

    lens_model = load("bundled")
    cases = word_cases(lens_model.tokenizer, seeded(1), 30)
    found = run(lens_model, cases, methods=["gradient_step", "path", "random"], n_subsets=6)
    assert found.accuracy.mean >= 0.95
    for name in ("gradient_step", "path"):
        assert found.methods[name].of("auc").mean >= 0.98
        assert found.methods[name].of("removed").mean <= 0.25
        assert found.methods[name].of("lds").low > 0.2
    assert found.methods["random"].of("auc").high < 0.7
    assert found.methods["random"].of("removed").mean > 0.6
