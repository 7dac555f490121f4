"""Tiny random models of every family, with weights large enough that gates, caps and windows matter."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from iclens.lens.model.loading import LensModel
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.tracing import Trace, trace

_LLAMA = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = _LLAMA | {"num_experts_per_tok": 2, "num_local_experts": 4}
_QWEN_MOE = _LLAMA | {
    "num_experts_per_tok": 2,
    "num_experts": 4,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "mlp_only_layers": [1],
}
_DEEPSEEK = _LLAMA | {
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "head_dim": 4,
}
_LLAMA4 = _EXPERTS | {
    "head_dim": 8,
    "intermediate_size_mlp": 40,
    "moe_layers": [0, 2],
    "attention_chunk_size": 7,
    "no_rope_layers": [1, 0, 1],
    "floor_scale": 4,
    "attn_scale": 0.5,
}
_GEMMA = _LLAMA | {"head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 16}
_GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_OPT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "word_embed_proj_dim": 32,
}
_BERT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}

CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", _GPT2),
    "gpt2-inverse-layer": ("gpt2", _GPT2 | {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}),
    "gpt2-unscaled-upcast": ("gpt2", _GPT2 | {"scale_attn_weights": False, "reorder_and_upcast_attn": True}),
    "gpt_bigcode": ("gpt_bigcode", _GPT2),
    "llama": ("llama", _LLAMA),
    "llama-biased-tied": ("llama", _LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-dynamic-rope": (
        "llama",
        _LLAMA
        | {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
        },
    ),
    "qwen2": ("qwen2", _LLAMA),
    "qwen2-window": ("qwen2", _LLAMA | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 8}),
    "mistral-window": ("mistral", _LLAMA | {"sliding_window": 7}),
    "mistral": ("mistral", _LLAMA | {"sliding_window": None}),
    "ministral": ("ministral", _LLAMA | {"head_dim": 8, "sliding_window": 7}),
    "gemma": ("gemma", _LLAMA | {"head_dim": 8}),
    "gemma2": ("gemma2", _GEMMA | {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0}),
    "gemma3_text": (
        "gemma3_text",
        _GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gemma3": (
        "gemma3",
        {
            "text_config": _GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 60,
            "boi_token_index": 58,
            "eoi_token_index": 59,
        },
    ),
    "phi": ("phi", _LLAMA | {"partial_rotary_factor": 0.5}),
    "phi-qk-norm": ("phi", _LLAMA | {"qk_layernorm": True, "num_key_value_heads": 4}),
    "phi3": ("phi3", _LLAMA | {"sliding_window": 7}),
    "phi3-longrope": (
        "phi3",
        _LLAMA
        | {
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "olmo": ("olmo", _LLAMA),
    "olmo2": ("olmo2", _LLAMA),
    "olmo3": ("olmo3", _LLAMA | {"sliding_window": 7}),
    "exaone4": ("exaone4", _LLAMA | {"sliding_window": 7}),
    "gpt_neox": (
        "gpt_neox",
        _LLAMA
        | {
            "use_parallel_residual": True,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
    ),
    "gpt_neox-sequential": ("gpt_neox", _LLAMA | {"use_parallel_residual": False, "tie_word_embeddings": True}),
    "opt": ("opt", _OPT),
    "opt-350m": ("opt", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt-no-final-norm": ("opt", _OPT | {"_remove_final_layer_norm": True, "enable_bias": False}),
    "starcoder2": ("starcoder2", _LLAMA | {"sliding_window": 7}),
    "stablelm": ("stablelm", _LLAMA | {"use_qkv_bias": True}),
    "stablelm-parallel": ("stablelm", _LLAMA | {"use_parallel_residual": True, "qk_layernorm": True}),
    "smollm3": ("smollm3", _LLAMA | {"no_rope_layers": [1, 0, 1]}),
    "granite": (
        "granite",
        _LLAMA
        | {"residual_multiplier": 0.3, "embedding_multiplier": 2.0, "attention_multiplier": 0.2, "logits_scaling": 3.0},
    ),
    "cohere": ("cohere", _LLAMA | {"logit_scale": 0.25, "use_qk_norm": True}),
    "cohere2": ("cohere2", _LLAMA | {"sliding_window": 7, "head_dim": 8}),
    "helium": ("helium", _LLAMA | {"head_dim": 8}),
    "arcee": ("arcee", _LLAMA),
    "nemotron": ("nemotron", _LLAMA),
    "glm": ("glm", _LLAMA | {"head_dim": 8}),
    "glm4": ("glm4", _LLAMA | {"head_dim": 8}),
    "seed_oss": ("seed_oss", _LLAMA | {"head_dim": 8}),
    "ernie4_5": ("ernie4_5", _LLAMA | {"head_dim": 8, "use_bias": True}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", _LLAMA | {"head_dim": 8}),
    "mixtral": ("mixtral", _EXPERTS),
    "mixtral-window": ("mixtral", _EXPERTS | {"sliding_window": 7}),
    "qwen2_moe": ("qwen2_moe", _QWEN_MOE),
    "qwen3_moe": ("qwen3_moe", _QWEN_MOE | {"head_dim": 8, "norm_topk_prob": True}),
    "olmoe": ("olmoe", _LLAMA | {"num_experts_per_tok": 2, "num_experts": 4}),
    "granitemoe": (
        "granitemoe",
        _EXPERTS
        | {"residual_multiplier": 0.3, "embedding_multiplier": 2.0, "attention_multiplier": 0.2, "logits_scaling": 3.0},
    ),
    "phimoe": ("phimoe", _EXPERTS | {"attention_bias": True, "lm_head_bias": True}),
    # So small a limit that both clamps matter.
    "gpt_oss": (
        "gpt_oss",
        _EXPERTS
        | {
            "head_dim": 8,
            "sliding_window": 7,
            "swiglu_limit": 1.5,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "deepseek_v2": ("deepseek_v2", _DEEPSEEK | {"topk_method": "group_limited_greedy"}),
    "deepseek_v2-lite": (
        "deepseek_v2",
        _DEEPSEEK | {"q_lora_rank": None, "topk_method": "greedy", "v_head_dim": 20, "attention_bias": True},
    ),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK),
    "llama4_text": ("llama4_text", _LLAMA4),
    "llama4": (
        "llama4",
        {
            "text_config": _LLAMA4 | {"num_experts_per_tok": 1},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
                "vision_output_dim": 16,
                "projector_input_dim": 16,
                "projector_output_dim": 16,
            },
        },
    ),
}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "roberta": ("roberta", _BERT | {"pad_token_id": 1}),
    "distilbert": (
        "distilbert",
        {"vocab_size": 61, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 128},
    ),
}


_SINGLE = ("deepseek_v2", "deepseek_v3", "llama4", "llama4_text")
"""Families that choose experts, or turn queries and keys, in float32 whatever their weights are, in operations whose
last digit depends on how many tokens there are. Those of the zoo compute in float64 throughout."""


class _NoDetour(TorchFunctionMode):
    """What asks for float32 gets float64."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        kwargs = {key: torch.float64 if one is torch.float32 else one for key, one in (kwargs or {}).items()}
        return function(*args, **kwargs)


