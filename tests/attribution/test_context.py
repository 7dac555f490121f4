"""The parts of a context in one call: the scores are those of the lens, and the Lasso is the published one."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, with_chat
from tests.lens.word_learner import learner, tokenizer

from iclens import attribute
from iclens.attribution import context_prompt
from iclens.errors import UserError
from iclens.language.words import VOCABULARY
from iclens.lens.lens import Lens

SOURCES = ["dog is dax .", "oak is wug .", "cat is dax .", "rose is fep ."]
TEMPLATE = "{context}\n\n{query}"
HOW = {"template": TEMPLATE}


def test_influence_is_that_of_the_lens_and_the_best_come_first():
    found = attribute(learner(), SOURCES, "cow is", "dax .", **HOW)
    lens = Lens(learner(), context_prompt(SOURCES, "cow is", tokenizer(), template=TEMPLATE), response="dax .")
    scores = lens.by_demonstration(lens.influence().by_token).tolist()
    assert found["score"].tolist() == sorted(scores, reverse=True)
    assert [scores[i] for i in found["source"]] == found["score"].tolist()
    assert [SOURCES[i] for i in found["source"]] == found["text"].tolist()
    best = attribute(learner(), SOURCES, "cow is", "dax .", 2, **HOW)
    assert best.equals(found.head(2))


@pytest.mark.parametrize("n_masks", [32, 64])
def test_the_lasso_is_the_published_one(n_masks):
    """Masks of ½, log p − log(1 − p) per token, standardised columns, α = 0.01; p by the model on the text itself."""
    found = attribute(learner(), SOURCES, "cow is", "dax .", method="lasso", n_masks=n_masks, seed=3, **HOW)
    generator = torch.Generator().manual_seed(3)
    masks = [(torch.rand(len(SOURCES), generator=generator) < 0.5).tolist() for _ in range(n_masks)]
    targets = []
    for kept in masks:
        text = " ".join([source for source, keep in zip(SOURCES, kept, strict=True) if keep] + ["cow is dax ."])
        ids = torch.tensor([[2, *map(VOCABULARY.index, text.split())]])
        log_ps = torch.log_softmax(learner().model(input_ids=ids).logits[0].detach(), -1)
        log_p = sum(float(log_ps[at - 1, ids[0, at]]) for at in (-2, -1))
        targets.append((log_p - math.log1p(-math.exp(log_p))) / 2)
    x = np.asarray(masks, dtype=float)
    spread = x.std(0)
    fitted = Lasso(alpha=0.01).fit((x - x.mean(0)) / spread, np.asarray(targets))
    expected = fitted.coef_ / spread * 2
    scores = [found.set_index("source")["score"][i] for i in range(len(SOURCES))]
    assert scores == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-3)


def test_a_text_is_split_by_name_or_by_a_function():
    lines = context_prompt("\n".join(SOURCES), "cow is", tokenizer(), template=TEMPLATE)
    assert lines == context_prompt(SOURCES, "cow is", tokenizer(), template=TEMPLATE)
    pairs = "\n".join(SOURCES[:2]) + "\n\n" + "\n".join(SOURCES[2:])
    found = context_prompt(pairs, "cow is", tokenizer(), split="paragraphs", template=TEMPLATE)
    assert [span.of(found.text) for span in found.demonstrations] == pairs.split("\n\n")
    words = context_prompt(SOURCES[0], "cow is", tokenizer(), split=str.split, template=TEMPLATE)
    assert [span.of(words.text) for span in words.demonstrations] == SOURCES[0].split()
    assert found.query.of(found.text) == "cow is"
    default = context_prompt(SOURCES, "cow is", tokenizer())
    assert default.text == "Context: " + "\n".join(SOURCES) + "\n\nQuery: cow is\n\nAnswer:"
    assert default.instruction.of(default.text) == "Context:"


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_a_chat_model_reads_its_own_template(template):
    made = with_chat(template)
    prompt = context_prompt(["red", "a dog sat"], "the cat", made)
    body = "Context: red\na dog sat\n\nQuery: the cat"
    whole = made.apply_chat_template([{"role": "user", "content": body}], tokenize=False, add_generation_prompt=True)
    assert prompt.text == whole.rstrip(" ")
    assert [span.of(prompt.text) for span in prompt.demonstrations] == ["red", "a dog sat"]
    assert prompt.query.of(prompt.text).startswith("Query: the cat")
    assert not prompt.add_special_tokens


def test_the_model_writes_the_response_where_none_is_given():
    found = attribute(learner(), SOURCES, "cow is", generate=3, **HOW)
    lens = Lens(learner(), context_prompt(SOURCES, "cow is", tokenizer(), template=TEMPLATE), generate=3)
    scores = sorted(lens.by_demonstration(lens.influence().by_token).tolist(), reverse=True)
    assert found["score"].tolist() == scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": []}, "the context is empty"),
        ({"context": " \n"}, "the context is empty"),
        ({"context": ["a", " "]}, "source 1 is ' '"),
        ({"context": "a b", "split": lambda text: ["b", "a"]}, "source 1 ('a') does not stand in the context"),
        ({"split": "line", "context": "a"}, "Did you mean 'lines'?"),
        ({"query": " "}, "give the question as text"),
        ({"template": "{query} {context}"}, "the template has no {context} with {query} after it"),
        ({"top_k": 0}, "at least 1 source"),
        ({"n_masks": 1}, "at least 2"),
        ({"method": "inflence"}, "Did you mean 'influence'?"),
        ({"response": ""}, "the response is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(options, message):
    given = {"context": SOURCES, "query": "cow is", "response": "dax ."} | HOW | options
    with pytest.raises(UserError, match=re.escape(message)):
        attribute(learner(), given.pop("context"), given.pop("query"), given.pop("response"), **given)
