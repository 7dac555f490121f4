"""A learner of two hops: a learner of words, trained further on chains `a is b`, `b is c`.

The learner of words knows the last hop from the start. With two chains there are two answers to choose from, and the
curriculum adds chains as two hops are mastered.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from iclens.errors import UserError
from iclens.language.chains import ChainBatch, sample_batch
from iclens.language.tokenizer import MAX_LENGTH
from iclens.training.language.learner import Advance

CURRICULUM: tuple[int, ...] = (2, 3, 4, 6)
"""Chains a prompt, stage by stage."""


@dataclass(frozen=True)
class ChainRecipe:
    """All that determines the weights, besides the weights to start from and the versions of the libraries.

    Attributes:
        seed: of the prompts.
        batch: prompts a step.
        learning_rate: of Adam; constant during the curriculum, then falling linearly to a fiftieth.
        threshold: running accuracy at which the next stage begins.
        patience: steps within which every stage must be mastered.
        final_steps: steps on the whole task after the curriculum.
    """

    seed: int = 1
    batch: int = 128
    learning_rate: float = 1e-3
    threshold: float = 0.8
    patience: int = 6000
    final_steps: int = 1000


@dataclass(frozen=True)
class ChainLearner:
    """What training leaves.

    Attributes:
        model: the model, in evaluation mode.
        recipe: what it was trained by.
        stage_ends: the step at which each stage of the curriculum was mastered.
        accuracy: share of right answers over the last 100 steps.
        seconds: wall-clock time.
    """

    model: Any
    recipe: ChainRecipe
    stage_ends: tuple[int, ...]
    accuracy: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return what is to be kept beside the weights."""
        return {
            "recipe": asdict(self.recipe),
            "curriculum": list(CURRICULUM),
            "stage_ends": list(self.stage_ends),
            "accuracy": self.accuracy,
            "seconds": round(self.seconds, 1),
        }


def train_chains(
    model: Any,
    recipe: ChainRecipe | None = None,
    advance: Advance = lambda done, total: None,
) -> ChainLearner:
    """Train a copy of a learner of words on two hops, on one thread as many as torch has.

    Args:
        model: a `GPT2LMHeadModel` over the words' vocabulary; it is left as it is.
        recipe: seed and schedule; the default when None.
        advance: called after every step with the number of steps done and the total, None until it is known.

    Raises:
        UserError: a stage that is not mastered within `recipe.patience` steps.
    """
    recipe = recipe or ChainRecipe()
    start = time.perf_counter()
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    ends: list[int] = []
    accuracies: list[float] = []
    running, total = 0.0, None
    while len(accuracies) != total:
        step = len(accuracies)
        left = 1.0 if total is None else (total - step) / recipe.final_steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (step + 1) / 50) * max(0.02, left)
        batch = sample_batch(generator, recipe.batch, CURRICULUM[min(len(ends), len(CURRICULUM) - 1)])
        accuracies.append(_step(model, optimizer, batch, generator))
        running = 0.9 * running + 0.1 * accuracies[-1]
        if total is None and running > recipe.threshold:
            ends.append(step)
            running = 0.5
            if len(ends) == len(CURRICULUM):
                total = len(accuracies) + recipe.final_steps
        if total is None and step - (ends[-1] if ends else 0) > recipe.patience:
            raise UserError(
                f"stage {len(ends) + 1} of {len(CURRICULUM)} of two hops was not mastered within {recipe.patience} "
                f"steps (accuracy {running:.2f}, needed {recipe.threshold}): try another seed than {recipe.seed}."
            )
        advance(len(accuracies), total)
    last = accuracies[-100:]
    return ChainLearner(model.eval(), recipe, tuple(ends), sum(last) / len(last), time.perf_counter() - start)


def _step(model: Any, optimizer: torch.optim.Optimizer, batch: ChainBatch, generator: torch.Generator) -> float:
    rows, length = batch.tokens.shape
    first = torch.randint(MAX_LENGTH - length + 1, (rows, 1), generator=generator)
    states = model.transformer(batch.tokens, position_ids=first + torch.arange(length)).last_hidden_state
    logits = model.lm_head(states[:, batch.read_out])
    answers = batch.tokens[:, batch.read_out + 1]
    loss = cross_entropy(logits.flatten(0, 1), answers.flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float((logits.argmax(-1) == answers).float().mean())
