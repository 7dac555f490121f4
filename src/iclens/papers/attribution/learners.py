"""The learners that the studies train: each once, kept in a folder, loaded from there afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from iclens.language.tokenizer import word_tokenizer
from iclens.lens.model.loading import LensModel, load
from iclens.training.language.chain_learner import ChainRecipe, train_chains
from iclens.training.language.learner import Advance, BundledRecipe, TrainedLearner, train, write
from iclens.work.whole_files import check_new_folder, make_folder, whole_folder


def deep_learner(
    n_layers: int,
    folder: Path,
    progress: Advance,
    recipe: BundledRecipe | None = None,
    trained: Callable[[BundledRecipe, Advance], TrainedLearner] = train,
) -> LensModel:
    """Return a learner of the bundled one's task and recipe with more layers.

    Args:
        n_layers: how many.
        folder: where it is kept, as `learner-<n_layers>-layers`.
        progress: called after every training step.
        recipe: another recipe, e.g. a smaller one.
        trained: trains a learner by a recipe.

    Raises:
        UserError: the folder cannot be written, or training fails.
    """
    chosen = recipe or BundledRecipe(n_layers=n_layers)
    return _kept(folder, f"learner-{n_layers}-layers", lambda target: write(trained(chosen, progress), target))


def chain_learner(folder: Path, progress: Advance, recipe: ChainRecipe | None = None) -> LensModel:
    """Return a learner of words, trained further on two hops.

    Args:
        folder: where it is kept, as `learner-two-hops`.
        progress: called after every training step.
        recipe: another recipe, e.g. a shorter one.

    Raises:
        UserError: the folder cannot be written, or training fails.
    """

    def make(target: Path) -> None:
        learner = train_chains(load("bundled").model, recipe, progress)
        with whole_folder(target) as made:
            learner.model.save_pretrained(made)
            word_tokenizer().save_pretrained(made)
            (made / "recipe.json").write_text(json.dumps(learner.record(), indent=1) + "\n")

    return _kept(folder, "learner-two-hops", make)


def _kept(folder: Path, name: str, make: Callable[[Path], None]) -> LensModel:
    """Return the learner in `folder / name`; made there first, whole or not at all, when it is missing."""
    target = folder / name
    if not target.is_dir():
        make_folder(folder)
        # Found out before minutes of training.
        check_new_folder(target)
        make(target)
    return load(str(target))
