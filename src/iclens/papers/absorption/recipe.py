"""What is lost when demonstrations become a change of weights: `iclens absorb` on a real model, as a recipe."""

from __future__ import annotations

from dataclasses import replace

import torch

from iclens.absorption.reached import ABSORBED, PROMPT, ZERO
from iclens.papers.absorption.claims import CLAIMS, judged
from iclens.papers.absorption.rows import draw_rows
from iclens.papers.absorption.settings import AbsorptionSettings
from iclens.papers.attribution.comparing import mean, of_tasks, units
from iclens.papers.attribution.real_models.data import digest, missing, read_task
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype


@recipe("absorb-real")
class AbsorptionOnRealModels(Recipe[AbsorptionSettings]):
    """Demonstrations put into the weights of a real language model by `iclens absorb`, on queries that took no part.

    A draw takes demonstrations, queries to fit by and held-out queries of a task. The held-out queries are answered
    zero-shot, after the prompt, by the absorbed prompt at several ranks and from fewer demonstrations, by its patch
    without the output offset, and by LoRAs of equal rank and place that were trained on the demonstrations' answers
    and on what the model says after the prompt. Differences are paired by query. Ridge, emphasis and targets were
    chosen on antonym and sentiment, which give no verdict. The LoRAs' rate is the best of four on antonym,
    by the log-loss of held-out queries. They see the demonstrations alone, or the fitted queries with the prompt's
    answers; the closed form sees the fitted queries without answers, and the prompt.
    """

    title = "What is lost when demonstrations become weights"
    reference = "our question; 2510.08734 (patches that do not depend on the token), Hu et al. 2021 (LoRA)"
    claims = CLAIMS
    quick = Preset(
        AbsorptionSettings(
            tasks=("present-past",), n_draws=2, n_shots=6, n_fitted=8, n_held_out=16, ranks=(1,), numbers=(3,),
            lora_steps=5,
        ),
        seconds=110,
    )  # fmt: skip
    paper = Preset(AbsorptionSettings(), seconds=45_000)
    more = {  # noqa: RUF012
        "short": Preset(
            AbsorptionSettings(
                n_draws=2, n_shots=8, n_fitted=16, n_held_out=32, ranks=(1,), numbers=(), distilled=False
            ),
            seconds=1_000,
        )
    }  # fmt: skip

    def lacking(self, settings: AbsorptionSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks, ()) or no_model(settings.model)

    def inputs(self, settings: AbsorptionSettings) -> str:
        """The digest of the data."""
        return digest(settings.data, settings.tasks, ())

    def estimate(self, settings: AbsorptionSettings, preset: Preset[AbsorptionSettings]) -> float:
        """By what the draws read and train."""
        return preset.seconds * _weight(settings) / _weight(preset.settings)

    def parts(self, settings: AbsorptionSettings) -> list[Part]:
        """A draw each; by turns, so that what is finished is of every task."""
        return [
            {"study": "absorbing", "task": task, "size": settings.n_shots, "number": number}
            for number in range(settings.n_draws)
            for task in settings.tasks
        ]

    def bearing(self, part: Part, settings: AbsorptionSettings) -> AbsorptionSettings:
        """A draw is the same whatever other tasks and draws are asked for."""
        return replace(settings, tasks=(str(part["task"]),), n_draws=1)

    def measure(self, part: Part, settings: AbsorptionSettings, progress: Progress) -> Table:
        """One row a way to answer and held-out query."""
        task, number = str(part["task"]), int(part["number"] or 0)
        with default_dtype(torch.float32):
            seed = 1_000_000 * settings.seed + 1000 * number
            return Table(draw_rows(loaded(settings.model), read_task(settings.data, task), settings, seed, progress))

    def check(self, table: Table, settings: AbsorptionSettings) -> list[Verdict]:
        """By divergence from the prompt, accuracy and log-loss on held-out queries."""
        return judged(table, settings.tasks)

    def summaries(self, table: Table, settings: AbsorptionSettings) -> dict[str, Table]:
        """Every task's ways to answer, with half the width of 95 % intervals."""
        found = {}
        for task in settings.tasks:
            rows = of_tasks(table, (task,))
            made: list[dict[str, Cell]] = []
            for name in units(rows, "divergence"):
                short = {
                    head: mean(rows, measure, name).short
                    for head, measure in (("KL", "divergence"), ("accuracy", "accuracy"), ("log-loss", "log_loss"))
                }
                tokens = mean(rows, "tokens", name)
                made.append({"answered by": name, "n": tokens.n, "tokens": round(tokens.mean), **short})
            if made:
                found[task] = Table(made)
        return found

    def plot(self, table: Table, settings: AbsorptionSettings) -> Figure:
        """The divergence from the prompt by rank, a line a task, zero-shot at rank 0."""
        figure = new_figure(6.0, 3.8)
        axes = figure.subplots()
        names = {0: ZERO, **{rank: f"rank {rank}" for rank in settings.ranks}, settings.rank: ABSORBED}
        for place, task in enumerate(settings.tasks):
            rows = of_tasks(table, (task,))
            found = [(rank, mean(rows, "divergence", name)) for rank, name in sorted(names.items())]
            some = [(rank, one) for rank, one in found if one.n]
            axes.errorbar(
                [rank for rank, _ in some], [one.mean for _, one in some],
                [[one.mean - one.low for _, one in some], [one.high - one.mean for _, one in some]],
                fmt="o-", ms=4, elinewidth=0.8, color=f"C{place % 8}", label=task,
            )  # fmt: skip
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xticks(list(names), [str(rank) for rank in names])
        axes.set_yscale("log")
        axes.set(xlabel="rank (0: zero-shot)", ylabel=f"KL from the {PROMPT} [nats]")
        axes.legend(fontsize=7)
        return figure


_LENGTHS = {"sst2": 4.0, "ag_news": 7.0}
"""How many times longer the texts of a task are than those of the others."""


def _weight(settings: AbsorptionSettings) -> float:
    """About how much the draws read, in queries."""
    fits = 2 + len(settings.ranks) + len(settings.numbers)
    trained = settings.lora_steps * (settings.n_shots + settings.distilled * settings.n_fitted) * 3
    draw = fits * (4 * settings.n_fitted + 2 * settings.n_held_out) + trained
    return settings.n_draws * sum(_LENGTHS.get(task, 1.0) for task in settings.tasks) * draw
