"""What every source does to every token of a response, by forward derivatives, is what the backward pass gives."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import CAUSAL, GROUPS, QUERY_START, build, tokens

from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import influence, logits_at
from iclens.lens.scores.tangents import token_influence

N, N_SOURCES = 90, 4
FIRST = 80
TOKENS = Readout(
    tuple((t, 5 + t % 40, 0.0) for t in range(FIRST, N)),
    tuple(5 + t % 40 for t in range(FIRST, N)),
    answer_offset=FIRST,
    measure="log_probability",
)
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.0], dtype=torch.float64)

LENGTHENED = {"gpt2", "llama", "gemma2", "gemma3_text", "gpt_neox", "opt-350m", "cohere2", "qwen3_moe", "deepseek_v3",
              "gpt_oss", "llama4_text", "phi3"}  # fmt: skip
"""Families whose pieces are cut as those of long texts are; the others take one piece."""

OWN_POSITIONS = {"llama-dynamic-rope", "phi3-longrope"}
"""Their positions depend on the length of the text, so that pieces of it would not be the text."""


def case(name):
    """A text of 90 tokens with four sources far enough apart for several pieces, or the zoo's of 24 tokens."""
    lens_model = LensModel.wrap(build(name, torch.float64, throughout=True), name=name)
    if name in LENGTHENED:
        groups = torch.full((N,), -1)
        for i, (start, end) in enumerate([(2, 5), (8, 20), (30, 33), (70, 74)]):
            groups[start:end] = i
        start, readout = FIRST - 3, TOKENS
    else:
        groups, start = GROUPS, QUERY_START
        terms = tuple((t, 5 + t, 0.0) for t in range(19, 24))
        readout = Readout(terms, tuple(range(24, 29)), answer_offset=19, measure="log_probability")
    ids = PaddedTokens.of(list(tokens(len(groups))), [start], lens_model.device)
    return lens_model, ids, Readouts.of([readout], [0], lens_model.index_device), groups


@pytest.mark.parametrize("query_only", [False, True], ids=["all later edges", "the query's edges"])
@pytest.mark.parametrize("name", sorted(set(CAUSAL) - OWN_POSITIONS))
def test_forward_derivatives_are_those_of_backward_passes_and_sum_to_the_influence(name, query_only):
    lens_model, ids, readouts, groups = case(name)
    edges = Edges(groups[None], ids.starts if query_only else torch.zeros(1, dtype=torch.long))
    weights = WEIGHTS[groups][None]
    found = token_influence(lens_model, ids, readouts, edges, weights, N_SOURCES, forward=True)
    assert found.forward
    assert not found.fallback
    whole = influence(lens_model, ids, readouts, edges, weights)
    expected = by_source(whole.by_head.sum((1, 2)), groups[None], N_SOURCES)[0, :-1]
    size = found.by_source.abs().sum(0).max()
    assert float(size) > 1e-3
    torch.testing.assert_close(found.by_source.sum(0) / size, expected / size, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(found.log_probabilities.sum(), whole.margin[0], rtol=1e-12, atol=1e-12)
    if name in LENGTHENED:
        each = token_influence(lens_model, ids, readouts, edges, weights, N_SOURCES, forward=False)
        assert not each.forward
        torch.testing.assert_close(found.by_source / size, each.by_source / size, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "qwen3_moe"])
def test_it_is_the_limit_of_differences_between_passes_at_other_weights(name):
    lens_model, ids, readouts, groups = case(name)
    edges = Edges(groups[None], torch.zeros(1, dtype=torch.long))
    found = token_influence(lens_model, ids, readouts, edges, WEIGHTS[groups][None], N_SOURCES, forward=True)
    step = 1e-4

    def log_ps(i, sign):
        weights = WEIGHTS.clone()
        weights[i] *= torch.tensor(sign * step, dtype=torch.float64).exp()
        logits = logits_at(lens_model, ids, readouts, edges, weights[groups][None])
        return readouts.token_log_probabilities(logits)[0]

    for i in range(N_SOURCES):
        difference = (log_ps(i, 1.0) - log_ps(i, -1.0)) / (2 * step)
        torch.testing.assert_close(found.by_source[:, i], difference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(OWN_POSITIONS))
def test_texts_that_cannot_be_cut_take_a_backward_pass_for_each_token_and_say_so(name):
    lens_model, ids, readouts, groups = case(name)
    edges, weights = Edges(groups[None], torch.zeros(1, dtype=torch.long)), WEIGHTS[groups][None]
    found = token_influence(lens_model, ids, readouts, edges, weights, N_SOURCES)
    assert not found.forward
    assert found.cost == (1.0, 5.0)
    assert "length of the text" in found.fallback
    whole = influence(lens_model, ids, readouts, edges, weights)
    expected = by_source(whole.by_head.sum((1, 2)), groups[None], N_SOURCES)[0, :-1]
    torch.testing.assert_close(found.by_source.sum(0), expected, rtol=1e-9, atol=1e-9)


def test_the_cheaper_way_is_taken():
    lens_model, ids, readouts, groups = case("gpt2")
    edges, weights = Edges(groups[None], torch.zeros(1, dtype=torch.long)), WEIGHTS[groups][None]
    assert token_influence(lens_model, ids, readouts, edges, weights, N_SOURCES).forward
    one = Readout(((N - 1, 5, 0.0),), (5,), answer_offset=N - 1, measure="log_probability")
    few = Readouts.of([one], [0], lens_model.index_device)
    last = token_influence(lens_model, ids, few, edges, weights, N_SOURCES)
    assert not last.forward
    assert not last.fallback


def test_a_source_that_nothing_sees_has_no_influence():
    lens_model, ids, readouts, groups = case("gpt2")
    edges = Edges(groups[None], torch.tensor([N]))
    weights = WEIGHTS[groups][None]
    assert not token_influence(lens_model, ids, readouts, edges, weights, N_SOURCES, forward=True).by_source.any()
