"""Half precision: every family passes its own check, whose tolerance is the model's own noise, measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import CAUSAL, build

from iclens.lens import explain_many
from iclens.lens.lens import Lens
from iclens.lens.model.loading import LensModel
from iclens.lens.read.noise import rounding_noise

HALVES = [torch.bfloat16, torch.float16]


def model(name: str, dtype: torch.dtype) -> LensModel:
    return LensModel.wrap(build(name, dtype), tokenizer(), name=name)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", CAUSAL)
def test_every_family_passes_its_own_check(name: str, dtype: torch.dtype) -> None:
    half = model(name, dtype)
    for explanation in explain_many(half, PROMPTS[:2]):
        assert explanation.exact, explanation.residuals
        routed = any(layer.held for layer in half.anatomy.layers)
        assert any("which experts a token goes to" in note for note in explanation.notes) == routed
        # Ours adds no rounding: the decomposition is as exact as single precision lets it be but for the model's own.
        of = {one.key: one.value for one in explanation.residuals}
        assert of["dual_models"] < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_direct_effects_are_those_of_the_same_weights_in_float64(dtype: torch.dtype) -> None:
    half = model("llama", dtype)
    wide = LensModel.wrap(build("llama", dtype).double(), tokenizer())
    ours, theirs = (Lens(one, PROMPTS[1], answers=["w1", "w2"]).explanation() for one in (half, wide))
    largest = max(abs(one.gradient_step or 0.0) for one in theirs.sources)
    for one, other in zip(ours.sources, theirs.sources, strict=True):
        assert one.gradient_step == pytest.approx(other.gradient_step, abs=16 * torch.finfo(dtype).eps * largest)


def test_the_noise_is_of_the_model_alone() -> None:
    lens = Lens(model("llama", torch.bfloat16), PROMPTS[0])
    everywhere, logits = rounding_noise(lens.traced)
    assert 1e-3 < float(logits) <= float(everywhere) < 0.1
    # Whatever the lens itself got wrong leaves it as it is.
    wrong = replace(lens.traced, attended={}, logits=lens.traced.logits * 0)
    assert torch.equal(rounding_noise(wrong)[1], logits)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_wrong_mask_is_no_noise(name: str) -> None:
    lens = Lens(model(name, torch.bfloat16), PROMPTS[0])
    first, *others = lens.traced.layers
    # The lens would take the queries of the first layer for others.
    object.__setattr__(lens.traced, "layers", (replace(first, weights=first.weights.flip(-1)), *others))
    assert not lens.explanation(["gradient_step"]).exact
