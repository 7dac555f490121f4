"""A variant in a Hugging Face model: what the model then computes, and that taking it out leaves no trace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, tokens
from tests.lens.zoo import build as zoo_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache

from iclens import UserError
from iclens.attention import ATTENTIONS, AttentionVariant, apply, build, interface, remove
from iclens.attention.dropout import with_dropout

FAMILIES = [
    "gpt2",
    "gpt2-inverse-layer",
    "llama",
    "qwen2",
    "qwen2-window",
    "qwen3",
    "mistral-window",
    "gpt_neox",
    "opt",
    "gemma3_text",
    "phi3",
    "olmo2",
    "bert",
    "roberta",
    "distilbert",
]
ADAPTER = {"name": "adapter", "hidden": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "regularized": {"alpha": 0.3},
    "weight-decay": {"alpha": 0.3},
    "negative": {"k": 1, "beta": 0.2},
    "augmented": {"g1": ADAPTER, "g2": ADAPTER},
}
NEUTRAL: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regularized": {"alpha": 0.0},
    "negative": {"k": 1, "beta": 0.0},
    "augmented": VARIANTS["augmented"],
}


def left_padded(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return mask


def right_padded(ids: torch.Tensor) -> torch.Tensor:
    return left_padded(ids).flip(1)


PADDINGS = [None, left_padded, right_padded]


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor, padding: Any = None) -> torch.Tensor:
    """The model's first output at the tokens that are no padding."""
    if padding is None:
        return model(ids)[0]
    mask = padding(ids)
    return model(ids, attention_mask=mask)[0][mask.bool()]


