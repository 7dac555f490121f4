"""A model chooses, and another one runs what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.selection.words import TEMPLATE, draw, learner
from transformers import GPT2Config, GPT2LMHeadModel

from iclens.errors import UserError
from iclens.lens import LensModel, load
from iclens.selection import Example, Selection, select
from iclens.selection.checking import check

KNOWN = draw(3)


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def another(n_positions: int = 256) -> LensModel:
    """A model that has learnt nothing, with the learner's tokenizer."""
    torch.manual_seed(5)
    tokenizer = learner().tokenizer
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=n_positions, n_embd=16, n_layer=2, n_head=2, initializer_range=1.0
    )
    return load(GPT2LMHeadModel(config).eval(), tokenizer=tokenizer)


def chosen(**options: Any) -> Selection:
    asked: dict[str, Any] = {"template": TEMPLATE, "k": 4, "candidates": KNOWN.labels, "against": None, "budget": 20.0}
    return select(learner(), KNOWN.pool, KNOWN.dev, **asked | options)


def test_the_model_itself_as_the_other_one_says_the_same_again() -> None:
    found = chosen(check_with=learner())
    assert found.checked is not None
    assert found.checked.held_out == found.held_out
    assert found.checked.tokens == found.tokens


def test_another_model_runs_both_prompts_and_changes_nothing_of_the_choice() -> None:
    alone, found = chosen(), chosen(check_with=another())
    assert found.checked is not None
    assert (found.indices, found.held_out, found.scores) == (alone.indices, alone.held_out, alone.scores)
    assert found.cost.report == pytest.approx(alone.cost.report)
    aside = [KNOWN.dev[i] for i in found.set_aside]
    asked: dict[str, Any] = {"template": TEMPLATE, "candidates": KNOWN.labels}
    for order, said in ((found.start, found.checked.held_out.before), (found.indices, found.checked.held_out.after)):
        plain = check(another(), [KNOWN.pool[i] for i in order], aside, **asked)
        assert said.metric == plain.metric
        assert said.log_loss.mean == pytest.approx(plain.log_loss.mean, abs=1e-5)
    change = found.checked.held_out.change.log_loss.mean
    both = found.checked.held_out.after.log_loss.mean - found.checked.held_out.before.log_loss.mean
    assert change == pytest.approx(both, abs=1e-9)
    assert found.checked.held_out.before.log_loss != found.held_out.before.log_loss
    assert f"With {found.checked.model} in place of bundled, the accuracy goes from" in str(found)


def test_labels_that_the_first_model_gave_are_those_that_the_other_one_reads() -> None:
    inputs = [Example(word) for word, _ in KNOWN.pool]
    found = select(
        learner(), inputs, KNOWN.dev, k=4, template=TEMPLATE, candidates=KNOWN.labels, against=None, budget=20.0,
        check_with=another(),
    )  # fmt: skip
    assert found.checked is not None
    shots = [(found.demonstrations[i].input, found.demonstrations[i].output) for i in found.indices]
    aside = [KNOWN.dev[i] for i in found.set_aside]
    plain = check(another(), shots, aside, template=TEMPLATE, candidates=KNOWN.labels)
    assert found.checked.held_out.after.metric == plain.metric


def test_a_model_that_cannot_read_the_prompts_is_refused_before_anything_runs() -> None:
    told: list[float] = []
    with pytest.raises(UserError, match=r"which is to check the choice: the demonstrations of a prompt have up to 48"):
        chosen(check_with=another(n_positions=40), progress=lambda stage, passes: told.append(passes))
    assert not told
