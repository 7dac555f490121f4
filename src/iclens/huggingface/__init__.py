"""Plumbing with Hugging Face Transformers: what attention variants and the lens both need to stand inside a model."""

from iclens.huggingface.deferred import DeferredMask, MaskRecipe, deferred_mask
from iclens.huggingface.handed import as_bool, unhandled_term
from iclens.huggingface.registered import configurations, implementation, register, restore

__all__ = [
    "DeferredMask", "MaskRecipe", "as_bool", "configurations", "deferred_mask", "implementation", "register",
    "restore", "unhandled_term",
]  # fmt: skip
