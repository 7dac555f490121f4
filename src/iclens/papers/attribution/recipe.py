"""Which demonstrations matter: the studies as a recipe, and where the gradient step ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from iclens.errors import UserError
from iclens.lens.model.loading import load
from iclens.lens.scores.method import ATTRIBUTIONS
from iclens.papers.attribution.measures import METHODS, TRUTH, Measured, run
from iclens.papers.attribution.studies import STUDIES, Drawn, Setting, on_words
from iclens.papers.attribution.verdicts import (
    ALONE,
    CLAIMS,
    CONFLICTING,
    DEEP,
    MAIN,
    REDUNDANT,
    TWO_HOPS,
    judged,
    measured_of,
)
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.settings import chosen, option
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype
from iclens.training.language.learner import Advance

FREE_METHODS = tuple(name for name in METHODS if not name.startswith("captum"))


@dataclass(frozen=True)
class WhichSettings:
    """How many prompts, and the methods.

    Raises:
        UserError: an unknown method, a negative number of prompts, none at all, or fewer than two subsets.
    """

    n_prompts: int = chosen(500, "the bundled learner; 2 to 4 of 12 demonstrations matter")
    n_alone: int = chosen(100, "prompts with one demonstration that matters of 12")
    n_redundant: int = chosen(200, "prompts with 12 of 24 that say the same")
    n_conflicting: int = chosen(300, "prompts with 4 for the answer and 2 against it, of 12")
    n_two_hops: int = chosen(30, "prompts for the network of two hops")
    n_deep: int = chosen(100, "prompts for a learner of 8 layers, which is trained first")
    n_subsets: int = chosen(32, "random subsets a prompt for LDS")
    chunk: int = chosen(25, "prompts a part")
    methods: tuple[str, ...] = chosen(FREE_METHODS, "all that need no further library")
    seed: int = chosen(0, "of prompts, methods and subsets")
    model: str = option("bundled", "the learner of word prompts: a folder with the same vocabulary")
    n_demonstrations: int = option(12, "a prompt, in the studies whose number is free")
    n_deep_12: int = option(0, "prompts for a learner of 12 layers, which is trained first")
    n_two_hops_trained: int = option(0, "prompts for a learner that is trained on two hops")

    def __post_init__(self) -> None:
        for method in self.methods:
            _ = ATTRIBUTIONS[method]
        sizes = self.sizes()
        if min(sizes.values()) < 0 or not any(sizes.values()):
            raise UserError("numbers of prompts are 0 or more, and one of them at least 1.")
        if self.n_subsets < 2:
            raise UserError(f"n_subsets={self.n_subsets}: a rank correlation needs at least 2.")
        if self.chunk < 1 or self.n_demonstrations < 1:
            raise UserError("chunk and n_demonstrations must be at least 1.")

    def sizes(self) -> dict[str, int]:
        """Prompts of every study."""
        return {
            MAIN: self.n_prompts,
            ALONE: self.n_alone,
            REDUNDANT: self.n_redundant,
            CONFLICTING: self.n_conflicting,
            TWO_HOPS: self.n_two_hops,
            DEEP: self.n_deep,
            "deep-12": self.n_deep_12,
            "two-hops-trained": self.n_two_hops_trained,
        }


@recipe("attribution")
class WhichDemonstrations(Recipe[WhichSettings]):
    """Ways to score demonstrations, on prompts of which it is known which demonstrations matter.

    AUC is the probability that a demonstration that matters scores above one that does not. Then the text of as many as
    matter is deleted, highest scores first: a model that is still right did not lose what it used. LDS is Spearman's
    correlation, over random subsets, of summed scores with the margin of the shortened prompt. Costs are counted in
    forward passes. Beside the bundled learner's prompts: one demonstration that matters, twelve that say the same, some
    that contradict each other, an answer that takes two hops, and a learner of 8 layers. Intervals are bootstrapped
    over prompts, differences paired by prompt. "At least as good" means: the interval excludes being worse by more than
    a margin. Float32.
    """

    title = "Which score finds the demonstrations that matter"
    reference = "our question; ContextCite (Cohen-Wang et al. 2024) and others as rivals"
    claims = CLAIMS
    quick = Preset(
        WhichSettings(
            n_prompts=150,
            n_alone=20,
            n_redundant=60,
            n_conflicting=80,
            n_two_hops=6,
            n_deep=0,
            methods=tuple(name for name in FREE_METHODS if name != "integrated_gradients"),
        ),
        seconds=75,
    )
    paper = Preset(WhichSettings(), seconds=850)

    def parts(self, settings: WhichSettings) -> list[Part]:
        """Chunks of prompts; the learner of 8 layers is trained in a part, so that all its prompts are one."""
        made: list[Part] = []
        for study, size in settings.sizes().items():
            # What is trained for a study is trained once.
            step = settings.chunk if study not in (DEEP, "deep-12", "two-hops-trained") else max(size, 1)
            made += [
                {"study": study, "first": first, "prompts": min(step, size - first)} for first in range(0, size, step)
            ]
        return made

    def measure(self, part: Part, settings: WhichSettings, progress: Progress) -> Table:
        """One row a prompt and method: measures, cost, and how often the chunk's whole prompts are right."""
        study, first, count = str(part["study"]), int(part["first"] or 0), int(part["prompts"] or 0)
        seed = 100_000 * settings.seed + first
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress(done, count, f"{study}: prompt {first + done}")

        def training(steps: int, total: int | None) -> None:
            # Until the curriculum is mastered nobody knows the total.
            progress(0, count, f"training 8 layers, step {steps}" + (f" of {total}" if total else ""))

        with default_dtype(torch.float32), TemporaryDirectory() as folder:
            setting = Setting(settings.model, Path(folder), count, settings.n_demonstrations, seed)
            learner, cases = _drawn(study, setting, training)
            # Another seed than the prompts': their truths and the random scores would come from the same numbers.
            found = run(
                learner,
                cases,
                methods=settings.methods,
                n_subsets=settings.n_subsets,
                seed=50_000 + seed,
                advance=advance,
            )
        rows = []
        for method, measured in found.methods.items():
            costs = {"forward_passes": measured.forward_passes, "backward_passes": measured.backward_passes}
            for index in range(count):
                numbers = {name: float(values[index]) for name, values in measured.measures.items()}
                row = {"method": method, "prompt": first + index, **numbers, "whole": found.accuracy.mean}
                rows.append(row | (costs if method != TRUTH else {}))
        return Table(rows)

    def check(self, table: Table, settings: WhichSettings) -> list[Verdict]:
        """Compare with the other methods on the main study; then measure the limits."""
        return judged(table)

    def summaries(self, table: Table, settings: WhichSettings) -> dict[str, Table]:
        """Every study's methods with their costs and measures, with half the width of 95 % intervals."""
        return {
            f"{study}: {STUDIES[study].description if study in STUDIES else '1 demonstration is the truth.'} "
            f"{size} prompts.": Table(_summary_rows(measured_of(table, study)))
            for study, size in settings.sizes().items()
            if size
        }

    def plot(self, table: Table, settings: WhichSettings) -> Figure:
        """Methods by AUC, and by accuracy after removal: the main study with intervals, the others beside it."""
        figure = new_figure(11.5, 7.0)
        panels = figure.subplots(1, 2, sharey=True)
        shown = [str(study) for study in table.unique("study")]
        main = measured_of(table, MAIN if MAIN in shown else shown[0])
        order = sorted((name for name in main if name != TRUTH), key=lambda name: main[name].of("auc").mean)
        order.append(TRUTH)
        places = np.arange(len(order), dtype=float)
        looks = {MAIN: ("o", "C0", "2 to 4 of 12 matter"), ALONE: ("P", "C4", "1 of 12 matters"),
                 REDUNDANT: ("s", "C1", "12 of 24 say the same"), CONFLICTING: ("^", "C2", "4 for, 2 against"),
                 TWO_HOPS: ("D", "C3", "two hops"), DEEP: ("v", "C5", "8 layers")}  # fmt: skip
        looks |= {study: ("x", "C5", study) for study in shown if study not in looks}
        shown = [study for study in looks if study in shown]
        for axes, measure in zip(panels, ("auc", "removed"), strict=True):
            for number, study in enumerate(shown):
                found = measured_of(table, study)
                means = [found[name].of(measure) for name in order]
                # Studies stand a little apart in each row, in the order of the legend from above.
                at = places + 0.14 * ((len(shown) - 1) / 2 - number)
                centre = np.array([each.mean for each in means])
                reach = np.array([[each.mean - each.low, each.high - each.mean] for each in means]).T
                marker, colour, label = looks[study]
                size, width = (8, 2.2) if study == MAIN else (5, 1.0)
                axes.errorbar(centre, at, xerr=reach, fmt=marker, color=colour, ms=size, elinewidth=width, label=label)
            for place in places[:-1] + 0.5:
                axes.axhline(place, color="gray", linewidth=0.4)
            axes.grid(visible=False, axis="y")
        panels[0].axvline(0.5, color="gray", linestyle=":")
        panels[0].text(0.5, places[-1] + 0.62, "chance", ha="center", va="bottom", color="gray")
        panels[0].set(xlabel="AUC (1 is best)", xlim=(0.15, 1.03))
        panels[1].set(xlabel="share right after deleting the top ones (low is best)", xlim=(-0.03, 1.03))
        panels[0].set_ylabel("method (forward passes)")
        panels[0].set_yticks(places, [_label(name, main[name]) for name in order])
        panels[0].set_ylim(-0.6, places[-1] + 0.6)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(shown))
        return figure


def _drawn(study: str, setting: Setting, training: Advance) -> Drawn:
    if study == ALONE:
        return on_words(load(setting.model), setting, setting.n_demonstrations, (1, 1))
    return STUDIES[study].make(setting, training)


def _label(name: str, measured: Measured) -> str:
    if name == TRUTH:
        return "the truth itself"
    backward = f" + {measured.backward_passes:.0f} back" if measured.backward_passes else ""
    return f"{name.replace('_', ' ')} ({measured.forward_passes:.3g}{backward})"


def _summary_rows(found: dict[str, Measured]) -> list[dict[str, Cell]]:
    """Return a row a method."""
    headings = {"auc": "AUC", "removed": "right, top removed", "kept": "right, only top", "lds": "LDS"}
    rows: list[dict[str, Cell]] = []
    for name, measured in found.items():
        row: dict[str, Cell] = {"method": name}
        if name != TRUTH:
            row |= {"forward": measured.forward_passes, "backward": measured.backward_passes}
        for measure in measured.measures:
            row[headings.get(measure, measure)] = measured.of(measure).short
        rows.append(row)
    return rows
