"""The lens evaluates the dual in place: its scores are those of `StackDual`, built from the model's weights alone.

With u_r the direction of the margin at read-out position r: the path's embedding parts are Σ_r ⟨token paths, u_r⟩, its
biases Σ_r ⟨offset, u_r⟩; the gradient step is the heads' direct parts; the knock-out is `StackDual.without`, and the
influence the gradient in the stack's training weights.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from tests.lens.zoo import CAUSAL, GROUPS, QUERY_START, TWO_POSITIONS, build, lens, tokens
from torch import Tensor, nn

from iclens import UserError
from iclens.dual import StackDual
from iclens.lens import PaddedTokens, Readouts, Trace, gradient_step, hidden_keys, knock_out, path, trace
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import influence
from iclens.papers.ren_liu_2024.language_stacks import stack_pass, stack_weights

LAYOUTS = ["gpt2", "gpt2-inverse-layer", "gpt2-unscaled-upcast", "llama", "llama-biased-tied"]
N = len(GROUPS)
IDS = tokens(N)


class PlainRMSNorm(nn.Module):
    """Llama's norm without its detour through single precision, which leaves no more than seven digits to compare."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def precise(name: str) -> LensModel:
    model = build(name, torch.float64)
    for module in list(model.modules()):
        for child, norm in list(module.named_children()):
            if type(norm).__name__ == "LlamaRMSNorm":
                setattr(module, child, PlainRMSNorm(norm))
    return LensModel.wrap(model, name=name)


class Case(NamedTuple):
    model: LensModel
    stack: StackDual
    directions: Tensor
    """u_r of every read-out position, (n_positions, d_model)."""
    bias: float


@cache
def case(name: str) -> Case:
    model = precise(name)
    passed = stack_pass(model, IDS)
    stack = StackDual.from_stack(passed.weights, passed.states[0][0], torch.arange(N), passed.mask)
    head = model.anatomy.head
    directions = torch.zeros(len(TWO_POSITIONS.offsets), stack.weights.layers[0].d_model, dtype=torch.float64)
    bias = 0.0
    for position, index, weight in TWO_POSITIONS.terms:
        directions[TWO_POSITIONS.offsets.index(position)] += weight * matrix(head)[index].detach()
        bias += 0.0 if head.bias is None else weight * float(head.bias[index])
    return Case(model, stack, directions, bias)


def traced(model: LensModel, start: int = QUERY_START, *, held: bool = False) -> Trace:
    tokens_of_one = PaddedTokens.of([IDS[0]], [start], model.device)
    return trace(model, tokens_of_one, Readouts.of([TWO_POSITIONS], [0], model.device), held=held)


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-10 * largest)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_duals_are_the_models_layers(name: str) -> None:
    passed = stack_pass(precise(name), tokens(N, batch=2))
    for dual, own in zip(passed.stack().states(), passed.states, strict=True):
        close(dual, own)
    close(passed.stack().predict(), passed.output)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_path_is_the_token_paths_along_the_margin(name: str) -> None:
    model, stack, directions, bias = case(name)
    found = path(traced(model, held=True))[0]
    parts, offset = stack.token_paths(list(TWO_POSITIONS.offsets))
    close(found.embedding, torch.einsum("rid,rd->i", parts, directions))
    close(found.bias.sum(), (offset * directions).sum() + bias)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_gradient_step_is_the_heads_direct_parts(name: str) -> None:
    model, stack, directions, _ = case(name)
    found = gradient_step(traced(model))[0].contributions
    positions = list(TWO_POSITIONS.offsets)
    final = stack.weights.final_norm.held(stack.states()[-1])
    for layer, dual in enumerate(stack.layers):
        through_heads = dual.heads.contributions(by_head=True)
        # Every token is a demonstration of its own: (n, heads, tokens, d_model) goes through the final norm as it is.
        reached = final.linear(through_heads.flatten(1, 2)).unflatten(1, through_heads.shape[1:3])[positions]
        close(found[layer], torch.einsum("rhid,rd->hi", reached, directions))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_knock_out_is_the_stack_never_trained_on_it(name: str) -> None:
    model, _, directions, bias = case(name)
    passed = stack_pass(model, IDS, GROUPS)
    stack = StackDual.from_stack(passed.weights, passed.states[0][0], GROUPS, passed.mask)
    sets = [(0,), (1,), (2, 3), (0, 1, 2, 3), ()]
    found = knock_out(traced(model), hidden_keys(GROUPS[None], [sets]))[0]
    rows = [position - QUERY_START for position in TWO_POSITIONS.offsets]
    for margin, chosen in zip(found.margins, sets, strict=True):
        without = stack.without(chosen, range(QUERY_START, N))[rows]
        expected = (without * directions).sum() + bias
        assert float(margin) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_influence_is_the_gradient_of_the_stack_in_its_training_weights(name: str) -> None:
    model, _, directions, bias = case(name)
    passed = stack_pass(model, IDS, GROUPS)
    weights = torch.tensor([0.5, 2.0, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    given = passed.weights, passed.states[0][0], GROUPS, passed.mask
    stack = StackDual.from_stack(*given, training_weights=weights)
    margin = (stack.predict()[list(TWO_POSITIONS.offsets)] * directions).sum() + bias
    (expected,) = torch.autograd.grad(margin, weights)
    prompt = PaddedTokens.of([IDS[0]], [QUERY_START], model.device)
    readouts = Readouts.of([TWO_POSITIONS], [0], model.device)
    of_tokens = torch.where(GROUPS < 0, 1.0, weights.detach()[GROUPS.clamp_min(0)])
    found = influence(model, prompt, readouts, Edges(GROUPS[None], torch.zeros(1, dtype=torch.long)), of_tokens[None])
    assert float(found.margin) == pytest.approx(float(margin.detach()), rel=1e-9, abs=1e-9)
    close(by_source(found.by_token, GROUPS[None], 4)[0, :-1], expected)


def test_the_law_would_notice_positions_that_are_not_turned() -> None:
    passed = stack_pass(precise("llama"), IDS)
    unturned = tuple(layer.__class__(**(vars(layer) | {"rotary": None})) for layer in passed.weights.layers)
    state = StackDual.from_stack(type(passed.weights)(unturned), passed.states[0][0], N - 1, passed.mask).states()[-1]
    assert float((state - passed.states[-1][0]).norm() / state.norm()) > 0.01


def test_with_the_models_own_norms_seven_digits_agree() -> None:
    passed = stack_pass(lens("llama", torch.float64), IDS)
    state, own = passed.stack().states()[-1], passed.states[-1]
    assert 1e-13 < float((state - own).norm() / own.norm()) < 1e-5


@pytest.mark.parametrize("name", [name for name in CAUSAL if CAUSAL[name][0] not in ("gpt2", "llama")][:3])
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="are not written as dual weights: those of gpt2 and llama are"):
        stack_weights(lens(name))


def test_positions_that_stretch_are_refused() -> None:
    with pytest.raises(UserError, match="'dynamic' depend on how long the text is"):
        stack_weights(lens("llama-dynamic-rope"))
