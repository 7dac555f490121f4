"""Whether a demonstration's part of the weight updates says how much it matters, on a real model: a recipe."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from iclens.errors import UserError
from iclens.lens.scores.method import ATTRIBUTIONS
from iclens.papers.attribution.comparing import of_tasks
from iclens.papers.attribution.patches.claims import CLAIMS, PATCH, WHOLE, judged
from iclens.papers.attribution.real_models.data import answering, digest, missing, read_task
from iclens.papers.attribution.removal import removal_rows
from iclens.papers.attribution.scoring import Subject, loaded, no_model
from iclens.papers.attribution.showing import lds_by_passes, summary
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure
from iclens.recipes.settings import chosen, option
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype

METHODS = ("patch", "patch_size", "influence", "influence_deletions", "gradient_step", "knock_out", "random")


@dataclass(frozen=True)
class PatchSettings:
    """The model, the data, the methods, and how many prompts.

    Raises:
        UserError: an unknown method, no task, or counts that are too small.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data")
    tasks: tuple[str, ...] = chosen(
        ("antonym", "sentiment", "country-capital", "present-past", "english-french", "sst2"), "one word and labels"
    )
    size: int = chosen(8, "demonstrations of a prompt")
    prompts: int = chosen(8, "a task")
    n_subsets: int = chosen(48, "random subsets a prompt for LDS")
    methods: tuple[str, ...] = chosen(METHODS, "registered scores")
    seed: int = chosen(0, "of prompts, methods and subsets")

    def __post_init__(self) -> None:
        for name in self.methods:
            _ = ATTRIBUTIONS[name]
        if not self.tasks or self.prompts < 1:
            raise UserError("there is nothing to measure: name a task at least, and take 1 prompt or more.")
        if min(self.size, self.n_subsets) < 2:
            raise UserError("a prompt has at least 2 demonstrations, and a rank correlation needs at least 2 subsets.")


@recipe("patch-real")
class PatchesOnRealModels(Recipe[PatchSettings]):
    """The context as weight updates on a real language model: whether they are exact, and what their parts say.

    The prompts of `attribution-real`: demonstrations of a task and a query. Every prompt's patches run on the
    tokens that stay without the demonstrations, and the logits are compared with the model's own. Shares are those of
    ΔW's terms at the token whose logits are read, means over layers. The score `patch` integrates the derivative of the
    margin in the weight of each demonstration's part; `patch_size` is the size of that part alone. LDS is Spearman's
    correlation, over random halves of the demonstrations, of summed scores with the margin of the shortened prompt.
    Intervals are bootstrapped over prompts, differences paired. Float32.
    """

    title = "The context as weight updates, split by demonstration"
    reference = "Dherin et al. 2025, Theorem 2.2; Goldwaser et al. 2025; the split is our question"
    claims = CLAIMS
    quick = Preset(PatchSettings(tasks=("antonym", "present-past"), prompts=1, n_subsets=32), seconds=120)
    paper = Preset(PatchSettings(), seconds=3_000)

    def lacking(self, settings: PatchSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks, ()) or no_model(settings.model)

    def inputs(self, settings: PatchSettings) -> str:
        """The digest of the data."""
        return digest(settings.data, settings.tasks, ())

    def parts(self, settings: PatchSettings) -> list[Part]:
        """A prompt each, the tasks by turns."""
        return [{"task": task, "number": turn} for turn in range(settings.prompts) for task in settings.tasks]

    def measure(self, part: Part, settings: PatchSettings, progress: Progress) -> Table:
        """One row a method, and one of the prompt's patches."""
        task, number = str(part["task"]), int(part["number"] or 0)
        progress(0, 1, f"{task}: prompt {number}")
        seed = 1_000_000 * settings.seed + 1000 * settings.size + 10 * number
        with default_dtype(torch.float32):
            pairs = read_task(settings.data, task)
            drawn = pairs.drawn(torch.Generator().manual_seed(seed + 5), settings.size + 1)
            subject = answering(loaded(settings.model), pairs.asked(drawn[:-1], drawn[-1]))
            rows = [whole_row(subject), *removal_rows(subject, settings.methods, settings.n_subsets, seed)]
        return Table([row | {"study": "removal", "size": settings.size} for row in rows])

    def check(self, table: Table, settings: PatchSettings) -> list[Verdict]:
        """Over all prompts."""
        return judged(table)

    def summaries(self, table: Table, settings: PatchSettings) -> dict[str, Table]:
        """The methods, over all tasks and for each; and what the updates are made of."""
        tasks = [str(task) for task in table.unique("task")]
        found = {f"{settings.size} demonstrations, all tasks": summary(table, _HEADS, "lds")}
        found |= {f"{settings.size} demonstrations, {task}": summary(of_tasks(table, [task]), _HEADS, "lds")
                  for task in tasks}  # fmt: skip
        whole = [{name: row[name] for name in ("task", "number", "off", *_SHARES)} for row in table.where(method=WHOLE)]
        return found | {"the updates": Table(whole)}

    def plot(self, table: Table, settings: PatchSettings) -> Figure:
        """LDS against passes."""
        return lds_by_passes({f"{settings.size} demonstrations": (table, PATCH)})


_HEADS = {"lds": "LDS", "drop_1": "drop 1", "drop_3": "drop 3"}
_SHARES = ("part_share", "displaced_share", "rest_share", "states_share", "norms_share")


def whole_row(subject: Subject) -> dict[str, Cell]:
    """How far the patched model is from the model with its context, and what its updates are made of."""
    patches = subject.lens().patches()
    shares: dict[str, float] = defaultdict(float)
    for row in patches.to_rows(patches.read):
        shares[f"{row['term']}_share"] += row["share"] / len(patches)
    run = patches.run()
    return {
        "method": WHOLE,
        "off": run.off,
        "off_of_blocks": run.worst_block,
        **{name: shares[name] for name in _SHARES},
    }
