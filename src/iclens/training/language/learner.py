"""The bundled in-context learner: how it is trained, from the first seed to the folder that ships.

From random weights the whole task stays on a plateau: the network guesses from the frequencies of the labels, and the
two parts of the solution (bind each label to its word; find the labels whose word is of the query's category) each earn
nothing without the other. In a small language (four words, four labels) both appear within a few hundred steps, and
the curriculum then grows the language around them: more words, then categories, labels, and longer prompts. Short
prompts are put at random places of the context, so that every position is learned before long prompts come. The first
words were learned one by one, before there were categories to speak of, and some keep a wrong place for good: when
all words of the first categories are in use, every word's embedding is drawn again (see `REDRAW_AFTER`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from iclens.errors import UserError
from iclens.language.batches import FIRST_WORD, WordBatch, sample_batch
from iclens.language.tokenizer import MAX_LENGTH, word_tokenizer
from iclens.language.words import CATEGORIES, LABELS, SPECIAL_TOKENS, VOCABULARY, WORDS_PER_CATEGORY
from iclens.training.reproducibly import reproducibly
from iclens.work.whole_files import whole_folder


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum: how much of the language the prompts use.

    Attributes:
        first_categories: how many of the categories occur at all.
        n_labels: how many of the labels occur.
        n_words: words of every category.
        n_categories: smallest and largest number of categories in a prompt.
        n_items: demonstrations and query together.
    """

    first_categories: int
    n_labels: int
    n_words: int
    n_categories: tuple[int, int]
    n_items: int


_ALL = (len(CATEGORIES), len(LABELS), WORDS_PER_CATEGORY)

CURRICULUM: tuple[Stage, ...] = (
    *(Stage(4, 4, n_words, (4, 4), 13) for n_words in (1, 2, 4, 8, 14, 20)),
    *(Stage(first, 4, 20, (4, 4), 13) for first in (6, 9, 14, 20)),
    *(Stage(20, n_labels, 20, (4, 4), 13) for n_labels in (6, 10, 20)),
    Stage(*_ALL, (3, 6), 13),
    Stage(*_ALL, (2, 8), 17),
    Stage(*_ALL, (2, 12), 25),
)
"""Words grow first, then categories, labels, and prompts; the last stage is the whole task."""

REDRAW_AFTER = 6
"""Stages after which all word embeddings are redrawn: the words have grown, and the categories begin to."""


Advance = Callable[[int, int | None], None]
"""Called after every step with the steps done and their total, None while that is not known."""


@dataclass(frozen=True)
class BundledRecipe:
    """All that determines the weights, besides the versions of the libraries.

    Attributes:
        seed: of the initial weights and of the prompts.
        n_layers: attention layers.
        n_heads: heads a layer.
        width: of the residual stream.
        inner_width: of the feed-forward layers.
        batch: prompts a step.
        learning_rate: of Adam; constant during the curriculum, then falling linearly to a fiftieth.
        initial_scale: standard deviation of the initial weights.
        unknown_weight: weight in the loss of items whose category has not occurred before, whose label nobody
            can know; they teach the uniform guess, but their noise drowns the rest at weight 1.
        threshold: running accuracy at which the next stage begins.
        patience: steps within which every stage must be mastered.
        final_steps: steps on the whole task after the curriculum.
    """

    seed: int = 0
    n_layers: int = 4
    n_heads: int = 2
    width: int = 64
    inner_width: int = 128
    batch: int = 64
    learning_rate: float = 2e-3
    initial_scale: float = 0.05
    unknown_weight: float = 0.1
    threshold: float = 0.8
    patience: int = 2000
    final_steps: int = 1000

    def check(self) -> None:
        """Refuse settings that no network has.

        Raises:
            UserError: a size below 1, or a width that the heads do not divide.
        """
        for name, value in asdict(self).items():
            if name != "seed" and not value > 0:
                raise UserError(f"the recipe's {name} is {value}; it must be positive.")
        if self.width % self.n_heads:
            raise UserError(f"the recipe's width {self.width} is not divisible by its {self.n_heads} heads.")


@dataclass(frozen=True)
class TrainedLearner:
    """What training leaves.

    Attributes:
        model: a `GPT2LMHeadModel` in evaluation mode.
        recipe: what it was trained by.
        stage_ends: the step at which each stage of the curriculum was mastered.
        losses: the loss of every step.
        seconds: wall-clock time.
    """

    model: Any
    recipe: BundledRecipe
    stage_ends: tuple[int, ...]
    losses: tuple[float, ...]
    seconds: float


