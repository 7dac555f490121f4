"""A choice as LangChain's selector of examples, with the real package."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from tests.selection.words import TEMPLATE, draw, learner

from iclens.errors import UserError
from iclens.selection import LangChainSelector, Selection, select

selectors = pytest.importorskip("langchain_core.example_selectors")
prompts = pytest.importorskip("langchain_core.prompts")
KNOWN = draw(3)
OPTIONS: dict[str, Any] = {
    "k": 4, "template": TEMPLATE, "candidates": KNOWN.labels, "against": None, "budget": 20.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def single_precision() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def chosen() -> Selection:
    return select(learner(), KNOWN.pool, KNOWN.dev, **OPTIONS)


def test_a_prompt_of_langchain_is_the_chosen_prompt() -> None:
    found = chosen()
    selector = LangChainSelector(found)
    assert isinstance(selector, selectors.BaseExampleSelector)
    prompt = prompts.FewShotPromptTemplate(
        example_selector=selector,
        example_prompt=prompts.PromptTemplate.from_template(TEMPLATE),
        suffix="{input} is",
        input_variables=["input"],
    )
    for word, _ in KNOWN.dev[:2]:
        assert prompt.format(input=word) == found.prompt.format(input=word)
    given = asyncio.run(selector.aselect_examples({"input": "cat"}))
    assert given == selector.select_examples({"input": "cat"})
    with pytest.raises(UserError, match="a choice that was made already"):
        selector.add_example({"input": "a", "output": "b"})


def test_choosing_gives_back_whole_examples_and_chooses_anew_when_one_is_added() -> None:
    rows = [{"word": word, "kind": label, "id": i} for i, (word, label) in enumerate(KNOWN.pool)]
    dev = [{"word": word, "kind": label} for word, label in KNOWN.dev]
    selector = LangChainSelector.choosing(learner(), rows[:-1], dev, input_key="word", output_key="kind", **OPTIONS)
    first = selector.select_examples({"word": "cat"})
    assert [one["id"] for one in first] == list(selector.selection.indices)
    assert first == selector.select_examples({"word": "dog"})
    before = selector.selection
    selector.add_example(rows[-1])
    again = selector.select_examples({"word": "cat"})
    assert selector.selection is not before
    assert [one["id"] for one in again] == list(chosen().indices)
    with pytest.raises(UserError, match="has no 'kind'"):
        selector.add_example({"word": "a"})
