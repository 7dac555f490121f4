"""Plumbing with Hugging Face Transformers: what attention variants and the lens both need to stand inside a model."""

from iclens.huggingface.chosen import configurations, implementation, restore
from iclens.huggingface.masks import as_bool
from iclens.huggingface.registration import register
from iclens.huggingface.terms import HARMLESS, unhandled_term

__all__ = ["HARMLESS", "as_bool", "configurations", "implementation", "register", "restore", "unhandled_term"]