def build_model(recipe: BundledRecipe) -> Any:
    """Return a `GPT2LMHeadModel` with the recipe's sizes and freshly drawn weights (torch's global generator).

    Raises:
        UserError: sizes that no network has.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    recipe.check()
    pad, _, start = range(len(SPECIAL_TOKENS))
    config = GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=MAX_LENGTH,
        n_embd=recipe.width,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        n_inner=recipe.inner_width,
        # The tanh GELU of GPT-2 costs twenty times as much on a CPU and brings nothing here.
        activation_function="relu",
        initializer_range=recipe.initial_scale,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=start,
        eos_token_id=None,
        pad_token_id=pad,
    )
    return GPT2LMHeadModel(config)


def train(
    recipe: BundledRecipe | None = None,
    advance: Advance | None = None,
    *,
    threads: int = 1,
    max_steps: int | None = None,
) -> TrainedLearner:
    """Train the learner; equal recipes give equal weights, bit for bit, on one machine with one thread.

    Args:
        recipe: sizes, seed and schedule; the shipped ones when None.
        advance: called after every step with the number of steps done and the total, which is None until the
            curriculum is mastered.
        threads: torch threads; more are faster, and may differ in the last bits.
        max_steps: stop after this number of steps wherever training is (for tests).

    Raises:
        UserError: impossible sizes, or a stage that is not mastered within `recipe.patience` steps.
    """
    recipe = recipe or BundledRecipe()
    recipe.check()
    start = time.perf_counter()
    with reproducibly(recipe.seed, threads):
        model = build_model(recipe).train()
        generator = torch.Generator().manual_seed(recipe.seed + 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        losses: list[float] = []
        ends: list[int] = []
        running = 0.0
        total: int | None = None
        while len(losses) != total and len(losses) != max_steps:
            step = len(losses)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(recipe, step, total)
            stage = CURRICULUM[min(len(ends), len(CURRICULUM) - 1)]
            loss, accuracy = _step(
                model, optimizer, sample_batch(generator, recipe.batch, **asdict(stage)), recipe, generator
            )
            losses.append(loss)
            running = 0.9 * running + 0.1 * accuracy
            if total is None and running > recipe.threshold:
                ends.append(step)
                # A new stage is harder: its accuracy must be earned again before the next.
                running = 0.5
                if len(ends) == REDRAW_AFTER:
                    _redraw_words(model, optimizer, recipe, generator)
                if len(ends) == len(CURRICULUM):
                    total = len(losses) + recipe.final_steps
            if total is None and step - (ends[-1] if ends else 0) > recipe.patience:
                raise UserError(
                    f"stage {len(ends) + 1} of {len(CURRICULUM)} was not mastered within {recipe.patience} steps"
                    f" (accuracy {running:.2f}, needed {recipe.threshold}): try another seed than {recipe.seed}."
                )
            if advance is not None:
                advance(len(losses), total)
    return TrainedLearner(model.eval(), recipe, tuple(ends), tuple(losses), time.perf_counter() - start)


def _step(
    model: Any, optimizer: torch.optim.Optimizer, batch: WordBatch, recipe: BundledRecipe, generator: torch.Generator
) -> tuple[float, float]:
    rows, length = batch.tokens.shape
    first = torch.randint(MAX_LENGTH - length + 1, (rows, 1), generator=generator)
    states = model.transformer(batch.tokens, position_ids=first + torch.arange(length)).last_hidden_state
    logits = model.lm_head(states[:, batch.read_out])
    labels = batch.tokens[:, batch.read_out + 1]
    weights = torch.where(batch.known, 1.0, recipe.unknown_weight)
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(weights)
    loss = (each * weights).sum() / weights.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    right = (logits.argmax(-1) == labels) & batch.known
    return loss.item(), (right.sum() / batch.known.sum()).item()


def _redraw_words(
    model: Any, optimizer: torch.optim.Optimizer, recipe: BundledRecipe, generator: torch.Generator
) -> None:
    embeddings = model.transformer.wte.weight
    words = embeddings.detach()[FIRST_WORD:]
    words.normal_(std=recipe.initial_scale, generator=generator)
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[embeddings][name][FIRST_WORD:] = 0.0


def _schedule(recipe: BundledRecipe, step: int, total: int | None) -> float:
    warm = min(1.0, (step + 1) / 50)
    return warm if total is None else max(0.02, (total - step) / recipe.final_steps)


def write(learner: TrainedLearner, folder: Path, measured: dict[str, Any] | None = None) -> None:
    """Write model, tokenizer and `recipe.json` as a folder that `from_pretrained` loads; whole or not at all.

    Args:
        learner: what to write.
        folder: a path that does not exist yet.
        measured: accuracies to record in `recipe.json`.

    Raises:
        UserError: the folder exists or cannot be created.
    """
    with whole_folder(folder) as made:
        _save_quietly(learner.model, made)
        word_tokenizer().save_pretrained(made)
        (made / "recipe.json").write_text(json.dumps(record(learner, made, measured), indent=1) + "\n")


def _save_quietly(model: Any, folder: Path) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()


def record(learner: TrainedLearner, folder: Path, measured: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what `recipe.json` says: the recipe, how training went, the libraries, and a digest of the weights."""
    import transformers

    return {
        "recipe": asdict(learner.recipe),
        "curriculum": [asdict(stage) for stage in CURRICULUM],
        "redraw_after": REDRAW_AFTER,
        "stage_ends": list(learner.stage_ends),
        "steps": len(learner.losses),
        "final_loss": sum(learner.losses[-100:]) / len(learner.losses[-100:]),
        "seconds": round(learner.seconds, 1),
        "n_parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "measured": measured or {},
    }
