"""How often a learner of word prompts is right, against what can be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from iclens.language.words import VOCABULARY, Split, WordPrompt, sample_words

_ID = {token: index for index, token in enumerate(VOCABULARY)}
N_DEMONSTRATIONS = (4, 8, 12, 16, 20, 24)


def right(model: Any, prompts: Sequence[WordPrompt], batch: int = 256) -> list[bool]:
    """Return whether the most likely next token is the prompt's answer, for every prompt.

    Args:
        model: a causal language model over `VOCABULARY`.
        prompts: of any lengths.
        batch: prompts in one pass at most.
    """
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.demonstrations), []).append(index)
    verdicts = [False] * len(prompts)
    with torch.no_grad():
        for indices in by_length.values():
            for start in range(0, len(indices), batch):
                part = indices[start : start + batch]
                tokens = torch.tensor([_tokens(prompts[index]) for index in part], device=model.device)
                guesses = model(tokens).logits[:, -1].argmax(-1).tolist()
                for index, guess in zip(part, guesses, strict=True):
                    verdicts[index] = guess == _ID[prompts[index].answer]
    return verdicts


def draw(generator: torch.Generator, n_prompts: int, *, present: bool, split: Split = "held-out") -> list[WordPrompt]:
    """Prompts over the whole range: 4 to 24 demonstrations in 3 to 8 categories.

    Args:
        generator: the source of randomness.
        n_prompts: how many.
        present: whether 1 to 6 (at most the number there is room for) demonstrations are of the query's category,
            or none.
        split: see `iclens.language.words.sample_words`.
    """
    prompts = []
    for index in range(n_prompts):
        n_demonstrations = N_DEMONSTRATIONS[index % len(N_DEMONSTRATIONS)]
        most = min(6, n_demonstrations - 1)
        n_relevant = 1 + int(torch.randint(most, (1,), generator=generator)) if present else 0
        n_categories = 3 + int(torch.randint(6, (1,), generator=generator))
        prompts.append(sample_words(generator, n_demonstrations, n_relevant, n_categories=n_categories, split=split))
    return prompts


def accuracy_on_words(model: Any, n_prompts: int = 2000, seed: int = 12345) -> dict[str, Any]:
    """Accuracy on held-out prompts.

    Returns:
        `present`: with demonstrations of the query's category, also by number of demonstrations; `absent`: without
        (chance is 1 / `len(LABELS)`); each on `n_prompts` prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = draw(generator, n_prompts, present=True)
    verdicts = right(model, prompts)
    by_length = {}
    for count in N_DEMONSTRATIONS:
        chosen = [verdict for verdict, p in zip(verdicts, prompts, strict=True) if len(p.demonstrations) == count]
        by_length[str(count)] = sum(chosen) / max(1, len(chosen))
    absent = right(model, draw(generator, n_prompts, present=False, split="any"))
    return {
        "n_prompts": n_prompts,
        "seed": seed,
        "present": sum(verdicts) / n_prompts,
        "present_by_demonstrations": by_length,
        "absent": sum(absent) / n_prompts,
    }


def _tokens(prompt: WordPrompt) -> list[int]:
    return [_ID["<s>"], *(_ID[token] for token in prompt.text().split())]
