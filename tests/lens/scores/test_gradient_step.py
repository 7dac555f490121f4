"""The gradient step's parts sum to the margin and agree with autograd through the held residual stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.lens.zoo import CAUSAL, GROUPS, TWO_POSITIONS, build, lens, tokens, traced

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.frozen import holding
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.scores.gradient_step import gradient_step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CAUSAL)
def test_everything_sums_to_the_margin(name: str, dtype: torch.dtype) -> None:
    step = gradient_step(traced(lens(name, dtype), tokens(24)))[0]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert step.contributions.shape == (3, 4, 24)
    assert step.residual <= tolerance
    assert step.attention_residual <= tolerance
    parts = float(step.by_token.sum() + step.attention_bias.sum() + step.mlp.sum() + step.embedding + step.bias)
    assert parts == pytest.approx(float(step.margin), rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "llama", "gemma2", "olmo2", "glm4", "gpt_neox", "opt-350m", "granite", "cohere", "nemotron"),
        *("qwen2_moe", "granitemoe", "gpt_oss", "deepseek_v3", "llama4_text"),
    ],
)
def test_layers_agree_with_autograd_through_the_residual_stream(name: str) -> None:
    """Cut every branch but the attention of one layer, and differentiate the held network."""
    model, ids = lens(name, torch.float64), tokens(24)
    found = traced(model, ids)
    step, readouts = gradient_step(found)[0], found.readouts
    outputs: list[torch.Tensor] = []

    def leaf(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        outputs.append(output.detach().requires_grad_(True))
        return outputs[-1]

    def cut(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: Any) -> Any:
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    handles = []
    with holding(model, 24) as leaves:
        for layer in model.anatomy.layers:
            assert layer.output is not None
            assert layer.mlp is not None
            handles += [layer.output.register_forward_hook(leaf), layer.mlp.register_forward_hook(cut)]
        logits = model.model(ids, use_cache=False, logits_to_keep=readouts.positions[0]).logits
        assert leaves.unembedded is not None
        gains = readouts.gains(leaves.unembedded.detach(), logits.detach())
        gradients = torch.autograd.grad((gains * readouts.terms_of(leaves.unembedded)).sum(), outputs)
    for handle in handles:
        handle.remove()
    shares = torch.stack([(g * o.detach()).sum() for g, o in zip(gradients, outputs, strict=True)])
    norms = [layer.norm_after_attention for layer in model.anatomy.layers]
    assert all(norm is None or getattr(norm, "bias", None) is None for norm in norms)
    torch.testing.assert_close(step.contributions.sum((1, 2)) + step.attention_bias, shares, rtol=1e-10, atol=1e-10)


def test_a_token_out_of_sight_contributes_nothing() -> None:
    step = gradient_step(traced(lens("mistral-window"), tokens(24), Readout(((23, 5, 1.0),))))[0]
    assert not step.contributions[..., :17].any()
    assert step.contributions[..., 17:].abs().min() > 0


def test_a_token_after_the_position_contributes_nothing() -> None:
    step = gradient_step(traced(lens("llama"), tokens(24), Readout(((10, 5, 1.0),)), 10))
    assert not step.contributions[..., 11:].any()


def test_one_layer_by_hand() -> None:
    """W_O of one head, written out for GPT-2's layout, without the lens's own reshaping."""
    model, ids = lens("gpt2", torch.float64), tokens(24)
    found = traced(model, ids, Readout(((23, 5, 1.0),)))
    step = gradient_step(found)[0]
    transformer = model.model.transformer
    with torch.no_grad():
        x = model.model.transformer.h[2].ln_1(model.model(ids, output_hidden_states=True).hidden_states[2])
        v = transformer.h[2].attn.c_attn(x)[0, :, 64:].reshape(24, 4, 8)
        inputs = found.inputs[transformer.ln_f][0, 0]
        scale = torch.rsqrt(inputs.var(unbiased=False) + transformer.ln_f.eps)
        u = model.model.lm_head.weight[5] * transformer.ln_f.weight * scale
        u = u - u.mean()
        rows = transformer.h[2].attn.c_proj.weight.reshape(4, 8, 32)
        by_hand = found.layers[2].weights[0, :, 0] * torch.einsum("ihd,hdm,m->hi", v, rows, u)
    torch.testing.assert_close(step.contributions[2], by_hand, rtol=1e-10, atol=1e-12)


def test_margins_add() -> None:
    """The gradient step is linear in the read-out when logits are neither capped nor scaled; one pass serves all."""
    found = traced(lens("qwen3", torch.float64), tokens(24))
    rows = found.readouts.term_rows[0].tolist()
    parts = sum(
        weight * gradient_step(found, found.readouts.one_logit(row, index)).contributions
        for row, (_, index, weight) in zip(rows, TWO_POSITIONS.terms, strict=True)
    )
    torch.testing.assert_close(gradient_step(found).contributions, parts, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text"])
def test_half_precision_runs(name: str) -> None:
    model = LensModel.wrap(build(name, torch.bfloat16))
    step = gradient_step(traced(model, tokens(24)))
    assert step.contributions.isfinite().all()
    assert step.residual <= 0.05


@pytest.mark.parametrize(
    ("ids", "readout", "message"),
    [
        (tokens(0), TWO_POSITIONS, "no tokens"),
        (tokens(129), TWO_POSITIONS, "holds 128"),
        (tokens(24) + 60, TWO_POSITIONS, r"\[0, 61\)"),
        (tokens(20), TWO_POSITIONS, "position 23 of a prompt of 20"),
        (tokens(24), Readout(((20, 61, 1.0),)), "vocabulary index 61"),
        (tokens(24), Readout(((20, 5, 1.0),), (5, 61), answer_offset=20), "vocabulary index 61"),
        (tokens(24), Readout(((17, 5, 1.0),)), "query starts at token 18, but the margin is read at token 17"),
        (tokens(18), Readout(((17, 5, 1.0),)), "query starts at token 18 of a prompt of 18"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(ids: torch.Tensor, readout: Readout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        traced(lens("llama"), ids, readout)


def test_a_prompt_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="one prompt"):
        PaddedTokens.of([tokens(24, batch=2)], [0], torch.device("cpu"))


def test_an_encoder_is_not_explained() -> None:
    with pytest.raises(UserError, match="an encoder"):
        traced(lens("bert"), tokens(24))


def test_readouts_without_terms_or_with_negative_positions_are_refused() -> None:
    with pytest.raises(UserError, match="no terms"):
        Readout(())
    with pytest.raises(UserError, match="count from 0"):
        Readout(((-1, 3, 1.0),))


def test_contrast_is_the_logit_over_the_mean_of_the_others() -> None:
    logits = torch.randn(1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    readout = Readout.contrast(4, 2, [0, 5])
    assert readout.offsets == (4,)
    expected = logits[0, 2] - (logits[0, 0] + logits[0, 5]) / 2
    readouts = Readouts.of([readout], [0], logits.device)
    torch.testing.assert_close(readouts.margin(logits[None])[0], expected)
    torch.testing.assert_close(readouts.log_probability(logits[None])[0], torch.log_softmax(logits[0], -1)[2])


def test_demonstrations_are_sums_of_tokens() -> None:
    """The grouping that everything downstream uses loses nothing."""
    step = gradient_step(traced(lens("gpt2", torch.float64), tokens(24)))
    found = by_source(step.contributions, GROUPS[None], 4)[0]
    expected = [step.contributions[0, ..., group == GROUPS].sum(-1) for group in (0, 1, 2, 3, -1)]
    torch.testing.assert_close(found, torch.stack(expected, -1))
