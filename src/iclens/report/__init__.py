"""Tables, pages and pictures that show what was computed elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names
from iclens.report.gallery import Entry, render_entry, render_index

if TYPE_CHECKING:
    from iclens.report.maps_of_heads import head_maps

__all__ = [
    "Entry",
    "head_maps",
    "render_entry",
    "render_index",
]

__getattr__, __dir__ = lazy_names(__name__, {"maps_of_heads": "head_maps"})
