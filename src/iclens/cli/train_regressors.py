"""`iclens train-regressors`: train the in-context regressors of the explorer's Lab view once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iclens.cli.output import check_at_least_one, note, say
from iclens.cli.subcommand import command


@command("train-regressors")
@dataclass(frozen=True)
class TrainRegressors:
    """Train the bundled in-context regressors, one for each attention variant, and write them as a folder.

    With the default options this repeats the recipe of the shipped weights: one thread, some minutes, no network. The
    folder appears only when all of it is written; it is what `src/iclens/bundled/regressors` holds.

    Attributes:
        out: the folder to create; it must not exist.
        seed: seed of the weights and of the prompts.
        steps: optimiser steps of each; the shipped number when left out.
        prompts: new prompts on which the result is measured.
    """

    out: Path
    seed: int = 0
    steps: int | None = None
    prompts: int = 4096

    def run(self) -> int:
        """Train, measure, write, and return the exit status."""
        from iclens.training.regressors import STEPS, train_regressors
        from iclens.work.whole_files import check_new_folder, whole_folder

        steps = STEPS if self.steps is None else self.steps
        check_at_least_one(steps=steps, prompts=self.prompts)
        check_new_folder(self.out)

        def advance(variant: str, done: int, total: int, loss: float) -> None:
            if done % max(1, total // 5) == 0:
                note(f"{variant}: {done:,} of {total:,} steps, loss {loss:.3f}")

        with whole_folder(self.out) as made:
            document = train_regressors(made, seed=self.seed, steps=steps, n_measured=self.prompts, advance=advance)
        last = max(document["ridge"], key=int)
        errors = {name: one["error"][last] for name, one in document["regressors"].items()}
        errors["ridge, the best possible,"] = document["ridge"][last]
        said = (f"{name} {one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" for name, one in errors.items())
        say(f"{self.out}: squared error with {last} demonstrations on {self.prompts} new prompts: {'; '.join(said)}.")
        return 0
