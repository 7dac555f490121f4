"""Numbers that are none are told as one error that names where they begin."""

from __future__ import annotations

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import build

from iclens.errors import UserError
from iclens.lens import explain
from iclens.lens.model.loading import LensModel


def test_a_weight_that_is_none_is_named() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    match = r"not finite from model\.layers\.1\.mlp\.down_proj on: its weight holds values that are none"
    with pytest.raises(UserError, match=match):
        explain(LensModel.wrap(model, tokenizer()), PROMPTS[0])


def test_an_overflow_of_float16_is_named() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight *= 2e4
    model = model.half()
    with pytest.raises(UserError, match=r"from model\.layers\.1\.mlp\..* on: float16 ends at 65504"):
        explain(LensModel.wrap(model, tokenizer()), PROMPTS[0])
    assert explain(LensModel.wrap(model.float(), tokenizer()), PROMPTS[0])
