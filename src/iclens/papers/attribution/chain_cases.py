"""Prompts of two hops with their ground truth."""

from __future__ import annotations

from typing import Any

import torch

from iclens.language.chains import sample
from iclens.language.words import LABELS
from iclens.lens.prompt.prompt import Prompt
from iclens.papers.attribution.measures import Case
from iclens.papers.attribution.word_cases import TEMPLATE, margin


def chain_cases(tokenizer: Any, generator: torch.Generator, n_prompts: int, n_chains: int = 6) -> list[Case]:
    """Prompts whose answer takes two demonstrations, which are the truth; each hop is a separate kind.

    Raises:
        UserError: counts that do not fit, or a tokenizer that does not know the words.
    """
    cases = []
    for _ in range(n_prompts):
        drawn = sample(generator, n_chains)
        prompt = Prompt.from_examples(drawn.demonstrations, drawn.query, TEMPLATE)
        first, last = drawn.relevant
        parts = {"first hop": (first,), "last hop": (last,)}
        cases.append(Case(prompt, margin(tokenizer, drawn.answer, LABELS), (first, last), parts))
    return cases
