"""One pass back and forth over a tree of queries gives the sum of what each query alone gives."""

from __future__ import annotations

import pytest
import torch
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.word_learner import MARGIN, PAIRS, learner
from tests.lens.zoo import build

from iclens import Lens, Prompt, UserError
from iclens.lens import LensModel, tokenize
from iclens.lens.read.margin import Readout
from iclens.lens.scores.shared_influence import shared_influence

QUERIES = ["cow", "horse", "maple", "tulip"]


@pytest.mark.parametrize("most_tokens", [1 << 12, 30, 1])
def test_it_is_the_sum_of_the_influences_on_each_query(most_tokens: int) -> None:
    model, weights = learner(), torch.tensor([0.5, 0.3, 1.0, 0.7, 0.2])
    prompts = [Prompt.from_examples(PAIRS, query, "{input} is {output} .") for query in QUERIES]
    read = [(tokenize(one, model.tokenizer), MARGIN) for one in prompts]
    found = shared_influence(model, read, weights, most_tokens)
    lenses = [Lens(model, one, readout=MARGIN) for one in prompts]
    influences = [lens.influence(weights.tolist()) for lens in lenses]
    each = [lens.by_demonstration(one.by_token) for lens, one in zip(lenses, influences, strict=True)]
    assert torch.allclose(found.by_demonstration, torch.stack(each).sum(0), rtol=1e-9, atol=1e-12)
    margins = torch.cat([one.margin.reshape(1) for one in influences])
    assert torch.allclose(found.margins, margins, rtol=1e-9, atol=1e-12)
    assert found.residual < 1e-10
    if most_tokens > 100:
        # The demonstrations run once: a pass over them, and one over what each query adds.
        whole = sum(one.n_tokens for one, _ in read)
        assert found.tokens == whole - (len(QUERIES) - 1) * (read[0][0].query_start)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2-window", "gemma2", "llama-dynamic-rope"])
def test_it_is_that_of_each_query_in_models_of_other_kinds(name: str) -> None:
    """Of windows, soft caps and grouped heads; with an answer of several tokens that is forced."""
    model = LensModel.wrap(build(name, torch.float64), name=name)
    model.model.resize_token_embeddings(len(byte_level()), mean_resizing=False)
    model = LensModel.wrap(model.model, byte_level(), name)
    readout = Readout(((0, 70, 1.0), (1, 80, -1.0)), answer_ids=(70, 80), append=(70,))
    prompts = [Prompt.from_examples([("ab", "c"), ("de", "f")], query, "{input}={output}") for query in ("x", "yz")]
    weights = torch.tensor([0.5, 0.8])
    found = shared_influence(model, [(tokenize(one, model.tokenizer), readout) for one in prompts], weights, 1 << 12)
    lenses = [Lens(model, one, readout=readout) for one in prompts]
    each = [lens.by_demonstration(lens.influence(weights.tolist()).by_token) for lens in lenses]
    # Norms of these families compute in float32, backwards too.
    assert torch.allclose(found.by_demonstration, torch.stack(each).sum(0), rtol=1e-6, atol=1e-7)


def test_weights_that_are_not_positive_are_refused() -> None:
    read = [(tokenize(Prompt.from_examples(PAIRS, "cow", "{input} is {output} ."), learner().tokenizer), MARGIN)]
    with pytest.raises(UserError, match="positive weight for each of 5"):
        shared_influence(learner(), read, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]), 100)
