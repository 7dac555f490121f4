"""Fused activations are the model's own up to rounding, and nothing of them stays behind."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import build, lens, tokens
from torch.nn import functional
from transformers.activations import ACT2FN

from iclens.lens.model.loading import LensModel
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations

SPELT_OUT = ("NewGELUActivation", "FastGELUActivation")


def spelt_out(model):
    return [module for module in model.modules() if type(module).__name__ in SPELT_OUT]


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_the_formula_is_the_same(name):
    u = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    assert type(ACT2FN[name]).__name__ in SPELT_OUT
    torch.testing.assert_close(
        functional.gelu(u, approximate="tanh"), ACT2FN[name](u), rtol=1e-9 if name == "gelu_fast" else 1e-13, atol=1e-12
    )


def test_a_model_gives_the_same_numbers_and_is_left_as_it_was():
    model, ids = lens("gpt2", torch.float64), tokens(20)
    assert spelt_out(model.model)
    with torch.no_grad():
        before = run(model, ids)
        with fused_activations(model):
            assert all("forward" in vars(module) for module in spelt_out(model.model))
            inside = run(model, ids)
        with pytest.raises(ArithmeticError), fused_activations(model):
            raise ArithmeticError
    torch.testing.assert_close(inside, before, rtol=1e-12, atol=1e-12)
    assert not any("forward" in vars(module) for module in spelt_out(model.model))


def test_hooks_see_the_activation_and_a_replaced_one_stays():
    model, ids = LensModel.wrap(build("gpt2")), tokens(6)
    first, second, *_ = spelt_out(model.model)
    seen, called = [], []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    second.forward = lambda u: called.append(u) or u
    with torch.no_grad(), fused_activations(model):
        run(model, ids)
    assert len(seen) == 1
    assert len(called) == 1
    assert "forward" in vars(second)
