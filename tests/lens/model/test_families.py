"""Families that are handled are exact; the rest is refused by name before any forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, build, lens

from iclens.errors import UserError
from iclens.lens.model.families import FAMILIES
from iclens.lens.model.loading import LensModel, family_of


def test_every_registered_family_is_in_the_zoo() -> None:
    assert {model_type for model_type, _ in (CAUSAL | ENCODERS).values()} == set(FAMILIES)


@pytest.mark.parametrize(
    "model_type",
    [
        "bloom",
        "falcon",
        "gptj",
        "gpt_neo",
        "codegen",
        "mpt",
        "gpt_oss",
        "t5",
        "deberta",
        "mpnet",
        "xlnet",
        "mamba",
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "gemma3n",
        "llama4",
        "deepseek_v3",
        "rwkv",
        "persimmon",
        "olmoe",
    ],
)
def test_other_families_are_refused_by_name(model_type: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    with pytest.raises(UserError, match=f"'{model_type}'.*Supported families: .*gpt2.*llama"):
        family_of(config)


def test_a_refused_model_never_runs() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=30, hidden_size=16, n_layer=1, n_head=2))
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward pass was run"))
    with pytest.raises(UserError, match="'bloom'"):
        LensModel.wrap(model)


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("roberta", {"add_cross_attention": True, "is_decoder": True}, "is_decoder"),
        ("olmo", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"text_config": {"use_bidirectional_attention": True}}, "use_bidirectional_attention"),
        ("llama", {"is_causal": False}, "attends to later tokens"),
        ("llama", {"output_attentions": True, "attn_implementation": "eager"}, "output_attentions"),
    ],
)
def test_configurations_that_are_not_exact_are_refused(model_type: str, fields: dict[str, Any], message: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(UserError, match=message):
        family_of(AutoConfig.for_model(model_type, **fields))


@pytest.mark.parametrize("activation", ["sigmoid", "laplace"])
def test_an_activation_that_is_no_gate_is_refused(activation: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, activation_function=activation))
    with pytest.raises(UserError, match="not zero at zero"):
        LensModel.wrap(model)


def test_a_model_without_its_unembedding_is_refused() -> None:
    with pytest.raises(UserError, match="no unembedding"):
        LensModel.wrap(build("llama").model)


class Adapter(torch.nn.Linear):
    """Stands for LoRA's and the quantisers' subclasses of the linear map."""


@pytest.mark.parametrize("where", ["self_attn.o_proj", "self_attn.v_proj", "mlp.down_proj"])
def test_adapted_linear_maps_are_refused(where: str) -> None:
    model = build("llama")
    model.model.layers[1].set_submodule(where, Adapter(32, 32))
    with pytest.raises(UserError, match=rf"layers\.1\.{where} is a Adapter"):
        LensModel.wrap(model)


def test_an_unknown_norm_is_refused() -> None:
    model = build("llama")
    model.model.norm = torch.nn.Tanh()
    with pytest.raises(UserError, match="normalisation Tanh"):
        LensModel.wrap(model)


def test_a_bias_that_would_be_lost_is_refused() -> None:
    model = build("llama")
    model.model.layers[0].mlp.extra = torch.nn.BatchNorm1d(3)
    with pytest.raises(UserError, match=r"mlp\.extra \(BatchNorm1d\) adds a bias"):
        LensModel.wrap(model)


def test_something_else_is_no_model() -> None:
    with pytest.raises(UserError, match="not a Hugging Face model"):
        LensModel.wrap(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "opt-350m", "distilbert"])
def test_facts(name: str) -> None:
    model = lens(name)
    assert (model.n_layers, model.n_heads, model.n_vocabulary) == (3, 4, 61)
    assert model.context_length == 128
    assert model.dtype == torch.float32
    assert model.n_parameters == sum(p.numel() for p in model.model.parameters())
    assert model.name == name


def test_dynamic_rope_stretches_the_context() -> None:
    assert lens("llama-dynamic-rope").context_length == 64
