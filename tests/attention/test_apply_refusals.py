"""Families, options and models that take a variant, or are refused by name and left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.applied import left_padded, logits
from tests.lens.zoo import build as zoo_model
from tests.lens.zoo import tokens
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from iclens import UserError
from iclens.attention import ATTENTIONS, AttentionVariant, apply, build, remove

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
        ("negative", {"n_negatives": 1, "beta": float("inf")}, "beta"),
        ("negative", {"n_negatives": 0, "beta": 0.1}, "n_negatives"),
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
    apply(model, "negative", n_negatives=12, beta=0.1)
    with pytest.raises(UserError, match="12"):
        logits(model, tokens(12, 2))


def test_too_many_negatives_for_one_padded_prompt_is_said_too() -> None:
    model, ids = zoo_model("bert"), tokens(12, 2)
    apply(model, "negative", n_negatives=8, beta=0.1)
    assert logits(model, ids).isfinite().all()
    with pytest.raises(UserError, match="prompt 0 of the batch with at most 8 keys"):
        logits(model, ids, left_padded)


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
    class Halved(ATTENTIONS["softmax"]):  # type: ignore[misc]
        def after(self, out: torch.Tensor) -> torch.Tensor:
            return out / 2

    with ATTENTIONS.restored():
        ATTENTIONS.register("halved-for-this-test")(Halved)
        model, ids = zoo_model("llama", torch.float64), tokens(12, 2)
        before = logits(model, ids)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.data *= 2
        with apply(model, "halved-for-this-test"):
            torch.testing.assert_close(logits(model, ids), before)


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
