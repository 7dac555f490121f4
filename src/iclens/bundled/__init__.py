"""The in-context learner that ships with iclens: weights, tokenizer, its recipe and an example prompt.

The folder is a Hugging Face model: `AutoModelForCausalLM.from_pretrained(iclens.bundled.path())`. It is written
by `iclens train-bundled`; `recipe.json` records how. `prompt.txt` is an example of what it understands; `reviews.txt`
is one for language models, six short reviews of which the last has a wrong label.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """Return the folder of the model."""
    return Path(__file__).parent
