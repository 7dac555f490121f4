"""Tiny models written as GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.zoo import CAUSAL, draw

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "starcoder2": "starcoder2",
    "stablelm": "stablelm",
    "gpt2": "gpt2",
    "nemotron": "nemotron",
}
"""`model_type` -> what llama.cpp calls it."""

_STATED = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": ("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"),
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "use_parallel_residual": "use_parallel_residual",
    "vocab_size": "vocab_size",
}
"""What the metadata states -> the attribute of the configuration, or those of which a model has one."""


def tiny(name: str = "llama", **changes: Any) -> Any:
    """A random model of the zoo with the vocabulary of the byte-level tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, fields = CAUSAL[name]
    config = AutoConfig.for_model(model_type, **(fields | {"vocab_size": len(byte_level(begin=True))} | changes))
    return draw(AutoModelForCausalLM.from_config(config), 0).float().eval()


def write(
    path: Path,
    model: Any,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    *,
    without: str = "",
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    splits: str = "gpt-2",
) -> Path:
    """Write a model; `settings` and `tensors` are added to what it has, the tensor `without` is left out.

    Matrices are quantised to `kind`.
    """
    architecture = ARCHITECTURES[model.config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for key, value in (stated(model.config) | dict(settings or {})).items():
        if isinstance(value, bool):
            writer.add_bool(f"{architecture}.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"{architecture}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{architecture}.{key}", value)
        else:
            writer.add_array(f"{architecture}.{key}", value)
    _tokenizer(writer, splits)
    for name, weight in _packed(model, architecture):
        if name != without:
            how = kind if weight.ndim > 1 else GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(weight.float().numpy(), how), raw_dtype=how)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stated(config: Any) -> dict[str, Any]:
    """What the metadata of a model states."""
    found = {}
    for key, names in _STATED.items():
        names = names if isinstance(names, tuple) else (names,)
        value = next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)
        found |= {} if value is None else {key: value}
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if rope:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        turned = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        found |= {"rope.freq_base": float(rope["rope_theta"]), "rope.dimension_count": turned}
    return found


def _packed(model: Any, architecture: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors under llama.cpp's names, turned as its converter turns them."""
    config = model.config
    kind = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if key.endswith("experts.gate_up_proj"):
            layer = key.split(".")[2]
            for part, half in zip(("gate", "up"), weight.chunk(2, 1), strict=True):
                yield f"blk.{layer}.ffn_{part}_exps.weight", half.contiguous()
            continue
        if architecture == "llama":
            # llama.cpp turns neighbours where transformers turns halves.
            for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                if part in key:
                    weight = weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        if (architecture.startswith("gemma") or architecture == "nemotron") and key.endswith("norm.weight"):
            weight = weight + 1
        if architecture == "gpt2" and weight.ndim > 1 and ".h." in key:
            weight = weight.T.contiguous()
        if key.endswith("shared_expert_gate.weight"):
            weight = weight[0]
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        yield name if key.endswith((".weight", ".bias")) else f"{name}.weight", weight


def _tokenizer(writer: gguf.GGUFWriter, splits: str) -> None:
    tokenizer = byte_level(begin=True)
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_bos_token_id(ids["<s>"])
    writer.add_eos_token_id(ids["</s>"])
    writer.add_add_bos_token(True)
