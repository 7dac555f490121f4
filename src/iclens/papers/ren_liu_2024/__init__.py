"""Ren & Liu 2024: attention in context as one gradient step of a dual model, and attention modified accordingly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.papers.ren_liu_2024.table_1.sentences import generate_sentences

__all__ = ["generate_sentences"]

__getattr__, __dir__ = lazy_names(__name__, {"table_1.sentences": "generate_sentences"})
