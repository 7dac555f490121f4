"""A device without float64 gives the numbers of one that has it: sums in float64 are taken in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.without_float64 import MPS, device_without_float64
from tests.lens.zoo import build

from iclens.explorer.app import VIEWS
from iclens.explorer.ask import Ask
from iclens.explorer.viewed import Kept
from iclens.lens import explain
from iclens.lens.model.loading import LensModel

SCORES = ["gradient_step", "path", "knock_out", "rerun", "integrated_gradients", "influence", "shares"]


@pytest.mark.parametrize("name", ["gpt2", "llama-biased-tied", "gemma2"])
def test_every_number_is_that_of_the_processor(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    options = {"answers": ["w1", "w2 w3"], "scores": SCORES}
    theirs = explain(LensModel.wrap(build(name), tokenizer()), PROMPTS[1], **options)
    model = build(name)
    with device_without_float64(model):
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, device=MPS, dtype=torch.float64)
        wrapped = LensModel.wrap(model, tokenizer())
        assert wrapped.device == MPS
        ours = explain(wrapped, PROMPTS[1], **options)
    assert ours.exact
    assert ours.margin == pytest.approx(theirs.margin, rel=1e-5)
    for one, other in zip(ours.sources, theirs.sources, strict=True):
        for score in SCORES:
            assert one.score(score) == pytest.approx(other.score(score), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gpt_oss"])
def test_the_views_of_the_page_are_those_of_the_processor(name: str) -> None:
    torch.set_default_dtype(torch.float32)
    ask = Ask(PROMPTS[1], ("w1", "w2 w3"), layer=1, head=2)

    def seen(model: LensModel) -> dict[str, Any]:
        viewed = Kept(model).of(ask)
        return {view: show(viewed, ask) for view, show in VIEWS.items()}

    theirs = seen(LensModel.wrap(build(name), tokenizer()))
    model = build(name)
    with device_without_float64(model):
        ours = seen(LensModel.wrap(model, tokenizer()))
    assert ours["head"]["residual"] < 1e-5
    for view, path in (("glance", ("margin",)), ("head", ("prediction_size",)), ("layers", ("layers", 2, "mlp"))):
        one, other = ours[view], theirs[view]
        for key in path:
            one, other = one[key], other[key]
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
