"""Tables and pages that show what was computed elsewhere."""

from iclens.report.gallery import Entry, render_entry, render_index

__all__ = [
    "Entry",
    "render_entry",
    "render_index",
]
