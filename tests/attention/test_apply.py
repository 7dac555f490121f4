"""A variant in a Hugging Face model: what the model then computes, and that taking it out leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.attention.applied import ADAPTER, FAMILIES, VARIANTS, left_padded, logits, right_padded, strengthen
from tests.lens.zoo import CAUSAL, ENCODERS, tokens
from tests.lens.zoo import build as zoo_model

from iclens.attention import ATTENTIONS, apply, build, interface, remove
from iclens.attention.dropout import with_dropout

NEUTRAL: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regularized": {"alpha": 0.0},
    "negative": {"n_negatives": 1, "beta": 0.0},
    "augmented": VARIANTS["augmented"],
}

PADDINGS = [None, left_padded, right_padded]


def run_naively(handle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for variant in handle.variants.values():
        monkeypatch.setattr(variant, "run", variant.naive)


@pytest.mark.parametrize("variant", NEUTRAL)
@pytest.mark.parametrize("family", FAMILIES)
def test_neutral_strength_is_the_model_and_removing_is_bitwise(family: str, variant: str) -> None:
    model, ids = zoo_model(family, torch.float64), tokens(12, 2)
    model.set_attn_implementation("sdpa")
    before = [logits(model, ids, padding) for padding in PADDINGS]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    handle = apply(model, variant, **NEUTRAL[variant])
    for padding, plain in zip(PADDINGS, before, strict=True):
        torch.testing.assert_close(logits(model, ids, padding), plain, rtol=1e-12, atol=1e-12)
    handle.remove()
    assert all(torch.equal(logits(model, ids, p), plain) for p, plain in zip(PADDINGS, before, strict=True))
    assert model.config._attn_implementation == "sdpa"
    assert not hasattr(model.config, "iclens_attention")
    assert {name for name, _ in model.named_modules() if "iclens" in name} == set()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_is_the_naive_variant_in_every_layer(
    family: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = zoo_model(family, torch.float64), tokens(12, 2)
    plain = logits(model, ids)
    handle = apply(model, variant, **VARIANTS[variant])
    strengthen(handle)
    fast = [logits(model, ids, padding) for padding in PADDINGS]
    assert (fast[0] - plain).abs().max() > 1e-3
    run_naively(handle, monkeypatch)
    for padding, out in zip(PADDINGS, fast, strict=True):
        torch.testing.assert_close(out, logits(model, ids, padding), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_explicit_reference_from_the_captured_q_k_v(family: str) -> None:
    """(A − αI) V by hand, with the mask by hand: causal, the layer's window, no padding."""
    model, ids = zoo_model(family, torch.float64), tokens(12, 2)
    handle = apply(model, "regularized", alpha=0.3)
    calls: list[tuple[Any, ...]] = []
    for name, variant in handle.variants.items():
        variant.register_forward_hook(
            lambda _, given, options, out, name=name: calls.append((name, *given[:3], options["scale"], out)),
            with_kwargs=True,
        )
    logits(model, ids)
    assert [call[0] for call in calls] == list(handle.variants)
    token = torch.arange(12)
    behind = token[:, None] - token
    for name, q, k, v, scale, out in calls:
        layer = model.get_submodule(name)
        allowed = torch.full((12, 12), True)
        if family in CAUSAL:
            window = 12
            if family in ("mistral-window", "phi3") or (
                family in ("qwen2-window", "gemma3_text") and layer.sliding_window
            ):
                window = 7
            allowed = (behind >= 0) & (behind < window)
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        a = torch.softmax((q @ k.mT * scale).masked_fill(~allowed, -torch.inf), -1)
        torch.testing.assert_close(out, a @ v - 0.3 * v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("regularized", {"alpha": 0.2, "learned": True}),
        ("negative", {"beta": 0.2, "learned": True}),
        ("augmented", VARIANTS["augmented"]),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "distilbert"])
