"""Which sources a whole response rests on, on a real model and against ContextCite: the study as a recipe."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.scores.faithfulness import random_subsets
from iclens.papers.attribution.comparing import of_tasks, units
from iclens.papers.attribution.contexts.cases import PASSAGES, digest, missing
from iclens.papers.attribution.contexts.claims import CLAIMS, MORE, chosen_score, facts, judged
from iclens.papers.attribution.contexts.settings import ContextSettings
from iclens.papers.attribution.contexts.subjects import MOST_TRIED, answered
from iclens.papers.attribution.removal import costs, predicting_rows
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.papers.attribution.showing import lds_by_passes, summary
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype

NONE = "(not answered from the context)"
"""The row of a prompt that was not found."""

_SHORT = ("author", "rte-train"), ("headquarters", "currency", "rte-dev")


@recipe("context-real")
class ContextsOnRealModels(Recipe[ContextSettings]):
    """Scores of a context's sources on a real language model, by what its whole response loses when they are deleted.

    Contexts are sentences that contradict what the model knows, of which one answers the question and the model says
    what it says; and passages of RTE, of which one is asked about and the model writes what it likes. Explained is
    log p of the whole response. LDS is Spearman's correlation, over random subsets of the sources, of summed scores
    with log p in the shortened prompt; for its logit, ContextCite's target, it is the same number, since ranks alone
    count. The top-k drop is what deleting the k highest-scored takes from log p. First says how often the document
    that holds the fact has the highest score. ContextCite's method is held to its formula: masks with probability 1/2,
    the logit of p of the whole response, a Lasso with α = .01 on standardised masks. The score to compare with it
    is chosen on the tuning tasks among those of at most 6 passes; all verdicts are of the other tasks.
    """

    title = "Which sources a whole response rests on"
    reference = "our question; Cohen-Wang et al. 2024 (ContextCite) as the rival"
    claims = CLAIMS
    quick = Preset(
        ContextSettings(
            tuning=("author",),
            reporting=("headquarters",),
            sizes=(10,),
            tuned=(1,),
            prompts=(1,),
            ranked=(2,),
            n_subsets=(32,),
        ),
        seconds=110,
    )
    paper = Preset(ContextSettings(), seconds=20_000)
    more = {  # noqa: RUF012
        "short": Preset(
            ContextSettings(
                tuning=_SHORT[0],
                reporting=_SHORT[1],
                tuned=(2, 1, 0),
                prompts=(3, 2, 1),
                ranked=(8, 8, 0),
                n_subsets=(32, 32, 32),
                most_passages=30,
            ),
            seconds=4_000,
        )
    }

    def lacking(self, settings: ContextSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks) or no_model(settings.model)

    def inputs(self, settings: ContextSettings) -> str:
        """Return the digest of the data."""
        return digest(settings.data, settings.tasks)

    def estimate(self, settings: ContextSettings, preset: Preset[ContextSettings]) -> float:
        """By the parts' weights: a prompt costs as its passes and its length."""
        own, others = (sum(_weight(part, one) for part in self.parts(one)) for one in (settings, preset.settings))
        return preset.seconds * own / max(others, 1e-9)

    def parts(self, settings: ContextSettings) -> list[Part]:
        """Return a prompt each; by turns, so that what is finished is of everything; what is tuned on comes first."""
        made: list[Part] = []

        def add(study: str, tasks: tuple[str, ...], counts: tuple[int, ...], turn: int) -> None:
            for size, count in zip(settings.sizes, counts, strict=True):
                some = tasks if turn < count else ()
                made.extend({"study": study, "task": task, "size": size, "number": turn} for task in some
                            if task not in PASSAGES or size <= settings.most_passages)  # fmt: skip

        relations = tuple(task for task in settings.reporting if task not in PASSAGES)
        for turn in range(max((*settings.tuned, *settings.prompts, *settings.ranked))):
            add("removal", settings.tuning, settings.tuned, turn)
            add("removal", settings.reporting, settings.prompts, turn)
            add("ranking", relations, settings.ranked, turn)
        return made

    def measure(self, part: Part, settings: ContextSettings, progress: Progress) -> Table:
        """One row a method."""
        study, task, size, number = (part[key] for key in ("study", "task", "size", "number"))
        progress(0, 1, f"{study}: {task}, {size} sources, {number}")
        with default_dtype(torch.float32):
            return Table(_rows(str(study), str(task), int(size or 0), int(number or 0), settings))

    def check(self, table: Table, settings: ContextSettings) -> list[Verdict]:
        """On the reporting tasks, with the scores that the tuning tasks chose."""
        return judged(table, settings.split)

    def summaries(self, table: Table, settings: ContextSettings) -> dict[str, Table]:
        """All methods at every size, and how often the document with the fact is first."""
        found: dict[str, Table] = {}
        for kind, tasks in (("tuning", settings.tuning), ("reporting", settings.reporting)):
            for size in settings.sizes:
                rows = of_tasks(table, tasks, study="removal", size=size)
                if units(rows, "lds"):
                    found[f"{size} sources, {kind} tasks ({', '.join(map(str, rows.unique('task')))})"] = summary(
                        rows, _HEADS, "lds"
                    )
        for size in settings.sizes:
            rows = facts(table, settings.reporting, size)
            if units(rows, "first"):
                found[f"{size} documents: the one that holds the fact is first"] = summary(
                    rows, {"first": "first", "rank": "rank"}, "first"
                )
        if len(table):
            found["contexts that the model answers from"] = _found(table)
        return found

    def plot(self, table: Table, settings: ContextSettings) -> Figure:
        """LDS against passes at every size, on the reporting tasks."""
        found = {size: of_tasks(table, settings.reporting, study="removal", size=size) for size in settings.sizes}
        return lds_by_passes(
            {
                f"{size} sources": (rows, chosen_score(table, settings.tuning, size))
                for size, rows in found.items()
                if units(rows, "lds")
            }
        )


