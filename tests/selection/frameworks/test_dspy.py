"""A choice as DSPy's teleprompter, with the real package."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from tests.selection.words import draw, learner

from iclens.errors import UserError
from iclens.selection import DSPyTeleprompter, select

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    dspy = pytest.importorskip("dspy")

KNOWN = draw(3)
OPTIONS: dict[str, Any] = {"k": 4, "candidates": KNOWN.labels, "against": None, "budget": 20.0}


@pytest.fixture(autouse=True)
def single_precision() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def examples(pairs: Any) -> list[Any]:
    return [dspy.Example(word=word, kind=label).with_inputs("word") for word, label in pairs]


def test_the_demonstrations_are_those_that_select_chooses_from_the_same_texts() -> None:
    train, dev = examples(KNOWN.pool), examples(KNOWN.dev)
    student = dspy.Predict(dspy.Signature("word -> kind", "Say its kind."))
    teleprompter = DSPyTeleprompter(learner(), **OPTIONS)
    assert isinstance(teleprompter, dspy.teleprompt.Teleprompter)
    compiled = teleprompter.compile(student, trainset=train, valset=dev)
    pairs = [[(f"Word: {word}", label) for word, label in part] for part in (KNOWN.pool, KNOWN.dev)]
    written = {"template": "{input}\nKind: {output}", "instruction": "Say its kind."}
    found = select(learner(), *pairs, **written, **OPTIONS)
    assert compiled.demos == [train[i] for i in found.indices]
    assert teleprompter.selections["self"].held_out == found.held_out
    # The student stays as it was.
    assert student.demos == []
    assert compiled._compiled
    # What the program's own language model would read has them in their order.
    messages = dspy.ChatAdapter().format(compiled.signature, compiled.demos, {"word": "cat"})
    asked = [one["content"] for one in messages if one["role"] == "user"]
    assert [next(word for word, _ in KNOWN.pool if f"\n{word}" in text) for text in asked[:-1]] == [
        KNOWN.pool[i][0] for i in found.indices
    ]


def test_predictors_whose_fields_no_example_shows_stay_as_they_are() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.Predict("word -> thought")
            self.outer = dspy.ChainOfThought("word -> kind")

    teleprompter = DSPyTeleprompter(learner(), **OPTIONS)
    compiled = teleprompter.compile(Program(), trainset=examples(KNOWN.pool), valset=examples(KNOWN.dev))
    assert list(teleprompter.selections) == ["outer.predict"]
    assert teleprompter.left_out == ("inner",)
    assert compiled.inner.demos == []
    assert len(compiled.outer.predict.demos) == 4


def test_without_a_valset_half_of_the_trainset_chooses() -> None:
    every = examples([*KNOWN.pool, *KNOWN.dev])
    teleprompter = DSPyTeleprompter(learner(), **OPTIONS)
    compiled = teleprompter.compile(dspy.Predict("word -> kind"), trainset=every)
    found = teleprompter.selections["self"]
    assert len(found.demonstrations) == 18
    assert len(found.development) + len(found.set_aside) == 18
    assert all(one in every for one in compiled.demos)


def test_mistakes_are_one_sentence() -> None:
    train, dev = examples(KNOWN.pool), examples(KNOWN.dev)
    teleprompter = DSPyTeleprompter(learner(), **OPTIONS)
    with pytest.raises(UserError, match=r"no predictor \(self\) has all its inputs and one output"):
        teleprompter.compile(dspy.Predict("question -> answer"), trainset=train, valset=dev)
    with pytest.raises(UserError, match="a teacher is given"):
        teleprompter.compile(dspy.Predict("word -> kind"), trainset=train, valset=dev, teacher=dspy.Predict("a -> b"))
    both = [dspy.Example(word=word, kind=label, size="big").with_inputs("word") for word, label in KNOWN.pool]
    with pytest.raises(UserError, match="the outputs kind, size: say output_field"):
        teleprompter.compile(dspy.Predict("word -> kind, size"), trainset=both, valset=dev)
