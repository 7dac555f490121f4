"""Ridge regression over the dictionary's features, with the labels that were shown copied."""

from __future__ import annotations

import pytest
import torch

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.papers.yang_2024.closed_forms import optimum
from iclens.papers.yang_2024.task import Dictionary

N = 6
SIZES = {"d": 8, "n_features": 4, "n_tokens": 12, "tau": 0.1, "normalised": True, "seed": 3}


def made():
    estimator = build_estimator("dictionary-ridge", SIZES)
    dictionary = Dictionary.draw(8, 4, 12, N, 0.1, 3, normalised=True)
    labels = torch.randn(5, N, 1, generator=torch.Generator().manual_seed(0))
    return estimator, dictionary, labels


@pytest.mark.parametrize("token", range(12))
def test_it_is_the_optimum_of_theorem_2(token):
    estimator, dictionary, labels = made()
    asked = torch.cat([dictionary.tokens[:N], dictionary.tokens[token : token + 1]]).expand(5, -1, -1)
    answers = estimator.prefixes(asked, torch.cat([labels, torch.zeros(5, 1, 1)], 1))[:, -1, 0]
    expected = labels[..., 0] @ optimum(dictionary)[:, token]
    torch.testing.assert_close(answers, expected, rtol=1e-10, atol=1e-12)


def test_the_latest_label_of_a_token_is_copied():
    estimator, dictionary, labels = made()
    inputs = dictionary.tokens[[0, 1, 0, 2, 0]].expand(5, -1, -1)
    answers = estimator.prefixes(inputs, labels[:, :5])
    assert (answers[:, 0] == 0).all()
    assert torch.equal(answers[:, 2], labels[:, 0])
    assert torch.equal(answers[:, 4], labels[:, 2])


def test_what_is_no_token_and_no_dictionary_is_refused():
    estimator, dictionary, labels = made()
    with pytest.raises(UserError, match="token"):
        estimator.prefixes(dictionary.tokens[:N].expand(5, -1, -1) + 1.0, labels)
    with pytest.raises(UserError, match="tau"):
        build_estimator("dictionary-ridge", {**SIZES, "tau": 0.0})
