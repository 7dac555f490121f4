"""In float64 every check holds to 1e-12, but for those that the model's own detours through float32 spoil."""

from __future__ import annotations

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import CAUSAL, ENCODERS, build, tokens

from iclens.identities import check_capture
from iclens.lens import LensModel, explain_many

CHECKS = {"capture", "dual_models", "gradient_step", "path", "knock_out"}


@pytest.mark.parametrize("name", CAUSAL)
def test_every_check_of_an_explanation(name: str) -> None:
    model = LensModel.wrap(build(name, torch.float64, detours=True), tokenizer(), name)
    for found in explain_many(model, PROMPTS[:2], scores=["gradient_step", "path", "knock_out"]):
        assert {one.key for one in found.residuals} == CHECKS
        for one in found.residuals:
            spoilt = one.key in model.family.single
            assert one.value <= (1e-5 if spoilt else 1e-12), one
            assert one.tolerance == (1e-5 if spoilt else 1e-10), one


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_the_capture_of_a_padded_batch(name: str) -> None:
    model = LensModel.wrap(build(name, torch.float64, detours=True), name=name)
    mask = torch.ones(2, 20, dtype=torch.long)
    if "capture" in model.family.single:
        # Its own attention makes NaN of padding in float64.
        assert check_capture(model, tokens(20, batch=2)).worst <= 1e-6
        return
    mask[0, :5] = 0
    assert check_capture(model, tokens(20, batch=2), mask).worst <= 1e-12