def without_detours() -> TorchFunctionMode:
    """A block in which everything is computed in float64, also what models compute in float32 whatever they are in."""
    return _NoDetour()


def _in_double(forward: Any, *args: Any, **kwargs: Any) -> Any:
    with _NoDetour():
        return forward(*args, **kwargs)


def draw(model: Any, seed: int) -> Any:
    """Draw every weight, bias and norm of a model, so that nothing is zero or one by habit."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if path.endswith("sinks"):
                parameter.copy_(4.0 + noise)
            elif parameter.ndim > 1:
                parameter.copy_(noise * 1.5 * min(parameter.shape) ** -0.5)
            else:
                parameter.add_(0.3 * noise)
    model.tie_weights()
    return model


def build(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 0, *, detours: bool = False, throughout: bool = False
) -> Any:
    """A random model of the zoo; in float64 it computes in float64 throughout, unless its own detours are wanted.

    Norms that go through float32 do so in float64, too, with `throughout`.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    model_type, fields = (CAUSAL | ENCODERS)[name]
    config = AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(seed)
    loader = AutoModelForCausalLM if name in CAUSAL else AutoModel
    # As a causal model it would be built without its vision tower, which is `llama4_text`.
    loader = AutoModelForImageTextToText if model_type == "llama4" else loader
    model = loader.from_config(config)
    draw(model, seed)
    # `to` would cast the complex buffers of a vision tower too.
    casts = {
        torch.float32: model.float,
        torch.float64: model.double,
        torch.bfloat16: model.bfloat16,
        torch.float16: model.half,
    }
    model = casts[dtype]().eval()
    if dtype == torch.float64 and (model_type in _SINGLE or throughout) and not detours:
        model.forward = partial(_in_double, model.forward)
    return model


def tokens(n: int = 20, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Random token ids that avoid the special ones."""
    return torch.randint(3, 57, (batch, n), generator=torch.Generator().manual_seed(seed))


@cache
def lens(name: str, dtype: torch.dtype = torch.float32) -> LensModel:
    """A wrapped model of the zoo, built once; tests must leave it as they found it."""
    return LensModel.wrap(build(name, dtype), name=name)


TWO_POSITIONS = Readout(
    terms=((20, 5, 1.0), (20, 7, -0.5), (23, 9, 0.7), (23, 11, -1.0)), answer_ids=(5, 9), answer_offset=20
)
"""A margin over two positions of a prompt of 24 tokens, and an answer of two tokens."""

QUERY_START = 18

GROUPS = torch.tensor([-1, -1, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1, 3, 3, -1, -1, -1, -1, -1, -1])
"""Four demonstrations among 24 tokens."""

SETS = [(0,), (1,), (2,), (3,), (1, 3), (0, 1, 2, 3), ()]
"""What is knocked out together."""


def traced(
    model: LensModel,
    ids: torch.Tensor,
    readout: Readout = TWO_POSITIONS,
    start: int = QUERY_START,
    *,
    held: bool = False,
) -> Trace:
    """A pass over prompts (batch, n) that are read alike; the read-out's offsets are positions."""
    rows = list(ids)
    prompts = PaddedTokens.of(rows, [start] * len(rows), model.device)
    return trace(model, prompts, Readouts.of([readout] * len(rows), [0] * len(rows), model.index_device), held=held)


def read_last(model: LensModel, prompts: list[torch.Tensor]) -> Trace:
    """Prompts side by side, each read at its last token."""
    ends = [len(ids) - 1 for ids in prompts]
    readouts = Readouts.of([Readout(((0, 0, 1.0),))] * len(prompts), ends, model.index_device)
    return trace(model, PaddedTokens.of(prompts, ends, model.device), readouts)
