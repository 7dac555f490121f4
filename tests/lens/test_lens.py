"""A lens runs what is asked for, when it is asked for, and once; in float64 where single precision is not enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader, tokenizer
from tests.lens.zoo import build

from iclens.lens.explaining import explain
from iclens.lens.lens import Lens
from iclens.lens.model.loading import LensModel
from iclens.lens.read.tracing import trace
from iclens.lens.scores.path import path


@contextmanager
def shapes_of_passes(model: LensModel) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the token ids of every pass that runs through the model inside the `with` block."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


def a_lens(**options: Any) -> Lens:
    """Of a prompt of 27 tokens with five demonstrations; four tokens are the query's."""
    return Lens(reader("gpt2"), PROMPTS[1], **options)


def read_everything(lens: Lens) -> None:
    _ = lens.answer, lens.traced, lens.gradient_step, lens.path, lens.head(2, 1)
    lens.knock_out()


def test_one_pass_serves_all_and_asking_twice_runs_nothing() -> None:
    with shapes_of_passes(reader("gpt2")) as shapes:
        lens = a_lens(answers=("w5", "w6"))
        assert shapes == []
        read_everything(lens)
        # The prompt once, and the query's tokens once a demonstration and for the check.
        assert shapes == [(1, 27), (6, 4)]
        read_everything(lens)
        lens.knock_out([(i,) for i in range(5)])
        assert len(shapes) == 2
        assert (lens.passes.forward_passes, lens.passes.backward_passes) == (pytest.approx(1 + 6 * 4 / 27), 1)
        _ = lens.own_pass, lens.own_pass
        assert shapes[2:] == [(1, 27)]
        lens.knock_out([(0, 2)])
        assert shapes[3:] == [(2, 4)]
        for _ in range(2):
            found = lens.explanation(["gradient_step", "path", "knock_out"])
        assert found.exact
        assert len(shapes) == 4


def test_the_order_of_questions_does_not_matter() -> None:
    first, second = a_lens(), a_lens(held=False)
    ours = first.path, first.gradient_step, first.knock_out()
    theirs = (second.knock_out(), second.gradient_step, second.path)[::-1]
    for one, other in zip(ours, theirs, strict=True):
        for part, same in zip(vars(one).values(), vars(other).values(), strict=True):
            torch.testing.assert_close(part, same, rtol=1e-10, atol=1e-12)
    # Without what a held pass keeps, the path takes one more.
    assert second.passes.forward_passes == pytest.approx(first.passes.forward_passes + 1)


def test_what_is_not_asked_for_does_not_run() -> None:
    with shapes_of_passes(reader("gpt2")) as shapes:
        found = explain(reader("gpt2"), PROMPTS[1], scores=("gradient_step",))
    # The pass, and the plain one that it is checked against.
    assert shapes == [(1, 27), (1, 27)]
    assert (found.cost.forward_passes, found.cost.backward_passes) == (2, 0)
    effect = found.sources[0]
    assert effect.gradient_step is not None
    assert (effect.path, effect.knock_out, effect.rerun_margin_change) == (None, None, None)


def test_an_answer_that_is_chosen_saves_the_pass_that_finds_it() -> None:
    """Its tokens are forced in the first traced pass; of candidates only the later tokens run."""
    with shapes_of_passes(reader("gpt2")) as shapes:
        likeliest = a_lens(answers=("w2 w3", "w2 w4"))
        chosen = a_lens(answers=("w2 w3", "w2 w4"), answer=likeliest.answer.text)
        assert shapes == [(1, 27), (2, 1), (1, 28)]
        for one, passes, n in ((likeliest, 2, 27), (chosen, 1, 27)):
            _ = one.path, one.gradient_step
            assert one.passes.forward_passes == pytest.approx(passes + 2 / n)
        assert shapes[3:] == [(1, 28), (2, 1)]
    assert chosen.answer.text == likeliest.answer.text
    assert chosen.answer.margin == pytest.approx(likeliest.answer.margin, rel=1e-10)


def test_the_answers_log_probability_is_that_of_its_candidate() -> None:
    """Scored behind the prompt, and read in the traced pass."""
    lens = a_lens(answers=("w1", "w2 w3", "w2 w4"), answer="w2 w4")
    (chosen,) = (one for one in lens.answer.candidates if one.chosen)
    assert chosen.log_probability == pytest.approx(lens.answer.log_probability, rel=1e-10)
    assert lens.input_ids.tolist()[-1] == lens.readout.answer_ids[0]


def test_a_heads_dual_predicts_what_the_head_gave() -> None:
    lens = a_lens()
    dual, record = lens.head(1, 3), lens.traced.layers[1]
    torch.testing.assert_close(dual.predict(), record.output[0, 3], rtol=1e-12, atol=1e-12)


def cancelling(size: float) -> LensModel:
    """A float32 model in whose path huge biases cancel: attention adds what the MLP beside it takes away.

    Nothing else is written where they lie, so that the pass itself loses no digits.
    """
    model = build("gpt_neox")
    layer = model.gpt_neox.layers[1]
    with torch.no_grad():
        for sign, module in ((1, layer.attention.dense), (-1, layer.mlp.dense_4h_to_h)):
            module.weight[4] = 0.0
            module.bias[4] = sign * size
    return LensModel.wrap(model, tokenizer(), "cancelling")


def test_a_path_that_single_precision_cannot_sum_is_taken_in_double() -> None:
    model = cancelling(1e4)
    lens = Lens(model, PROMPTS[1])
    passes = lens.passes
    in_single = path(trace(model, passes.traced.tokens, passes.traced.readouts, held=True))
    assert float(passes.path_residuals(in_single)[0]) > 1e-5
    assert float(passes.path_residuals(passes.path)[0]) <= 1e-5
    assert lens.explanation(["path"]).exact
    assert passes.backward_passes == 2
    assert float(lens.answer.margin) == pytest.approx(float(lens.path.margin))
    # Without the huge biases single precision is enough.
    once = Lens(cancelling(0.0), PROMPTS[1])
    assert once.explanation(["path"]).exact
    assert once.passes.backward_passes == 1


def test_a_precise_path_is_that_of_a_double_copy() -> None:
    model = reader("llama", torch.float32)
    precise, single = (Lens(model, PROMPTS[1], precise=wanted) for wanted in (True, False))
    double = Lens(model.in_double(), PROMPTS[1])
    torch.testing.assert_close(precise.path.parts, double.path.parts, rtol=1e-12, atol=1e-12)
    assert not torch.equal(single.path.parts, double.path.parts)
    torch.testing.assert_close(single.path.parts, double.path.parts, rtol=1e-4, atol=1e-4)
    # The margin that is explained stays the model's own.
    assert precise.answer.margin == single.answer.margin
    assert (precise.passes.backward_passes, single.passes.backward_passes) == (2, 1)
