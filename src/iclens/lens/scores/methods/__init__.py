"""Ways to score the demonstrations of a prompt: one method a file, found by its decorator."""

from __future__ import annotations

import importlib
import pkgutil

from iclens.lens.scores.methods.method import ATTRIBUTIONS, Attribution, Deletions, Problem, Scores, by_demonstration

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ATTRIBUTIONS", "Attribution", "Deletions", "Problem", "Scores", "by_demonstration"]
