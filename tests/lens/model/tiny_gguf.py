"""Tiny models written as GGUF files, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.zoo import CAUSAL, build

SETTINGS: dict[str, Any] = {
    "context_length": 128,
    "embedding_length": 32,
    "block_count": 3,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": 8,
}
"""What the metadata of a llama of the zoo states."""


def llama(**changes: Any) -> Any:
    """A random llama with the vocabulary of the byte-level tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    n = len(byte_level(begin=True))
    config = AutoConfig.for_model(
        "llama", **(CAUSAL["llama"][1] | {"vocab_size": n, "intermediate_size": 64} | changes)
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    pattern = build("llama", torch.float32).state_dict()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in pattern and pattern[name].shape == parameter.shape:
                parameter.copy_(pattern[name])
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.float()


def write(
    path: Path,
    model: Any,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    splits: str = "gpt-2",
) -> Path:
    """Write a llama; `settings` and `tensors` are added to what the model has, and None takes a setting away.

    Matrices are quantised to `kind`; q and k are permuted, since llama.cpp turns neighbours where transformers turns
    halves.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    for key, value in (SETTINGS | {"vocab_size": model.config.vocab_size} | dict(settings or {})).items():
        if isinstance(value, bool):
            writer.add_bool(f"llama.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"llama.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif value is not None:
            writer.add_array(f"llama.{key}", value)
    _tokenizer(writer, splits)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for key, value in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weight = value
        for part, heads in (("q_proj", 4), ("k_proj", 2)):
            if part in key:
                weight = weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        packed = kind if weight.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(weight.float().numpy(), packed), raw_dtype=packed)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