def test_gradients_flow_into_strengths_and_weights(
    family: str, variant: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = zoo_model(family, torch.float64), tokens(12, 2)
    handle = apply(model, variant, **options)
    strengthen(handle)
    model(ids, attention_mask=left_padded(ids))[0][1].square().mean().backward()
    fast = {name: parameter.grad for name, parameter in model.named_parameters()}
    own = [gradient for name, gradient in fast.items() if "iclens_attention" in name]
    assert len(own) >= 3
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in own)
    model.zero_grad()
    run_naively(handle, monkeypatch)
    model(ids, attention_mask=left_padded(ids))[0][1].square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(fast[name], parameter.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_variant_takes_the_layers_dtype(dtype: torch.dtype) -> None:
    model, ids = zoo_model("llama", dtype), tokens(12, 2)
    plain = logits(model, ids)
    handle = apply(model, "regularized", alpha=0.0, learned=True)
    assert {p.dtype for variant in handle.variants.values() for p in variant.parameters()} == {dtype}
    out = logits(model, ids)
    assert out.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(out, plain, rtol=tolerance, atol=tolerance * plain.abs().max().item())


def test_autocast_runs_and_stays_near() -> None:
    model, ids = zoo_model("qwen3"), tokens(12, 2)
    exact = logits(model, ids)
    apply(model, "regularized", alpha=0.0, learned=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = logits(model, ids)
    assert (near.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_as_a_context_manager_also_after_an_error() -> None:
    model, ids = zoo_model("gpt2"), tokens(12, 2)
    before = logits(model, ids)
    with apply(model, "regularized", alpha=0.5) as patched:
        assert patched is model
        assert not torch.equal(logits(model, ids), before)
    assert torch.equal(logits(model, ids), before)
    with pytest.raises(IndexError), apply(model, "regularized", alpha=0.5):
        model(ids + 1000)
    assert torch.equal(logits(model, ids), before)
    with apply(model, "regularized", alpha=0.5) as patched:
        remove(patched)
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_implementation_from_before_returns(implementation: str) -> None:
    model, ids = zoo_model("llama"), tokens(12, 2)
    model.set_attn_implementation(implementation)
    before = logits(model, ids)
    handle = apply(model, "softmax")
    assert model.config._attn_implementation == interface.NAME
    handle.remove()
    assert model.config._attn_implementation == implementation
    assert torch.equal(logits(model, ids), before)


def test_a_copy_keeps_its_variant_and_can_lose_it_alone() -> None:
    model, ids = zoo_model("llama"), tokens(12, 2)
    before = logits(model, ids)
    apply(model, "regularized", alpha=0.5)
    patched, twin = logits(model, ids), copy.deepcopy(model)
    assert torch.equal(logits(twin, ids), patched)
    remove(twin)
    assert torch.equal(logits(twin, ids), before)
    assert torch.equal(logits(model, ids), patched)


def test_each_layer_has_its_own_parameters() -> None:
    handle = apply(zoo_model("llama"), "augmented", g1=torch.nn.Linear(8, 8), g2=ADAPTER)
    parameters = [p for variant in handle.variants.values() for p in variant.parameters()]
    assert parameters
    assert len({p.data_ptr() for p in parameters}) == len(parameters)


def test_dropout_acts_in_training_only_and_leaves_alpha_alone() -> None:
    """With every softmax weight dropped but the values' own part kept, what stays is −α v."""
    model, ids = zoo_model("llama", torch.float64), tokens(12, 2)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    handle = apply(model, "regularized", alpha=0.3)
    calm = logits(model, ids)
    assert torch.equal(logits(model, ids), calm)
    model.train()
    torch.manual_seed(1)
    first = logits(model, ids)
    torch.manual_seed(1)
    assert torch.equal(logits(model, ids), first)
    assert not torch.allclose(logits(model, ids), first)
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    variant = next(iter(handle.variants.values()))
    nothing_left = with_dropout(variant, q, k, v, None, scale=None, is_causal=True, dropout_p=1 - 1e-12)
    torch.testing.assert_close(nothing_left, -0.3 * v.repeat_interleave(2, 1))


@pytest.mark.parametrize(
    "name", [name for name in ATTENTIONS if name not in ("composed", "scale-matched", "parameter-matched")]
)
def test_dropping_nothing_is_the_variant_and_dropping_is_right_on_average(name: str) -> None:
    variant = build(name, n_heads=4, d=8, d_v=8, n_kv_heads=2, **VARIANTS.get(name, {}))
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    mask[0, 0, :, 0] = False
    for given in (None, mask):
        for is_causal in (True, False):
            out = variant(q, k, v, given, scale=0.5, is_causal=is_causal)
            options: dict[str, Any] = {"scale": 0.5, "is_causal": is_causal}
            torch.testing.assert_close(with_dropout(variant, q, k, v, given, dropout_p=0.0, **options), out)
            many = [None if x is None else x.repeat(300, 1, 1, 1) for x in (q, k, v, given)]
            mean = with_dropout(variant, *many, dropout_p=0.3, **options).unflatten(0, (300, 2)).mean(0)
            assert (mean - out).abs().mean() < 0.07 * out.abs().mean() + 1e-3


assert set(ENCODERS) <= set(FAMILIES)
