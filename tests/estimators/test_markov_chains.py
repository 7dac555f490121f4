"""Predictors of the next state: exact Bayes by enumeration and by quadrature, limits, order, refusals."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import one_hot

from iclens.errors import UserError
from iclens.estimators import build_estimator
from iclens.estimators.markov_chains import stationary
from iclens.tasks import build_task

K = 3


@pytest.fixture(scope="module")
def chains():
    gamma = torch.distributions.Gamma(torch.tensor(1.0, dtype=torch.float64), 1.0)
    torch.manual_seed(0)
    drawn = gamma.sample((5, K, K))
    return drawn / drawn.sum(-1, keepdim=True)


def points(states):
    one = one_hot(torch.tensor(states), K).double()
    return one[:-1], one[1:]


STATES = [0, 1, 1, 2, 0, 0, 1, 2, 2, 1, 0]


def built(chains):
    return {
        "unigram-inference": build_estimator("unigram-inference", {"concentration": 0.7}),
        "bigram-inference": build_estimator("bigram-inference", {"concentration": 0.7}),
        "unigram-retrieval": build_estimator("unigram-retrieval", {"chains": chains}),
        "bigram-retrieval": build_estimator("bigram-retrieval", {"chains": chains}),
    }


def test_probabilities_add_up_to_one_and_begin_with_the_prior(chains):
    x, y = points(STATES)
    for name, estimator in built(chains).items():
        said = estimator.prefixes(x, y)
        torch.testing.assert_close(said.sum(-1), torch.ones(len(x), dtype=torch.float64))
        assert (said > 0).all()
        prior = {
            "unigram-inference": torch.full((K,), 1 / K, dtype=torch.float64),
            "bigram-inference": torch.full((K,), 1 / K, dtype=torch.float64),
            "unigram-retrieval": stationary(chains).mean(0),
            "bigram-retrieval": chains[:, STATES[0]].mean(0),
        }[name]
        torch.testing.assert_close(said[0], prior)


def test_retrieval_is_bayes_by_enumeration_of_the_chains(chains):
    x, y = points(STATES)
    said = built(chains)
    of_chain = stationary(chains)
    for n in range(len(x)):
        joint = torch.stack(
            [math.prod((c[a, b] for a, b in pairwise(STATES[: n + 1])), start=torch.tensor(1.0)) for c in chains]
        )
        expected = (joint[:, None] * chains[:, STATES[n]]).sum(0) / joint.sum()
        torch.testing.assert_close(said["bigram-retrieval"].prefixes(x, y)[n], expected)
        joint = torch.stack([math.prod((p[b] for b in STATES[1 : n + 1]), start=torch.tensor(1.0)) for p in of_chain])
        expected = (joint[:, None] * of_chain).sum(0) / joint.sum()
        torch.testing.assert_close(said["unigram-retrieval"].prefixes(x, y)[n], expected)


def test_inference_is_bayes_by_many_chains_of_the_prior():
    """Retrieval from 200,000 chains of the prior is inference, with the error of so many draws."""
    gamma = torch.distributions.Gamma(torch.tensor(0.7, dtype=torch.float64), 1.0)
    torch.manual_seed(1)
    drawn = gamma.sample((200_000, K, K))
    many = drawn / drawn.sum(-1, keepdim=True)
    x, y = points(STATES[:6])
    exact = build_estimator("bigram-inference", {"concentration": 0.7}).prefixes(x, y)
    torch.testing.assert_close(
        build_estimator("bigram-retrieval", {"chains": many}).prefixes(x, y), exact, atol=0.01, rtol=0
    )
    # A chain whose rows are all one distribution: its labels are independent.
    flat = many[:, :1].expand(-1, K, -1)
    exact = build_estimator("unigram-inference", {"concentration": 0.7}).prefixes(x, y)
    torch.testing.assert_close(
        build_estimator("unigram-retrieval", {"chains": flat}).prefixes(x, y), exact, atol=0.01, rtol=0
    )


def test_of_one_chain_retrieval_knows_everything(chains):
    x, y = points(STATES)
    one = chains[:1]
    assert torch.allclose(build_estimator("bigram-retrieval", {"chains": one}).prefixes(x, y), x @ one[0])
    flat = build_estimator("unigram-retrieval", {"chains": one}).prefixes(x, y)
    assert torch.allclose(flat, stationary(one[0]).expand_as(flat))


def test_after_many_transitions_inference_is_the_chain(chains):
    task = build_task("markov-chains", n_states=K, n_chains=1, seed=2)
    prompt = task.sample(torch.Generator().manual_seed(0), 4, 4000)
    x, y = prompt.inputs.double(), prompt.labels.double()
    said = build_estimator("bigram-inference").prefixes(x, y)[:, -1]
    torch.testing.assert_close(said, x[:, -1] @ task.chains[0].double(), atol=0.05, rtol=0)
    said = build_estimator("unigram-inference").prefixes(x, y)[:, -1]
    torch.testing.assert_close(said, stationary(task.chains[0].double()).expand(4, K), atol=0.05, rtol=0)


def test_the_bayes_predictor_of_fixed_chains_has_the_least_loss():
    task = build_task("markov-chains", n_states=K, n_chains=4)
    prompt = task.sample(torch.Generator().manual_seed(0), 2000, 30)
    x, y = prompt.inputs.double(), prompt.labels.double()
    losses = {
        name: float(-(one.prefixes(x, y).log() * y).sum(-1).mean()) for name, one in built(task.chains.double()).items()
    }
    assert min(losses, key=losses.get) == "bigram-retrieval"
    assert task.optimal().estimator == "bigram-retrieval"


def test_the_order_of_transitions_does_not_matter(chains):
    x, y = points(STATES)
    order = torch.cat(
        [torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(0)), torch.tensor([len(x) - 1])]
    )
    for estimator in built(chains).values():
        torch.testing.assert_close(estimator.prefixes(x[order], y[order])[-1], estimator.prefixes(x, y)[-1])


def test_an_answer_depends_on_no_later_label_and_prompts_are_apart(chains):
    x, y = points(STATES)
    unknown = y.clone()
    unknown[-1] = torch.nan
    reverse = points(STATES[::-1])
    for estimator in built(chains).values():
        whole = estimator.prefixes(x, y)
        torch.testing.assert_close(estimator.prefixes(x, unknown), whole, rtol=0, atol=0)
        torch.testing.assert_close(estimator.prefixes(x[:4], y[:4]), whole[:4])
        batch = estimator.prefixes(torch.stack([x, reverse[0]]), torch.stack([y, reverse[1]]))
        torch.testing.assert_close(batch[0], whole)


def test_the_stationary_distribution_is_a_left_eigenvector(chains):
    found = stationary(chains)
    torch.testing.assert_close((found.unsqueeze(-2) @ chains).squeeze(-2), found)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bigram-inference", {"concentration": 0.0}, "concentration=0.0"),
        ("bigram-retrieval", {"chains": torch.ones(2, 3)}, "must be"),
        ("bigram-retrieval", {"chains": torch.ones(2, 3, 3)}, "add up to 1"),
        ("unigram-retrieval", {"chains": torch.full((2, 3, 3), torch.nan)}, "NaN"),
    ],
)
def test_options_out_of_range_are_refused(name, options, said):
    with pytest.raises(UserError, match=said):
        build_estimator(name, options)


def test_points_that_are_no_states_are_refused(chains):
    x, y = points(STATES)
    for estimator in built(chains).values():
        with pytest.raises(UserError, match="inputs must be states"):
            estimator.prefixes(x + 0.5, y)
        with pytest.raises(UserError, match="labels must be states"):
            estimator.prefixes(x, 2 * y)
        with pytest.raises(UserError, match="inputs have 3 states and labels 4"):
            estimator.prefixes(x, torch.nn.functional.pad(y, (0, 1)))
    with pytest.raises(UserError, match="the chains have 2 states and the inputs 3"):
        build_estimator("bigram-retrieval", {"chains": torch.full((1, 2, 2), 0.5)}).prefixes(x, y)
