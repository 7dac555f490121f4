"""A variant in a Hugging Face model that generates: with caches of either kind, prompts in parts, and masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.applied import FAMILIES, VARIANTS, left_padded, logits, strengthen
from tests.lens.zoo import CAUSAL, tokens
from tests.lens.zoo import build as zoo_model
from transformers import StaticCache

from iclens import UserError
from iclens.attention import apply, interface


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
def test_a_prompt_in_two_parts_is_the_whole_prompt(split: int) -> None:
    model, ids = zoo_model("mistral-window", torch.float64), tokens(12, 2)
    apply(model, "regularized", alpha=0.3)
    with torch.no_grad():
        first = model(ids[:, :split], use_cache=True)
        second = model(ids[:, split:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(second, logits(model, ids)[:, split:], rtol=1e-10, atol=1e-10)


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
