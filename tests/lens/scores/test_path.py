"""The path's parts sum to the margin, and the network it is taken through is linear."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import CAUSAL, build, lens, tokens, traced

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import pull_back, ratio, shift
from iclens.lens.read.attend import eager
from iclens.lens.read.frozen import held_norm, holding
from iclens.lens.read.margin import Readout
from iclens.lens.scores.path import PathScores, path

EXPERTS = ["qwen2_moe", "phimoe", "gpt_oss", "deepseek_v3", "llama4_text"]


def path_of(name: str, readout: Readout) -> PathScores:
    """The path of one prompt of 24 tokens, read from its tenth on."""
    return path(traced(lens(name), tokens(24), readout, 10, held=True))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CAUSAL)
def test_parts_sum_to_the_margin(name: str, dtype: torch.dtype) -> None:
    found = path(traced(lens(name, dtype), tokens(24), held=True))[0]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert found.residual <= tolerance
    assert float(found.parts.sum()) == pytest.approx(float(found.margin), rel=2 * tolerance, abs=2 * tolerance)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt-350m", "phi", "olmo", "arcee", "cohere", "stablelm", *EXPERTS])
def test_the_held_network_is_linear_in_its_embeddings(name: str) -> None:
    model, ids = lens(name, torch.float64), tokens(24)
    # The fast kernel's backward pass cannot say that it is linear in the values; the written-out one can.
    with holding(model, 24, eager) as leaves:
        model.model(ids, use_cache=False, logits_to_keep=torch.tensor([20, 23]))
        assert leaves.unembedded is not None
        once = torch.autograd.grad(leaves.unembedded[0, 0, 5], leaves.embeddings, create_graph=True)
        # The gradient of a linear map depends on no embedding.
        assert not any(gradient.requires_grad for gradient in once)


def test_one_trace_has_one_path() -> None:
    found = traced(lens("gpt2"), tokens(24), held=True)
    path(found)
    for spent in (found, traced(lens("gpt2"), tokens(24))):
        with pytest.raises(ValueError, match="held=True"):
            path(spent)


def test_a_model_without_biases_has_no_bias_part() -> None:
    readout = Readout(((23, 5, 1.0),))
    assert not path_of("llama", readout).bias.any()
    assert path_of("gpt2", readout).bias.any()


@pytest.mark.parametrize("name", ["gpt2", "mistral", "gemma"])
def test_tokens_after_the_readout_have_no_part(name: str) -> None:
    found = path_of(name, Readout(((10, 5, 1.0),)))
    assert not found.parts[11:].any()
    assert found.embedding[:11].abs().min() > 0


def test_windows_reach_further_through_layers_than_directly() -> None:
    """Three layers with a window of 7 see 18 tokens back, not 6."""
    found = path_of("mistral-window", Readout(((23, 5, 1.0),)))
    assert not found.parts[: 23 - 18].any()
    assert found.embedding[23 - 18 :].abs().min() > 0


def test_a_token_with_no_embedding_still_sums() -> None:
    """Gates at exact zeros: a token whose embedding is zero everywhere."""
    built = build("llama", torch.float64)
    ids = tokens(24)
    with torch.no_grad():
        built.model.embed_tokens.weight[ids[0, 3]] = 0.0
        built.model.layers[0].mlp.gate_proj.weight[:5] = 0.0
    found = path(traced(LensModel.wrap(built), ids, held=True))
    assert found.parts.isfinite().all()
    assert found.residual <= 1e-12


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo", "nemotron", "gemma"])
def test_held_norms_give_their_own_output_and_pull_back(name: str) -> None:
    model = lens(name, torch.float64)
    norm = model.anatomy.layers[0].norms[0]
    generator = torch.Generator().manual_seed(1)
    x, u = (torch.randn(5, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    y = norm(x).detach()
    x.requires_grad_()
    held = held_norm(norm, x, y)
    assert torch.equal(held, y)
    torch.testing.assert_close(torch.autograd.grad(held, x, u)[0], pull_back(norm, x.detach(), y, u), rtol=0, atol=0)
    pulled = (pull_back(norm, x.detach(), y, u) * x.detach()).sum(-1) + shift(norm, u)
    torch.testing.assert_close(pulled, (u * y).sum(-1), rtol=1e-12, atol=1e-12)


def test_gates_at_zero_are_limits() -> None:
    x = torch.tensor([0.0, 1.0, -2.0, 0.0], dtype=torch.float64)
    silu = torch.nn.SiLU()
    gate = ratio(silu, x, silu(x))
    torch.testing.assert_close(gate, torch.sigmoid(x), rtol=1e-5, atol=1e-6)


def test_an_encoder_has_no_path() -> None:
    with pytest.raises(UserError, match="an encoder"):
        traced(lens("roberta"), tokens(24), held=True)
