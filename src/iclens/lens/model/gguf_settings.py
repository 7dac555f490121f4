"""What a GGUF file states, checked against the configuration that transformers makes of it.

What the converter copied out of the model's configuration and transformers left out is copied back, what nothing is
known of becomes a note, and the rest is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isclose, sqrt
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.model.gguf import Header, note_on_splits

_COPIED: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings",),
    "vocab_size": ("vocab_size",),
    "embedding_length": ("hidden_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_shared_count": ("n_shared_experts",),
    "expert_weights_norm": ("norm_topk_prob",),
}
"""Keys that hold what one attribute of the configuration holds, under the first of these names that it has."""

_SETTABLE = {
    *("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.sliding_window"),
    *("attention.scale", "attn_logit_softcapping", "final_logit_softcapping"),
    *("embedding_scale", "residual_scale", "logit_scale", "use_parallel_residual"),
    *("context_length", "attention.key_length", "expert_weights_norm"),
    *("expert_feed_forward_length", "expert_shared_feed_forward_length"),
}
"""Of these, the ones that a model reads from its configuration as they stand; other differences are refused.

Sizes among them are checked against the tensors of the file."""

_WINDOW = "attention.sliding_window"
_KEYS = "attention.key_length"
_OF_NO_EFFECT = {"tensor_data_layout", "rope.scaling.finetuned", "pooling_type"}
_LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all Llama 3 models state beside their factor."""


def complete(config: Any, header: Header) -> tuple[str, ...]:
    """Copy into the configuration what the file states and transformers left out; notes on what nobody knows.

    Raises:
        UserError: the file states something that the configuration cannot hold.
    """
    _drop_defaults(config, header)
    unknown = []
    # Sizes that can be set come first, since others follow from them.
    for key, value in sorted(header.settings.items(), key=lambda one: one[0] not in _SETTABLE):
        if key in _OF_NO_EFFECT or key.startswith("rope.") or _is_off(value):
            continue
        ours = _COMPUTED.get(key, _copied(key))(config)
        if ours is None and key not in _COPIED and key not in _COMPUTED:
            unknown.append(f"{header.architecture}.{key} = {_short(value)}")
        elif not _same(ours, value) and (key not in _SETTABLE or not _set(config, key, value)):
            raise UserError(
                f"the GGUF file {header.name} states {key} = {_short(value)}, where transformers makes {_short(ours)} "
                "of it: the model would be another one. Load its original weights (safetensors)."
            )
    kinds, window = getattr(config, "layer_types", None), header.settings.get(_WINDOW)
    if window and kinds and "sliding_attention" not in kinds:
        raise UserError(
            f"the GGUF file {header.name} states a window of {window} tokens, where transformers makes a model without "
            "windows of it: load its original weights (safetensors)."
        )
    _rotary(config, header)
    return (*note_on_splits(header), *(_note_on(header, one) for one in unknown))


def _drop_defaults(config: Any, header: Header) -> None:
    """Undo what a class has by default because one of its models has it, where the file says or means otherwise."""
    if _WINDOW not in header.settings and not getattr(config, "layer_types", None):
        _set(config, _WINDOW, None)
    if (config.pad_token_id or 0) >= config.vocab_size:
        config.pad_token_id = None
    if hasattr(config, "query_pre_attn_scalar") and "attention.scale" not in header.settings:
        # As llama.cpp, which knows the largest models of Gemma 2 and Gemma 3 by their number of layers.
        widest = config.num_hidden_layers == {"gemma2": 46, "gemma3": 62}.get(header.architecture)
        width = config.hidden_size // config.num_attention_heads if widest else header.settings.get(_KEYS)
        config.query_pre_attn_scalar = width or config.head_dim


def _rotary(config: Any, header: Header) -> None:
    """Rotary positions: base, dimensions and stretching, as the file states them."""
    stated = {key.removeprefix("rope."): value for key, value in header.settings.items() if key.startswith("rope.")}
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        if stated.keys() - {"dimension_count", "scaling.finetuned"}:
            raise UserError(f"the GGUF file {header.name} states rotary positions, which {config.model_type} has not.")
        return
    kinds = {name: one for name, one in rope.items() if isinstance(one, dict)}
    whole = kinds.get("full_attention", rope)
    local = kinds.get("sliding_attention", whole)
    for kind, key in ((whole, "freq_base"), (local, "freq_base_swa")):
        if key in stated:
            kind["rope_theta"] = float(stated[key])
    width = stated.get("dimension_count")
    if width and not isclose(width, _head_dim(config) * whole.get("partial_rotary_factor", 1.0)):
        whole["partial_rotary_factor"] = width / _head_dim(config)
    kind, factor = stated.get("scaling.type", "none"), float(stated.get("scaling.factor") or 1.0)
    if kind == "linear" and factor != 1.0:
        whole |= {"rope_type": "linear", "factor": factor}
    elif kind not in ("none", "linear") and not _same(whole.get("rope_type"), kind):
        raise UserError(
            f"the GGUF file {header.name} stretches rotary positions by {kind!r}, which transformers does not read "
            "from GGUF: load the model's original weights (safetensors)."
        )
    if header.stretch is not None and not bool((header.stretch == 1).all()):
        _stretch(config, whole, header)
    for key in sorted(stated.keys() - _ROTARY_KEYS):
        if not _is_off(stated[key]):
            raise UserError(
                f"the GGUF file {header.name} states rope.{key} = {_short(stated[key])}, which transformers does not "
                "read from GGUF: load the model's original weights (safetensors)."
            )


