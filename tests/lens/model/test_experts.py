"""Experts are chosen and weighed in these tests, clamps and biases are held right, and implementations are put back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import GROUPS, SETS, build, lens, tokens, traced

from iclens.lens.explaining import explain
from iclens.lens.model.families.gpt_oss import held_experts
from iclens.lens.model.loading import LensModel, load
from iclens.lens.read.capture import run
from iclens.lens.scores.knock_out import hidden_keys, knock_out
from iclens.lens.scores.path import path

ROUTED = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "gpt_oss", "deepseek_v2", "llama4_text"]


@pytest.mark.parametrize("name", ROUTED)
def test_tokens_go_to_different_experts(name: str) -> None:
    """What the routers return differs between tokens, so that a router held for all alike would be seen."""
    model = lens(name)
    routers = [layer.held[0] for layer in model.anatomy.layers if layer.held]
    seen: list[torch.Tensor] = []
    handles = [one.register_forward_hook(lambda module, args, output: seen.append(output[0])) for one in routers]
    run(model, tokens(24))
    for handle in handles:
        handle.remove()
    assert routers
    for scores in seen:
        assert len(scores.reshape(24, -1).argmax(-1).unique()) > 1


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_held_and_free_routing_are_not_the_same(name: str) -> None:
    """The knock-out routes anew: the margin is no longer the path's without the demonstration."""
    found = traced(lens(name, torch.float64), tokens(24), held=True)
    without = knock_out(found, hidden_keys(GROUPS[None], [SETS]))[0]
    parts = path(found)[0].parts
    linear = torch.stack([parts[torch.isin(GROUPS, torch.tensor(chosen))].sum() for chosen in SETS[:4]])
    assert float((linear - without.margin_changes[:4]).abs().max()) > 0.01


def test_held_experts_are_the_models_own_and_linear_in_their_input() -> None:
    model = lens("gpt_oss", torch.float64)
    experts = model.model.model.layers[0].mlp.experts
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 32, generator=generator, dtype=torch.float64)
    chosen = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(9)])
    weights = torch.rand(9, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.model.config._experts_implementation = "eager"
        try:
            own = experts(x, chosen, weights)
            unclamped = type(experts).forward(_without_limit(experts), x, chosen, weights)
        finally:
            model.model.config._experts_implementation = "grouped_mm"
    leaf = x.clone().requires_grad_()
    linear, rest = held_experts(experts, leaf, chosen, weights)
    torch.testing.assert_close(linear + rest, own, rtol=1e-12, atol=1e-12)
    assert not rest.requires_grad
    direction = torch.randn(9, 32, generator=generator, dtype=torch.float64)
    (pulled,) = torch.autograd.grad(linear, leaf, direction)
    torch.testing.assert_close((pulled * x).sum(-1), (direction * linear.detach()).sum(-1), rtol=1e-10, atol=1e-12)
    assert float((unclamped - own).norm() / own.norm()) > 0.05


def _without_limit(experts: torch.nn.Module) -> torch.nn.Module:
    free = type(experts)(experts.config)
    free.load_state_dict(experts.state_dict())
    free.limit = 1e9
    return free.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_experts_implementation_is_left_as_it_was(dtype: torch.dtype) -> None:
    model = LensModel.wrap(build("gpt_oss", dtype))
    experts = model.model.model.layers[1].mlp.experts
    path(traced(model, tokens(24), held=True))
    assert model.model.config._experts_implementation == "grouped_mm"
    assert "forward" not in vars(experts)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_precise_path_runs_where_the_grouped_product_of_experts_does_not_exist(name: str) -> None:
    model = LensModel.wrap(build(name, torch.float32), tokenizer(), name)
    single, precise = (explain(model, PROMPTS[1], scores=("path",), precise=wanted) for wanted in (False, True))
    assert single.exact
    assert precise.exact
    ours, theirs = ([one.path for one in found.sources] for found in (single, precise))
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert ours != theirs


def test_a_checkpoint_with_a_vision_tower_is_loaded_as_its_text_model(tmp_path: Path) -> None:
    build("llama4").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.family.name == "llama4_text"
    whole = LensModel.wrap(build("llama4"))
    torch.testing.assert_close(run(loaded, tokens(20)), run(whole, tokens(20)), rtol=1e-5, atol=1e-5)
