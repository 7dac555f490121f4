"""Ways to score the demonstrations of a prompt, ours and others': one method a file, found by its decorator.

Each is a function of a `Lens` and a source of randomness; `Lens.score` and `explain(scores=...)` find it by its name.
"""

from __future__ import annotations

import importlib
import pkgutil

from iclens.attribution.context import attribute, context_prompt
from iclens.lens import ATTRIBUTIONS, Scores

for _module in pkgutil.walk_packages(__path__, __name__ + "."):
    importlib.import_module(_module.name)

__all__ = ["ATTRIBUTIONS", "Scores", "attribute", "context_prompt"]