_ROTARY_KEYS = {
    *("freq_base", "freq_base_swa", "dimension_count", "dimension_count_swa"),
    *("scaling.type", "scaling.factor", "scaling.finetuned", "scaling.original_context_length"),
}


def _stretch(config: Any, rope: dict[str, Any], header: Header) -> None:
    """Set Llama 3's rotary positions, if they give the very factors that the file holds for each frequency."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert header.stretch is not None
    before = dict(rope)
    factor = round(float(header.stretch.max()), 4)
    rope |= _LLAMA_3 | {"rope_type": "llama3", "factor": factor}
    frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double()
    width = 2 * len(frequencies)
    plain = float(rope["rope_theta"]) ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    if header.stretch.shape != plain.shape or not torch.allclose(plain / header.stretch, frequencies, rtol=1e-4):
        rope.clear()
        rope |= before
        raise UserError(
            f"the GGUF file {header.name} holds rope_freqs.weight, which stretches rotary positions in another way "
            "than Llama 3 does; transformers would leave it out: load the model's original weights (safetensors)."
        )


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _scale(config: Any) -> float:
    """Return the factor of the scores that a configuration means."""
    given = getattr(config, "attention_multiplier", None)
    return given or 1 / sqrt(getattr(config, "query_pre_attn_scalar", None) or _head_dim(config))


def _pattern(config: Any) -> list[bool] | None:
    """Which layers have a window."""
    kinds = getattr(config, "layer_types", None)
    return None if kinds is None else [kind == "sliding_attention" for kind in kinds]


def _inner(config: Any) -> int:
    """Return the width of the MLPs; GPT-2's is four times the model's where none is stated."""
    named = (getattr(config, name, None) for name in ("intermediate_size", "n_inner", "ffn_dim"))
    return next((width for width in named if width is not None), 4 * config.hidden_size)


_COMPUTED: dict[str, Callable[[Any], Any]] = {
    "feed_forward_length": _inner,
    "attention.key_length": _head_dim,
    "attention.value_length": _head_dim,
    "attention.key_length_swa": _head_dim,
    "attention.value_length_swa": _head_dim,
    "attention.scale": _scale,
    "attention.sliding_window_pattern": _pattern,
    "attention.causal": lambda config: True,
}
"""Keys whose value follows from several attributes."""


def _copied(key: str) -> Callable[[Any], Any]:
    def read(config: Any) -> Any:
        return next(
            (value for name in _COPIED.get(key, ()) if (value := getattr(config, name, None)) is not None), None
        )

    return read


def _set(config: Any, key: str, value: Any) -> bool:
    """Set the attribute that a key is of; False where the configuration has none."""
    name = next((name for name in _COPIED[key] if hasattr(config, name)), None)
    if name is not None:
        setattr(config, name, value)
    return name is not None


def _same(ours: Any, value: Any) -> bool:
    """Return whether a number of the configuration is the file's, which keeps single precision."""
    if isinstance(value, bool):
        return bool(ours) == value
    if isinstance(value, list):
        if isinstance(ours, list):
            return ours == value
        return all(_same(ours, one) for one in value)
    if isinstance(ours, list):
        # Every n-th layer sees everything.
        return isinstance(value, int) and ours == [(i + 1) % value != 0 for i in range(len(ours))]
    if isinstance(value, float) and isinstance(ours, int | float):
        return isclose(ours, value, rel_tol=1e-6)
    return bool(ours == value)


def _is_off(value: Any) -> bool:
    """Return whether a key says that something is not done; a switch that is off may be one that the model has on."""
    return not isinstance(value, bool) and value in (0, "none", "", -1)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _note_on(header: Header, stated: str) -> str:
    return (
        f"The GGUF file {header.name} states {stated}, which neither transformers nor iclens reads from GGUF: "
        "the model may differ from the one that was packed."
    )
