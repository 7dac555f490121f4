"""Which demonstrations to keep on a real model: `iclens select` against random search and others, as a recipe."""

from __future__ import annotations

import torch

from iclens.papers.attribution.comparing import mean, of_tasks
from iclens.papers.attribution.real_models.data import digest, missing, read_task
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.papers.attribution.showing import summary
from iclens.papers.selection.claims import CHOICE, CLAIMS, MENDING, judged
from iclens.papers.selection.pools import ALL, CHANCE, choice_rows, mending_rows
from iclens.papers.selection.settings import SelectionSettings
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.table import Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype


@recipe("select-real")
class SelectionOnRealModels(Recipe[SelectionSettings]):
    """Demonstrations chosen by `iclens select` on a real language model, by accuracy on examples that took no part.

    Choosing: 8 of a pool of 32 for 24 development examples, by every method within the passes that ours spends, where
    what prompts begin with alike is read once for all; beside them the whole pool and the mean of random subsets. The
    best random subset on the development examples is what DSPy's random search takes. Mending: 20 demonstrations of
    which 5 have a wrong label; each score drops 5. Every prompt of a pool runs on the same held-out examples, and
    differences are paired by pool.
    """

    title = "Which demonstrations to keep on a real model"
    reference = "our question; Khattab et al. 2023 (random search), Nguyen & Wong 2023 and Zhou et al. 2024 as rivals"
    claims = CLAIMS
    quick = Preset(
        SelectionSettings(
            tasks=("sst2",), n_pools=1, pool=8, k=3, n_dev=8, n_test=8, budget=12.0, methods=("influence", "random"),
            n_chance=2, n_mended=1, mended_pool=8, n_wrong=2,
        ),
        seconds=60,
    )  # fmt: skip
    paper = Preset(SelectionSettings(), seconds=54_000)
    more = {  # noqa: RUF012
        "short": Preset(
            SelectionSettings(
                tasks=("sst2", "ag_news"), n_pools=3, n_test=150, methods=("influence", "random"), n_chance=3,
                n_mended=2,
            ),
            seconds=4_000,
        ),
        # What the verdicts compare, and no more; in bfloat16 a pool takes 1.7 times less than in float32.
        "small": Preset(
            SelectionSettings(dtype="bfloat16", methods=("influence", "random"), n_chance=3), seconds=30_000
        ),
    }  # fmt: skip

    def lacking(self, settings: SelectionSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks, ()) or no_model(settings.model)

    def inputs(self, settings: SelectionSettings) -> str:
        """Return the digest of the data."""
        return digest(settings.data, settings.tasks, ())

    def estimate(self, settings: SelectionSettings, preset: Preset[SelectionSettings]) -> float:
        """By the tokens that the parts read."""
        own, others = (sum(_weight(part, one) for part in self.parts(one)) for one in (settings, preset.settings))
        return preset.seconds * own / max(others, 1e-9)

    def parts(self, settings: SelectionSettings) -> list[Part]:
        """Return a pool each; by turns, so that what is finished is of every task."""
        made: list[Part] = []
        for number in range(max(settings.n_pools, settings.n_mended)):
            for study, count, size in (
                (CHOICE, settings.n_pools, settings.pool),
                (MENDING, settings.n_mended, settings.mended_pool),
            ):
                some = settings.tasks if number < count else ()
                made.extend({"study": study, "task": task, "size": size, "number": number} for task in some)
        return made

    def measure(self, part: Part, settings: SelectionSettings, progress: Progress) -> Table:
        """One row a method."""
        study, task, number = str(part["study"]), str(part["task"]), int(part["number"] or 0)
        progress(0, 1, f"{study}: {task}, pool {number}")
        rows_of = choice_rows if study == CHOICE else mending_rows
        seed = 1_000_000 * settings.seed + 1000 * number + 7 * (study == MENDING)
        with default_dtype(torch.float32):
            return Table(
                rows_of(loaded(settings.model, settings.dtype), read_task(settings.data, task), settings, seed)
            )

    def check(self, table: Table, settings: SelectionSettings) -> list[Verdict]:
        """By accuracy on held-out examples, paired by pool."""
        return judged(table, settings.tasks)

    def summaries(self, table: Table, settings: SelectionSettings) -> dict[str, Table]:
        """Every task's methods, with half the width of 95 % intervals."""
        found = {}
        for study, heads in ((CHOICE, _CHOSEN), (MENDING, _MENDED)):
            for task in settings.tasks:
                rows = of_tasks(table, (task,), study=study)
                if len(rows):
                    found[f"{study}: {task}"] = summary(rows, heads, "accuracy")
        return found

    def plot(self, table: Table, settings: SelectionSettings) -> Figure:
        """Accuracy of the chosen prompts by task, with 95 % intervals."""
        figure = new_figure(7.0, 3.8)
        axes = figure.subplots()
        rows = table.where(study=CHOICE)
        methods = (*settings.methods, CHANCE, ALL)
        for place, name in enumerate(methods):
            found = [mean(of_tasks(rows, (task,)), "accuracy", name) for task in settings.tasks]
            some = [(at, one) for at, one in enumerate(found) if one.n]
            axes.errorbar(
                [at + (place - len(methods) / 2) * 0.1 for at, _ in some], [one.mean for _, one in some],
                [[one.mean - one.low for _, one in some], [one.high - one.mean for _, one in some]],
                fmt="o", ms=4, elinewidth=0.8, color=f"C{place % 6}", label=name,
            )  # fmt: skip
        axes.set_xticks(range(len(settings.tasks)), settings.tasks)
        axes.set(ylabel="accuracy on held-out examples", title=f"{settings.k} of {settings.pool} demonstrations")
        axes.legend(fontsize=7)
        return figure


_CHOSEN = {"accuracy": "accuracy", "log_loss": "log-loss", "tokens": "tokens"}
_MENDED = {"accuracy": "accuracy", "found": "wrong labels dropped", "log_loss": "log-loss"}


def _weight(part: Part, settings: SelectionSettings) -> float:
    """About how many demonstrations a part reads."""
    size = int(part["size"] or 0)
    long = {"cb": 3.0, "superglue-rte": 2.5, "ag_news": 1.7}.get(str(part["task"]), 1.0)
    if part["study"] == MENDING:
        return long * (2 * settings.budget * size + 8 * settings.n_test)
    return long * (
        len(settings.methods) * settings.budget * size
        + (len(settings.methods) + settings.n_chance + 1) * settings.n_test
    )
