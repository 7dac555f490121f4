"""The explorer: a page in the browser that shows a prompt teaching a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lazy import lazy_names

if TYPE_CHECKING:
    from iclens.explorer.app import build_app
    from iclens.explorer.explained import explained_page

__all__ = [
    "build_app",
    "explained_page",
]

# On first use: a page in a file needs no server.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "app": "build_app",
        "explained": "explained_page",
    },
)
