"""Plumbing with Hugging Face Transformers: what attention variants and the lens both need to stand inside a model."""

from iclens.huggingface.chosen import configurations, implementation, restore
from iclens.huggingface.deferred import DeferredMask, MaskRecipe, deferred_mask
from iclens.huggingface.masks import as_bool
from iclens.huggingface.registration import register
from iclens.huggingface.terms import HARMLESS, unhandled_term

__all__ = [
    "HARMLESS",
    "DeferredMask",
    "MaskRecipe",
    "as_bool",
    "configurations",
    "deferred_mask",
    "implementation",
    "register",
    "restore",
    "unhandled_term",
]
