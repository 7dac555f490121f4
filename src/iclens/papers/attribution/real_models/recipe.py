"""Which score is right on real language models: the study as a recipe."""

from __future__ import annotations

from dataclasses import replace

import torch

from iclens.papers.attribution.comparing import of_tasks
from iclens.papers.attribution.real_models.claims import CLAIMS, judged
from iclens.papers.attribution.real_models.data import answering, digest, missing, read_task
from iclens.papers.attribution.real_models.labels import N_POOL, curation_rows, wrong_label_rows
from iclens.papers.attribution.real_models.rule import default_score
from iclens.papers.attribution.real_models.settings import (
    CORE,
    LIGHT,
    LONG,
    MORE,
    OF_LABELS,
    QUICK,
    WITHIN_SEVEN,
    RealSettings,
)
from iclens.papers.attribution.real_models.settling import settling_rows
from iclens.papers.attribution.removal import removal_rows
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.papers.attribution.showing import lds_by_passes, summary
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype

_SHORTER = RealSettings(
    sizes=(8,),
    prompts=(3,),
    n_subsets=(48, 32),
    long_prompts=1,
    methods_tuning=QUICK,
    n_heavy=0,
    n_ceiling=1,
    methods=(*CORE, "influence_mirrored", "influence_knock_out", "shares_2", "knock_out", "masked", "hybrid_8"),
    methods_long=(*CORE, "knock_out", "influence_mirrored", "influence_knock_out"),
    methods_labels=(*LIGHT, "influence_deletions", *OF_LABELS),
    methods_settling=(*LIGHT, "gradient_norm", "sensitivity", "factorial", "influence_deletions", "masked", "rerun"),
    stable=("gradient_step", "influence", "factorial", "influence_deletions"),
    n_pools=3,
    n_label_queries=1,
    n_settling=8,
    n_curation=0,
)
"""Fewer prompts and methods, and no curation."""


@recipe("attribution-real")
class WhichOnRealModels(Recipe[RealSettings]):
    """Scores of demonstrations on a real language model, by what it does when their text is really deleted.

    LDS is Spearman's correlation, over random halves of the demonstrations, of summed scores with the margin of the
    shortened prompt; the top-k drop is what deleting the k highest-scored takes from the answer. Wrong labels are
    flipped ones that should score lowest; curation drops the lower half of a pool; a settling demonstration alone tells
    which of two rules holds. Every method pays for its own passes; a shortened prompt that several ask for runs once,
    and its seconds count for each. The default for a size is the score of the best mean LDS on the tuning tasks
    among those of at most 4.5 passes; all verdicts are of the other tasks. Intervals are bootstrapped over prompts,
    differences paired.
    """

    title = "Which score is right on real models"
    reference = "our question; Cohen-Wang et al. 2024, Zhou et al. 2024 and Ye et al. 2024 as rivals"
    claims = CLAIMS
    quick = Preset(
        RealSettings(
            tuning=("antonym",),
            reporting=("present-past",),
            sizes=(8,),
            prompts=(1,),
            n_subsets=(32, 32),
            long_tasks=(),
            long_prompts=0,
            methods=(*WITHIN_SEVEN, *MORE),
            n_heavy=0,
            n_ceiling=0,
            label_tasks=(),
            n_pools=0,
            families=(),
            n_settling=0,
            n_curation=0,
        ),
        seconds=100,
    )
    paper = Preset(RealSettings(), seconds=43_000)
    more = {  # noqa: RUF012
        "medium": Preset(replace(_SHORTER, sizes=(8, 32), prompts=(3, 2), n_subsets=(48, 32, 32)), seconds=15_000),
        "short": Preset(replace(_SHORTER, long_tasks=(), long_prompts=0), seconds=2_400),
    }

    def lacking(self, settings: RealSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks, settings.families) or no_model(settings.model)

    def inputs(self, settings: RealSettings) -> str:
        """Return the digest of the data."""
        return digest(settings.data, settings.tasks, settings.families)

    def estimate(self, settings: RealSettings, preset: Preset[RealSettings]) -> float:
        """By the parts' weights: a prompt costs as its passes and its length."""
        own, others = (sum(_weight(part, one) for part in self.parts(one)) for one in (settings, preset.settings))
        return preset.seconds * own / max(others, 1e-9)

    def parts(self, settings: RealSettings) -> list[Part]:
        """Return a prompt, a pool or a family each; by turns, so that what is finished is of everything."""
        made: list[Part] = []

        def add(study: str, tasks: tuple[str, ...], size: int, number: int) -> None:
            made.extend({"study": study, "task": task, "size": size, "number": number} for task in tasks)

        counts = settings.tuned or settings.prompts
        turns = max((*settings.prompts, *counts, settings.n_pools))
        for turn in range(turns):
            for place, size in enumerate(settings.sizes):
                add("removal", settings.tuning if turn < counts[place] else (), size, turn)
                add("removal", settings.reporting if turn < settings.prompts[place] else (), size, turn)
                if place == 0:
                    add("wrong labels", settings.label_tasks if turn < settings.n_pools else (), N_POOL, turn)
        # What takes long, or is one piece, comes after the first two turns.
        later = [part for part in made if int(part["number"] or 0) > 1]
        made = [part for part in made if int(part["number"] or 0) <= 1]
        add("settling", settings.families if settings.n_settling else (), 10, 0)
        for turn in range(settings.long_prompts):
            add("removal", settings.long_tasks, settings.long_size, turn)
        for turn in range(settings.n_curation):
            add("curation", settings.label_tasks[-1:], N_POOL, turn)
        return [*made, *later]

    def measure(self, part: Part, settings: RealSettings, progress: Progress) -> Table:
        """One row a method, and for settling demonstrations also a prompt."""
        study, task, size, number = (part[key] for key in ("study", "task", "size", "number"))
        progress(0, 1, f"{study}: {task}, {size} demonstrations, {number}")
        with default_dtype(torch.float32):
            return Table(_rows(str(study), str(task), int(size or 0), int(number or 0), settings))

    def check(self, table: Table, settings: RealSettings) -> list[Verdict]:
        """On the reporting tasks, with the default that the tuning tasks chose."""
        return judged(table, settings.split)

    def summaries(self, table: Table, settings: RealSettings) -> dict[str, Table]:
        """Every study's methods, with half the width of 95 % intervals."""
        found: dict[str, Table] = {}
        for kind, tasks in (("tuning", settings.tuning), ("reporting", settings.reporting)):
            for size in (*settings.sizes, settings.long_size):
                rows = of_tasks(table, tasks, study="removal", size=size)
                if len(rows):
                    name = f"{size} demonstrations, {kind} tasks ({', '.join(map(str, rows.unique('task')))})"
                    found[name] = summary(rows, _REMOVAL, "lds")
        for study, heads, key in (("wrong labels", _LABELS, "auroc"), ("settling", _SETTLING, "hit"),
                                  ("curation", {"accuracy": "accuracy"}, "accuracy")):  # fmt: skip
            rows = table.where(study=study)
            for task in rows.unique("task") if len(rows) else ():
                found[f"{study}: {task}"] = summary(rows.where(task=task), heads, key)
        return found

    def plot(self, table: Table, settings: RealSettings) -> Figure:
        """LDS against passes at every size, on the reporting tasks; the default and the Lassos are named."""
        found = {size: of_tasks(table, settings.reporting, study="removal", size=size)
                 for size in (*settings.sizes, settings.long_size)}  # fmt: skip
        return lds_by_passes(
            {
                f"{size} demonstrations": (rows, default_score(table, settings.tuning, size))
                for size, rows in found.items()
                if len(rows)
            }
        )


