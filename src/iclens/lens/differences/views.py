"""How a comparison is shown beside its table: a registry that upper rooms fill, so that none is imported from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iclens.registry import Registry

VIEWS: Registry[Callable[..., Any]] = Registry("view of a comparison", "iclens.comparison_views")
"""From a comparison to something to look at: `"text"`, `"page"`, `"cell"`."""
