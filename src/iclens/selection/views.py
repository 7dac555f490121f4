"""How a choice is shown beside its table: a registry that upper rooms fill, so that none is imported from below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iclens.registry import Registry

VIEWS: Registry[Callable[..., Any]] = Registry("view of a choice", "iclens.selection_views")
"""From a choice to something to look at: `"page"`."""
