"""Families of models that the lens handles exactly: one file for each layout, found by its decorator."""

from __future__ import annotations

import importlib
import pkgutil

from iclens.lens.model.families.family import FAMILIES, Family

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["FAMILIES", "Family"]
