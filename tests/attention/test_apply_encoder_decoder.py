"""A variant in a model with an encoder and a decoder: which layers take it, and what the model then computes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from iclens import UserError
from iclens.attention import apply, from_pretrained, remove

FAMILIES = ["bart", "mbart", "marian", "pegasus", "m2m_100", "blenderbot", "blenderbot-small", "plbart"]
SIZES = {
    "vocab_size": 61,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "num_hidden_layers": 2,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "negative": {"n_negatives": 2, "beta": 0.4},
    "augmented": {"g1": {"name": "adapter", "hidden": 4}, "g2": "mlp"},
    "regularized": {"alpha": 0.4},
    "weight-decay": {"alpha": 0.4},
}


@cache
def _weights(family: str) -> Any:
    torch.manual_seed(5)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **SIZES)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model.state_dict()


def seq2seq(family: str) -> Any:
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **SIZES)).double().eval()
    model.load_state_dict(_weights(family))
    return model


def inputs() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    return {
        "input_ids": torch.randint(3, 61, (2, 11), generator=draw),
        "decoder_input_ids": torch.randint(3, 61, (2, 6), generator=draw),
        "attention_mask": mask,
    }


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(**inputs()).logits


def moved(handle: Any) -> Any:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for variant in handle.variants.values():
            for parameter in variant.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    return handle


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_attention_is_the_model_and_removing_is_bitwise(family: str) -> None:
    model = seq2seq(family)
    before = logits(model)
    handle = apply(model, "softmax")
    assert len(handle.variants) == 6
    torch.testing.assert_close(logits(model), before, rtol=1e-10, atol=1e-10)
    remove(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("layers", ["all", "self", "cross"])
@pytest.mark.parametrize("name", ["negative", "augmented"])
@pytest.mark.parametrize("family", ["bart", "marian"])
def test_the_forward_is_the_naive_variant_in_the_chosen_layers(
    family: str, name: str, layers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seq2seq(family)
    before = logits(model)
    handle = moved(apply(model, name, layers=layers, **OPTIONS[name]))
    own = {layer for layer, variant in handle.variants.items() if type(variant).__name__ != "SoftmaxAttention"}
    cross = {layer for layer in handle.variants if "encoder_attn" in layer}
    assert own == {"all": set(handle.variants), "self": set(handle.variants) - cross, "cross": cross}[layers]
    fast = logits(model)
    assert (fast - before).abs().max() > 1e-3
    for variant in handle.variants.values():
        monkeypatch.setattr(variant, "run", variant.naive)
    torch.testing.assert_close(logits(model), fast, rtol=1e-6, atol=1e-6)


def test_what_every_layer_attends_to() -> None:
    """A − αI by hand in the layers within a sequence, softmax between them; causal in the decoder only."""
    model = seq2seq("bart")
    handle = apply(model, "regularized", layers="self", alpha=0.3)
    calls: list[tuple[Any, ...]] = []
    for name, variant in handle.variants.items():
        variant.register_forward_hook(
            lambda _, given, options, out, name=name: calls.append((name, *given[:3], options["scale"], out)),
            with_kwargs=True,
        )
    logits(model)
    assert len(calls) == 6
    seen = inputs()["attention_mask"].bool()[:, None, None]
    for name, q, k, v, scale, out in calls:
        allowed = torch.ones(6, 6).tril().bool() if name.startswith("model.decoder") and "self" in name else seen
        expected = torch.softmax((q @ k.mT * scale).masked_fill(~allowed, -torch.inf), -1) @ v
        torch.testing.assert_close(out, expected if "encoder_attn" in name else expected - 0.3 * v)


@pytest.mark.parametrize("name", ["regularized", "weight-decay"])
def test_a_variant_that_needs_a_querys_own_key_is_kept_out_of_the_crossing(name: str) -> None:
    model = seq2seq("bart")
    before = logits(model)
    for layers in ("all", "cross"):
        with pytest.raises(UserError, match=rf"'{name}' needs a key of its own .*encoder_attn.*layers='self'"):
            apply(model, name, layers=layers, **OPTIONS[name])
    assert torch.equal(logits(model), before)
    apply(model, name, layers="self", **OPTIONS[name])
    assert not torch.allclose(logits(model), before)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("name", "layers"), [("negative", "all"), ("augmented", "all"), ("regularized", "self"), ("weight-decay", "self")]
)
def test_generation_with_a_cache_is_generation_without(name: str, layers: Any, kind: str) -> None:
    model = seq2seq("bart")
    moved(apply(model, name, layers=layers, **OPTIONS[name]))
    given = {key: value for key, value in inputs().items() if key != "decoder_input_ids"}
    given |= {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1}
    given |= {"output_logits": True, "return_dict_in_generate": True}
    cached = model.generate(**given, cache_implementation=kind)
    whole = model.generate(**given, use_cache=False)
    assert torch.equal(cached.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(whole.logits), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layers", ["all", "self", "cross"])
def test_a_reloaded_model_is_the_model(layers: Any, tmp_path: Path) -> None:
    model = seq2seq("bart")
    moved(apply(model, "negative", layers=layers, beta=0.25, learned=True))
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path, variant="negative", options={"beta": 0.25})
    assert torch.equal(logits(again), logits(model))
    assert again.config.iclens_attention == model.config.iclens_attention


def test_gradients_reach_the_strengths_of_every_layer() -> None:
    model = seq2seq("bart").train()
    handle = apply(model, "negative", n_negatives=1, beta=0.2, learned=True)
    model(**inputs()).logits.square().mean().backward()
    assert all(variant.beta.grad.abs() > 0 for variant in handle.variants.values())


def test_layers_that_are_not_there_or_not_known() -> None:
    from tests.lens.zoo import build

    with pytest.raises(UserError, match="no layer that attends across two sequences"):
        apply(build("llama"), "softmax", layers="cross")
    with pytest.raises(UserError, match="unknown layers 'encoder'"):
        apply(seq2seq("bart"), "softmax", layers="encoder")
