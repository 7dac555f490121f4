"""Rotary positions that depend on how long the text is: which prompts may go side by side, and in what state."""

from __future__ import annotations

from typing import Any

from iclens.lens.loading import LensModel


def longest_alike(lens_model: LensModel) -> int | None:
    """Up to how many tokens positions do not depend on the length of the text; None when they never do.

    Dynamic and long rotary positions (`rope_type` `"dynamic"`, `"longrope"`) change with the longest prompt of a pass
    beyond the length that the model was first trained with; such prompts run alone.
    """
    rope = _parameters(lens_model)
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return None
    return int(rope.get("original_max_position_embeddings") or lens_model.text_config.max_position_embeddings)


def forget_longer_prompts(lens_model: LensModel) -> None:
    """Put dynamic rotary positions back to their first state.

    They stay stretched behind the longest text so far; without this, a pass would depend on which texts the model has
    read before, and two passes over one prompt could differ.
    """
    if _parameters(lens_model).get("rope_type") != "dynamic":
        return
    for module in lens_model.model.modules():
        original = getattr(module, "original_max_seq_len", None)
        if original is not None and getattr(module, "max_seq_len_cached", original) > original:
            module.register_buffer("inv_freq", module.original_inv_freq.to(module.inv_freq.device), persistent=False)
            module.max_seq_len_cached = original


def _parameters(lens_model: LensModel) -> dict[str, Any]:
    return getattr(lens_model.text_config, "rope_parameters", None) or {}
