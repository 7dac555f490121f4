"""The measures of scores: each against its definition, and the deletions against one prompt at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tests.lens.word_learner import MARGIN, PAIRS, PROMPT, learner, margins_one_by_one, shared_lens, text_of, tokenizer

from iclens.language.words import VOCABULARY
from iclens.lens.scores.deletions import run_texts, shortened_ids
from iclens.lens.scores.faithfulness import auc, faithfulness, lds, random_subsets, top
from iclens.papers.attribution.word_cases import margin

N = len(PAIRS)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=20))
def test_auc_is_the_area_under_the_roc_curve_with_ties(rows):
    scores, truth = (list(column) for column in zip(*rows, strict=True))
    found = float(auc(torch.tensor(scores, dtype=torch.float64), torch.tensor(truth)))
    if len(set(truth)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_auc_of_random_scores_is_one_half_and_takes_batches():
    scores = torch.rand(4000, 12)
    relevant = torch.arange(12) < torch.tensor([2, 3, 4, 5]).repeat(1000)[:, None]
    found = auc(scores, relevant)
    assert found.shape == (4000,)
    assert float(found.mean()) == pytest.approx(0.5, abs=4 * float(found.std()) / 4000**0.5)
    assert float(found[7]) == pytest.approx(float(auc(scores[7], relevant[7])))


@given(st.integers(0, 1000), st.integers(2, 8))
def test_lds_is_one_for_an_additive_truth_and_minus_one_for_its_opposite(seed, n):
    generator = torch.Generator().manual_seed(seed)
    effects = torch.rand(n, generator=generator) + 0.1
    keep = random_subsets(generator, 16, n)
    margins = keep.double() @ effects
    if len(set(margins.tolist())) < 2:
        assert lds(effects, keep, margins) is None
    else:
        assert lds(effects, keep, 3 * margins.exp()) == pytest.approx(1.0)
        assert lds(-effects, keep, margins) == pytest.approx(-1.0)
    assert lds(torch.zeros(n), keep, margins) is None


def test_random_subsets_keep_each_with_probability_one_half():
    keep = random_subsets(torch.Generator().manual_seed(0), 4000, 6).double()
    assert keep.mean(0).tolist() == pytest.approx([0.5] * 6, abs=4 * 0.5 / 4000**0.5)
    assert float(torch.corrcoef(keep.T).triu(1).abs().max()) < 0.08


def test_top_takes_the_highest_and_of_ties_the_earlier():
    assert top(torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0]), 2).tolist() == [False, True, False, True, False]
    assert top(torch.tensor([-1.0, -3.0]), 0).tolist() == [False, False]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, N - 1)), min_size=1, max_size=12), st.sampled_from([1, 30, 60, 4096]))
def test_deleted_text_in_batches_gives_what_each_prompt_gives_alone(left_out, most_tokens):
    done = []
    shortened = [(ids, MARGIN) for ids in shortened_ids(learner(), PROMPT, left_out)]
    outcome = run_texts(learner(), shortened, most_tokens, done.append)
    assert done == sorted(set(done))
    assert done[-1] == len(left_out)
    texts = [text_of([i for i in range(N) if i not in some]) for some in left_out]
    expected = margins_one_by_one(texts)
    assert outcome.margins.tolist() == pytest.approx(expected.tolist(), abs=1e-10)
    for text, log_probability, answered in zip(texts, outcome.log_probabilities, outcome.answered, strict=True):
        row = torch.tensor([[2] + [VOCABULARY.index(word) for word in text.split()]])
        logits = learner().model(input_ids=row).logits[0, -1].detach()
        assert float(log_probability) == pytest.approx(float(logits.log_softmax(-1)[VOCABULARY.index("dax")]))
        assert bool(answered) == (VOCABULARY[int(logits.argmax())] == "dax")


def test_answered_is_true_for_what_the_model_says():
    row = torch.tensor([[2] + [VOCABULARY.index(word) for word in text_of([0, 1, 2, 3, 4]).split()]])
    likeliest = VOCABULARY[int(learner().model(input_ids=row).logits[0, -1].argmax())]
    said = margin(tokenizer(), likeliest, [likeliest, "dax"])
    (whole,) = shortened_ids(learner(), PROMPT, [()])
    assert run_texts(learner(), [(whole, said)], 4096).answered.tolist() == [True]


def test_faithfulness_is_lds_and_the_margin_lost_with_the_top_ones():
    scores = {"one": [0.3, -0.1, 0.9, 0.2, -0.5], "other": [5.0, 4.0, 3.0, 2.0, 1.0]}
    full = float(margins_one_by_one([text_of(list(range(N)))])[0])
    asked = []

    def counted(sets):
        asked.extend(sets)
        return shared_lens().rerun(sets)

    found = faithfulness(counted, scores, full, torch.Generator().manual_seed(3), N, 10)
    subsets = random_subsets(torch.Generator().manual_seed(3), 10, N)
    kept = [[i for i in range(N) if row[i]] for row in subsets]
    margins = margins_one_by_one([text_of(some) for some in kept])
    for entry, without in zip(found, ([1, 3, 4], [2, 3, 4]), strict=True):
        values = torch.tensor(scores[entry.method])
        assert entry.lds == pytest.approx(lds(values, subsets, margins))
        dropped = full - float(margins_one_by_one([text_of(without)])[0])
        assert entry.margin_drop == pytest.approx(dropped)
        assert (entry.k, entry.n_subsets) == (2, 10)
    # What several methods ask for runs once.
    assert len(asked) == len({tuple(some) for some in [*kept, [1, 3, 4], [2, 3, 4]]})