_REMOVAL = {
    "lds": "LDS", "lds_log_p": "LDS of log p", "drop_1": "drop 1", "drop_3": "drop 3", "drop_5": "drop 5",
    "log_p_drop_1": "log p, drop 1", "log_p_drop_3": "log p, drop 3", "log_p_drop_5": "log p, drop 5",
    "stability": "stability",
}  # fmt: skip
_LABELS = {"auroc": "AUROC", "found_4": "found by 4", "found_8": "found by 8", "found_12": "found by 12"}
_SETTLING = {"hit": "hit rate", "rank": "rank"}


def _rows(study: str, task: str, size: int, number: int, settings: RealSettings) -> list[dict[str, Cell]]:
    model = loaded(settings.model)
    seed = 1_000_000 * settings.seed + 1000 * size + 10 * number
    if study == "settling":
        return settling_rows(model, settings.data, task, settings.methods_settling, settings.n_settling, seed)
    pairs = read_task(settings.data, task)
    if study == "wrong labels":
        return wrong_label_rows(model, pairs, settings.methods_labels, settings.n_label_queries, seed)
    if study == "curation":
        return curation_rows(model, pairs, settings.methods_curation, settings.n_validation, settings.n_test, seed)
    drawn = pairs.drawn(torch.Generator().manual_seed(seed + 5), size + 1)
    subject = answering(model, pairs.asked(drawn[:-1], drawn[-1]))
    place = settings.sizes.index(size) if size in settings.sizes else len(settings.sizes)
    tuned = task in settings.tuning
    methods = (
        settings.methods_tuning if tuned else settings.methods if size in settings.sizes else settings.methods_long
    )
    left = settings.prompts[0] - number if place == 0 else 0
    if 0 < left <= settings.n_heavy and not tuned:
        methods = (*methods, *settings.heavy)
    return removal_rows(
        subject,
        methods,
        settings.n_subsets[place],
        seed,
        stable=settings.stable if size <= LONG and not tuned else (),
        ceiling=0 < left <= settings.n_ceiling and not tuned,
        pairs=size <= LONG,
    )


def _weight(part: Part, settings: RealSettings) -> float:
    """About how many tokens a part runs, in demonstrations."""
    study, size = part["study"], int(part["size"] or 0)
    if study == "settling":
        return settings.n_settling * 100.0 * size
    if study == "wrong labels":
        return 3.0 * size * 4 * len(settings.methods_labels) * settings.n_label_queries
    if study == "curation":
        return 3.0 * size * 3 * len(settings.methods_curation) * settings.n_validation + 5.0 * settings.n_test * size
    return 200.0 * size + (2.0 * size if size in settings.sizes else size) * size