_HEADS = {"lds": "LDS", "drop_1": "drop 1", "drop_3": "drop 3", "drop_5": "drop 5", "first": "first"}


def _rows(study: str, task: str, size: int, number: int, settings: ContextSettings) -> list[dict[str, Cell]]:
    model = loaded(settings.model)
    apart = 500_000 if study == "ranking" else 0
    seed = 1_000_000 * settings.seed + apart + 1000 * size + 10 * number
    found = answered(model, settings.data, task, size, seed)
    if found is None:
        return [{"method": NONE, "tried": MOST_TRIED}]
    subject, methods = found.subject, settings.methods_ranked
    if study == "removal":
        methods = settings.methods_long if size >= settings.long else settings.methods
    scored = subject.scored(methods, seed)
    rows: list[dict[str, Cell]] = [{"method": name, **costs(one)} for name, one in scored.items()]
    if study == "removal":
        count = settings.n_subsets[settings.sizes.index(size)]
        subsets = random_subsets(torch.Generator().manual_seed(seed + 1), count, size)
        # Explained is log p itself, so that its columns would be there twice.
        rows = [{key: value for key, value in row.items() if "log_p" not in key}
                for row in predicting_rows(subject, scored, subsets)]  # fmt: skip
    with_all, without = subject.deletions(torch.tensor([[True] * size, [False] * size])).log_probabilities.tolist()
    context: dict[str, Cell] = {"tried": found.tried, "log_p": with_all, "log_p_without": without}
    return [
        {**row, **_place(found.case.holder, one.scores.values), **context}
        for row, one in zip(rows, scored.values(), strict=True)
    ]


def _place(holder: int, values: Float[Tensor, " n"]) -> dict[str, Cell]:
    """Where the document that holds the fact stands among the scores, ties counted against it."""
    others = torch.cat([values[:holder], values[holder + 1 :]])
    rank = int((others >= values[holder]).sum()) + 1
    return {"rank": rank, "first": float(rank == 1)}


def _found(table: Table) -> Table:
    """Return how many contexts were drawn, by task and size, for those that the model answers from."""
    drawn: dict[tuple[Cell, Cell], dict[tuple[Cell, Cell], tuple[int, bool]]] = {}
    for row in table:
        once = drawn.setdefault((row["task"], row["size"]), {})
        once[row["study"], row["number"]] = int(row["tried"] or 0), row["method"] != NONE
    return Table(
        {"task": task, "sources": size, "drawn": sum(count for count, _ in own.values()),
         "answered": sum(there for _, there in own.values())}
        for (task, size), own in drawn.items()
    )  # fmt: skip


def _weight(part: Part, settings: ContextSettings) -> float:
    """About how many tokens a part runs, in sources."""
    size = int(part["size"] or 0)
    if part["study"] == "ranking":
        return 20.0 * size
    methods = settings.methods_long if size >= settings.long else settings.methods
    alone = size if "rerun" in methods else 0.0
    masks = 0.5 * (64 * (MORE in methods) + settings.n_subsets[settings.sizes.index(size)])
    drops = 1.5 * len(methods)
    long = 2.0 if part["task"] in PASSAGES else 1.0
    return long * (30.0 + masks + drops + 0.5 * alone) * size
