"""Rotary positions that depend on how long the text is: which prompts may go side by side, and in what state."""

from __future__ import annotations

from itertools import product

from iclens.lens.model.loading import LensModel, rotary_settings


def longest_alike(lens_model: LensModel) -> int | None:
    """Up to how many tokens positions do not depend on the length of the text; None when they never do.

    Dynamic and long rotary positions (`rope_type` `"dynamic"`, `"longrope"`) change with the longest prompt of a pass
    beyond the length that the model was first trained with; such prompts run alone.
    """
    whole = lens_model.text_config.max_position_embeddings if lens_model.context_length else 0
    lengths = [
        int(rope.get("original_max_position_embeddings") or whole)
        for rope in rotary_settings(lens_model.text_config).values()
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(lengths, default=None)


def forget_longer_prompts(lens_model: LensModel) -> None:
    """Put dynamic rotary positions back to their first state; every pass of the lens begins with it.

    They stay stretched after the longest text so far; without this, a pass would depend on which texts the model has
    read before, and two passes over one prompt could differ.
    """
    settings = rotary_settings(lens_model.text_config)
    prefixes = [f"{kind}_" if kind else "" for kind, rope in settings.items() if rope.get("rope_type") == "dynamic"]
    for module, kind in product(lens_model.model.modules() if prefixes else (), prefixes):
        original = getattr(module, "original_max_seq_len", None)
        if original is not None and getattr(module, f"{kind}max_seq_len_cached", original) > original:
            first = getattr(module, f"{kind}original_inv_freq").to(getattr(module, f"{kind}inv_freq").device)
            module.register_buffer(f"{kind}inv_freq", first, persistent=False)
            setattr(module, f"{kind}max_seq_len_cached", original)