def strengthen(handle: Any) -> None:
    """Move every parameter of the variants away from where it started."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for variant in handle.variants.values():
            for parameter in variant.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


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
    ("family", "variant"),
    [
        *((family, "regularized") for family in FAMILIES if family in CAUSAL),
        *((family, variant) for family in ("gpt2", "mistral-window") for variant in ("negative", "augmented")),
    ],
)
def test_generation_with_a_cache_is_generation_without(family: str, variant: str) -> None:
    model, ids = zoo_model(family, torch.float64), tokens(9, 2)
    handle = apply(model, variant, **VARIANTS[variant])
    strengthen(handle)
    given = {
        "attention_mask": left_padded(ids),
        "max_new_tokens": 5,
        "do_sample": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    cached, whole = (model.generate(ids, use_cache=use, **given) for use in (True, False))
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(whole.logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [1, 5, 11])
def test_a_prompt_in_two_parts_is_the_whole_prompt(split: int) -> None:
    model, ids = zoo_model("mistral-window", torch.float64), tokens(12, 2)
    apply(model, "regularized", alpha=0.3)
    with torch.no_grad():
        first = model(ids[:, :split], use_cache=True)
        second = model(ids[:, split:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(second, logits(model, ids)[:, split:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_plain_batch_forms_no_mask(family: str) -> None:
    model, ids = zoo_model(family), tokens(12, 2)
    handle = apply(model, "softmax")
    seen: list[tuple[Any, bool]] = []
    for variant in handle.variants.values():
        variant.register_forward_hook(
            lambda _, given, options, __: seen.append((given[3], options["is_causal"])), with_kwargs=True
        )
    logits(model, ids)
    model(ids, attention_mask=torch.ones_like(ids))
    assert seen == [(None, family == "llama")] * (2 * len(handle.variants))


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


SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GPT = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "attention interface"),
    "falcon": (SMALL, "attention interface"),
    "gptj": (GPT, "attention interface"),
    "gpt_neo": (
        {"vocab_size": 61, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
        "attention interface",
    ),
    "deberta": (SMALL, "attention interface"),
    "mpnet": (SMALL, "attention interface"),
    "mamba": ({"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2}, "attention interface"),
    "t5": (
        {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        "position bias",
    ),
    "bigbird_pegasus": (
        {"vocab_size": 61, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "decoder_attention_heads": 4},
        "cannot be told",
    ),
    "gpt_oss": (
        SMALL | {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
        "attention sinks",
    ),
    "gemma2": (SMALL | {"num_key_value_heads": 2, "head_dim": 8}, "attn_logit_softcapping"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_be_patched_are_refused_by_name_and_untouched(family: str) -> None:
    fields, reason = REFUSED[family]
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields))
    chosen = model.config._attn_implementation
    with pytest.raises(UserError, match=f"family '{family}'.*cannot take an attention variant.*{reason}"):
        apply(model, "softmax")
    assert model.config._attn_implementation == chosen
    assert not any("iclens" in name for name, _ in model.named_modules())
    assert not hasattr(model.config, "iclens_attention")


def test_t5s_encoder_alone_is_refused_for_its_position_bias() -> None:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**REFUSED["t5"][0], is_encoder_decoder=False)
    with pytest.raises(UserError, match="position bias"):
        apply(T5EncoderModel(config), "softmax")


def test_gemma2_without_a_cap_is_taken() -> None:
    fields = {"num_key_value_heads": 2, "head_dim": 8, "attn_logit_softcapping": None, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **(SMALL | fields))).eval()
    ids = tokens(12, 2)
    before = logits(model, ids)
    with apply(model, "softmax"):
        torch.testing.assert_close(logits(model, ids), before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("negativ", {}, "unknown attention variant 'negativ'.*negative"),
        ("regularized", {"alpha": float("nan")}, "alpha"),
        ("negative", {"k": 1, "beta": float("inf")}, "beta"),
        ("negative", {"k": 0, "beta": 0.1}, "n_negatives"),
        ("regularized", {"alfa": 0.1}, "no option 'alfa'"),
    ],
)
def test_bad_options_leave_the_model_alone(name: str, options: dict[str, Any], message: str) -> None:
    model, ids = zoo_model("llama"), tokens(12, 2)
    before = logits(model, ids)
    with pytest.raises(UserError, match=message):
        apply(model, name, **options)
    assert torch.equal(logits(model, ids), before)
    apply(model, "softmax").remove()


def test_applying_twice_removing_twice_and_other_models() -> None:
    model = zoo_model("llama")
    apply(model, "regularized", alpha=0.1)
    with pytest.raises(UserError, match=r"'regularized' already.*remove"):
        apply(model, "softmax")
    with pytest.raises(UserError, match="already"):
        apply(model.model, "softmax")
    remove(model)
    with pytest.raises(UserError, match="no attention variant to remove"):
        remove(model)
    with pytest.raises(UserError, match="a model of transformers is needed, not Linear"):
        apply(torch.nn.Linear(2, 2), "softmax")


def test_too_many_negatives_for_the_prompt_is_said_at_the_forward() -> None:
    model = zoo_model("bert")
    apply(model, "negative", k=12, beta=0.1)
    with pytest.raises(UserError, match="12"):
        logits(model, tokens(12, 2))


def test_too_many_negatives_for_one_padded_prompt_is_said_too() -> None:
    model, ids = zoo_model("bert"), tokens(12, 2)
    apply(model, "negative", k=8, beta=0.1)
    assert logits(model, ids).isfinite().all()
    with pytest.raises(UserError, match="prompt 0 of the batch with at most 8 keys"):
        logits(model, ids, left_padded)


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *((family, "regularized") for family in ("gpt2", "llama", "mistral-window", "gemma3_text")),
        *(("llama", variant) for variant in ("negative", "weight-decay", "augmented")),
        ("llama", "negative of keys"),
    ],
)
def test_generation_with_a_static_cache_is_generation_with_one_that_grows(family: str, variant: str) -> None:
    model, ids = zoo_model(family, torch.float64), tokens(9, 2)
    options = {"selection": "key", "beta": 0.2} if variant == "negative of keys" else VARIANTS[variant]
    strengthen(apply(model, variant.split(" ")[0], **options))
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    given |= {"output_logits": True, "return_dict_in_generate": True}
    for mask in (torch.ones_like(ids), left_padded(ids)):
        given["attention_mask"] = mask
        static, growing = (model.generate(ids, cache_implementation=kind, **given) for kind in ("static", "dynamic"))
        assert isinstance(static.past_key_values, StaticCache)
        assert torch.equal(static.sequences, growing.sequences)
        torch.testing.assert_close(torch.stack(static.logits), torch.stack(growing.logits), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("split", [1, 5, 11])
def test_a_prompt_in_two_parts_fills_a_static_cache_as_a_whole(split: int) -> None:
    model, ids = zoo_model("mistral-window", torch.float64), tokens(12, 2)
    apply(model, "regularized", alpha=0.3)
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad():
        parts = [model(part, past_key_values=cache).logits for part in (ids[:, :split], ids[:, split:])]
    torch.testing.assert_close(torch.cat(parts, 1), logits(model, ids), rtol=1e-10, atol=1e-10)


def test_a_static_cache_is_refused_where_nobody_can_ask_how_full_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = zoo_model("llama"), tokens(12, 1)
    apply(model, "softmax")
    cache = StaticCache(config=model.config, max_cache_len=16)
    model(ids[:, :5], past_key_values=cache)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(UserError, match="disable_compile=True"):
        model(ids[:, 5:], past_key_values=cache)
    layer = model.model.layers[0].self_attn
    q, k = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 16, 8)
    with pytest.raises(UserError, match="disable_compile=True"):
        interface.attend(layer, q, k, k, torch.ones(1, 1, 1, 6, dtype=torch.bool))


def test_a_mask_that_is_too_short_is_no_static_cache() -> None:
    model, ids = zoo_model("llama"), tokens(6, 1)
    apply(model, "softmax")
    with pytest.raises(Exception, match="mask"):
        model(ids, attention_mask=torch.ones(1, 1, 6, 4, dtype=torch.bool))


def test_a_mask_that_adds_to_the_scores_is_refused() -> None:
    model, ids = zoo_model("llama"), tokens(5, 1)
    apply(model, "softmax")
    with pytest.raises(UserError, match="adds to the scores"):
        model(ids, attention_mask=torch.full((1, 1, 5, 5), -0.5))


def test_a_mask_of_the_callers_own_may_let_tokens_see_later_ones() -> None:
    model, ids = zoo_model("llama", torch.float64), tokens(6, 1)
    mask = torch.zeros(1, 1, 6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), torch.finfo(torch.float64).min)
    mask[..., :3, :3] = 0
    with torch.no_grad():
        before = model(ids, attention_mask=mask).logits
        apply(model, "softmax")
        after = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(after, before)


def test_a_shared_configuration_is_noticed() -> None:
    from transformers import LlamaForCausalLM

    config = zoo_model("llama").config
    one, other = LlamaForCausalLM(config), LlamaForCausalLM(config)
    apply(one, "softmax")
    with pytest.raises(UserError, match="shares its configuration object"):
        other(tokens(5, 1))
    with pytest.raises(UserError, match="shares its configuration object"):
        apply(other, "softmax")
    remove(one)
    apply(other, "softmax")


def test_a_variant_of_ones_own_is_applied_by_name() -> None:
    @ATTENTIONS.register("halved-for-this-test")
    class Halved(ATTENTIONS["softmax"]):  # type: ignore[misc]
        def after(self, out: torch.Tensor) -> torch.Tensor:
            return out / 2

    try:
        model, ids = zoo_model("llama", torch.float64), tokens(12, 2)
        before = logits(model, ids)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.data *= 2
        with apply(model, "halved-for-this-test"):
            torch.testing.assert_close(logits(model, ids), before)
    finally:
        del ATTENTIONS._entries["halved-for-this-test"]


def test_every_registered_variant_can_be_applied_or_says_why() -> None:
    ids = tokens(12, 2)
    for name in ATTENTIONS:
        for family in ("llama", "bert"):
            try:
                handle = apply(zoo_model(family), name)
            except UserError:
                continue
            assert isinstance(next(iter(handle.variants.values())), AttentionVariant)
            assert logits(handle.model, ids).isfinite().all()
    assert build("softmax", n_heads=1, d=2, d_v=2).options() == {}


assert set(ENCODERS) <= set(FAMILIES)
