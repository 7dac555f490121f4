"""Families that are handled are exact; the rest is refused by name before any forward pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, build, lens

from iclens.errors import UserError
from iclens.lens.model.catalogue import REFUSED_OF_EACH, as_markdown, handled, refused
from iclens.lens.model.families import FAMILIES, REFUSED
from iclens.lens.model.loading import LensModel, family_of


def test_every_registered_family_is_in_the_zoo() -> None:
    assert {model_type for model_type, _ in (CAUSAL | ENCODERS).values()} == set(FAMILIES)


def test_no_family_is_both_read_and_refused() -> None:
    assert not set(FAMILIES) & set(REFUSED)
    assert all(one.remark for one in (*handled(), *refused()))


def test_the_page_of_families_says_what_the_registries_say() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    assert as_markdown(handled(), "what is particular, and handled") in page
    assert as_markdown(refused(), "why") in page
    assert all(one in page for one in REFUSED_OF_EACH)


@pytest.mark.parametrize(
    "model_type",
    [
        "bloom",
        "falcon",
        "gptj",
        "gpt_neo",
        "codegen",
        "mpt",
        "t5",
        "deberta",
        "mpnet",
        "xlnet",
        "rwkv",
        "persimmon",
    ],
)
def test_other_families_are_refused_by_name(model_type: str) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    with pytest.raises(UserError, match=f"'{model_type}'.*Supported families: .*gpt2.*llama"):
        family_of(config)


@pytest.mark.parametrize(
    ("model_type", "layer"),
    [
        ("jamba", "layer 0, counted from 0, is of the type 'mamba' (a state-space layer)"),
        ("qwen3_next", "layer 0, counted from 0, is of the type 'linear_attention' (linear attention or a state-space"),
        ("minimax", "layer 1, counted from 0, is of the type 'linear_attention'"),
        ("recurrent_gemma", "layer 0, counted from 0, is of the type 'recurrent'"),
        ("falcon_h1", "layer 0, counted from 0, is of the type 'hybrid'"),
        ("mamba2", "layer 0, counted from 0, is of the type 'linear_attention'"),
        # Of these none is registered by name: what a layer is, is read off the configuration.
        ("qwen3_5_text", "layer 0, counted from 0, is of the type 'linear_attention'"),
        ("deepseek_v32", "layer 0, counted from 0, is of the type '"),
    ],
)
def test_hybrids_are_refused_with_the_layer_that_is_no_softmax_attention(model_type: str, layer: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(UserError, match=f"'{model_type}'.*{re.escape(layer)}.*Supported families"):
        family_of(AutoConfig.for_model(model_type))


@pytest.mark.parametrize("model_type", ["gemma3n", "gemma3n_text"])
def test_gemma_3n_is_refused_with_the_branch_that_stands_in_the_way(model_type: str) -> None:
    from transformers import AutoConfig

    with pytest.raises(UserError, match="AltUp branch keeps several streams"):
        family_of(AutoConfig.for_model(model_type))


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
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
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


def test_a_router_may_be_any_module_because_it_is_held() -> None:
    model = build("mixtral")
    model.model.layers[1].mlp.gate.adapter = Adapter(32, 4)
    LensModel.wrap(model)


def test_a_layer_without_any_of_its_familys_activations_is_refused() -> None:
    model = build("llama")
    model.model.layers[1].mlp.act_fn = None
    with pytest.raises(UserError, match=r"none of the activations mlp\.act_fn"):
        LensModel.wrap(model)


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
