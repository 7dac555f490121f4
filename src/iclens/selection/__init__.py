"""Which demonstrations to keep, drop and mend, and in which order: chosen by effects, decided by real runs."""

from __future__ import annotations

from iclens.selection.choosing import select
from iclens.selection.examples import Example, read_examples
from iclens.selection.pool import Pool, read_pool
from iclens.selection.search import METHODS, Found, Search
from iclens.selection.selection import Selection

__all__ = ["METHODS", "Example", "Found", "Pool", "Search", "Selection", "read_examples", "read_pool", "select"]
