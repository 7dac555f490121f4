"""`iclens train-bundled`: train the learner that ships with iclens once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iclens.cli.output import check_at_least_one, say
from iclens.cli.subcommand import command


@command("train-bundled")
@dataclass(frozen=True)
class TrainBundled:
    """Train the bundled in-context learner and write it as a model folder.

    With the default options this repeats the recipe of the shipped weights: one thread, a few minutes, no network.
    The folder loads like any other: `iclens explain --model FOLDER`. It appears only when all of it is written.

    Attributes:
        out: the folder to create; it must not exist.
        seed: seed of the weights and of the prompts.
        layers: attention layers.
        heads: heads a layer.
        width: width of the residual stream; the heads must divide it.
        threads: torch threads; only one thread repeats the same weights bit for bit.
        prompts: held-out prompts on which the result is measured.
    """

    out: Path
    seed: int = 0
    layers: int = 4
    heads: int = 2
    width: int = 64
    threads: int = 1
    prompts: int = 2000

    def run(self) -> int:
        """Train, measure, write, and return the exit status."""
        from iclens.training.language.accuracy import accuracy_on_words
        from iclens.training.language.learner import BundledRecipe, train, write
        from iclens.work.progress import stages
        from iclens.work.whole_files import check_new_folder

        check_at_least_one(threads=self.threads, prompts=self.prompts)
        check_new_folder(self.out)
        recipe = BundledRecipe(seed=self.seed, n_layers=self.layers, n_heads=self.heads, width=self.width)
        with stages("training") as stage:

            def advance(done: int, total: int | None) -> None:
                stage(f"curriculum, step {done}" if total is None else f"whole task, step {done} of {total}")

            learner = train(recipe, advance, threads=self.threads)
        measured = accuracy_on_words(learner.model, self.prompts)
        write(learner, self.out, measured)
        say(
            f"{self.out}: {len(learner.losses)} steps in {learner.seconds:.0f} s; on {self.prompts} held-out prompts"
            f" right on {measured['present']:.1%} with a demonstration of the query's category,"
            f" on {measured['absent']:.1%} without."
        )
        return 0
