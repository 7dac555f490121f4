"""Whether modified attention helps a real model that learns in context: the study as a recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iclens.lens import LensModel
from iclens.papers.attribution.real_models.data import digest, missing
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.papers.ren_liu_2024.on_real_models.claims import CLAIMS, judged
from iclens.papers.ren_liu_2024.on_real_models.gains import PUT_IN, TUNED
from iclens.papers.ren_liu_2024.on_real_models.modifications import Modification, fine_tuned, put_in
from iclens.papers.ren_liu_2024.on_real_models.prompts import Text, answers, drawn_set, read, texts_of
from iclens.papers.ren_liu_2024.on_real_models.settings import ModifiedSettings
from iclens.papers.ren_liu_2024.on_real_models.showing import drawn, summaries
from iclens.papers.ren_liu_2024.on_real_models.tuning import tune
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Verdict
from iclens.training.default_dtype import default_dtype


@recipe("modified-real")
class ModifiedAttentionOnRealModels(Recipe[ModifiedSettings]):
    """Regularised, augmented and negative attention in a language model, by what it answers to few-shot prompts.

    Put in without training: regularised and negative attention and the same change of scale (1 − strength), over a grid
    of strengths and of layers. Fine-tuned: a short training on few-shot prompts of other tasks, with every attention
    from the same weights, on the same prompts, for as many steps and seeds; augmented attention (adapters that start as
    the identity) comes along, and as many parameters behind the head.

    Log-loss is −log p of the right answer, among the labels where these are few; accuracy is whether the right label is
    the likeliest, or what greedy decoding begins with. Differences are paired by prompt. Queries of a set share their
    demonstrations, so that a set counts as one number in the intervals. Strength and layers are chosen on sets of other
    numbers than those that report. What prompts of a set begin with alike is read once. Float32.
    """

    title = "Does modified attention help a real model?"
    reference = "our question; the modifications are Ren & Liu's (2024)"
    claims = CLAIMS
    quick = Preset(
        ModifiedSettings(
            tasks=("antonym", "country-capital"), n_sets=2, shots=4, n_queries=4, alphas=(0.1,), betas=(0.1,),
            n_negatives=(1,), layers=("all",), training_tasks=("english-spanish",), n_seeds=1, n_sets_tuned=2,
            tuned_strengths=(0.1,), tuned_maps=("g1&g2",), steps=2,
        ),
        seconds=60,
    )  # fmt: skip
    paper = Preset(ModifiedSettings(), seconds=40_000)
    more = {  # noqa: RUF012
        "short": Preset(
            ModifiedSettings(
                n_sets=2, shots=4, n_queries=6, most_characters=170, alphas=(-0.1, 0.1), betas=(0.1,),
                n_negatives=(1,), n_seeds=2, n_sets_tuned=2, tuned_strengths=(0.1,), tuned_maps=("g1&g2",), steps=12,
            ),
            seconds=700,
        )
    }  # fmt: skip

    def lacking(self, settings: ModifiedSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.all_tasks, ()) or no_model(settings.model)

    def inputs(self, settings: ModifiedSettings) -> str:
        """The digest of the data."""
        return digest(settings.data, settings.all_tasks, ())

    def estimate(self, settings: ModifiedSettings, preset: Preset[ModifiedSettings]) -> float:
        """By the tokens that the parts read."""
        own, others = (sum(_weight(part, one) for part in self.parts(one)) for one in (settings, preset.settings))
        return preset.seconds * own / max(others, 1e-9)

    def parts(self, settings: ModifiedSettings) -> list[Part]:
        """A set of a task with the whole grid, and a fine-tuning; by turns, so that what is finished is of both."""
        made: list[Part] = []
        for turn in range(max(settings.n_sets, settings.n_seeds)):
            if turn < settings.n_sets:
                made.extend({"study": PUT_IN, "task": task, "number": turn} for task in settings.tasks)
            if turn < settings.n_seeds:
                made.extend({"study": TUNED, "row": name, "seed": turn} for name in fine_tuned(settings))
        return made

    def measure(self, part: Part, settings: ModifiedSettings, progress: Progress) -> Table:
        """One row a prompt and attention."""
        with default_dtype(torch.float32):
            model = loaded(settings.model)
            if part["study"] == PUT_IN:
                return Table(_put_in(model, str(part["task"]), int(part["number"] or 0), settings, progress))
            modification = fine_tuned(settings)[str(part["row"])]
            return Table(_fine_tuned(model, modification, int(part["seed"] or 0), settings, progress))

    def check(self, table: Table, settings: ModifiedSettings) -> list[Verdict]:
        """Against plain attention and against the controls."""
        return judged(table, settings)

    def summaries(self, table: Table, settings: ModifiedSettings) -> dict[str, Table]:
        """Both studies: every attention's gains, and those of the chosen ones by task."""
        return summaries(table, settings)

    def plot(self, table: Table, settings: ModifiedSettings) -> Figure:
        """Gains in log-loss over plain attention, by strength and layers, and fine-tuned."""
        return drawn(table, settings)


def _put_in(
    model: LensModel, task: str, number: int, settings: ModifiedSettings, progress: Progress
) -> list[dict[str, Cell]]:
    texts = _texts(model, task, number, settings)
    grid, rows = put_in(settings), []
    seen: set[str] = set()
    for done, modification in enumerate(grid.values()):
        progress(done, len(grid), f"{task}, set {number}: {modification.name}")
        with modification.into(model):
            rows += [{"row": modification.name, **row} for row in _said(model, texts)]
            if number == 0 and modification.kind not in seen:
                seen.add(modification.kind)
                rows.append({"row": modification.name, "off": _off(model, texts, float(rows[-1]["log_loss"] or 0.0))})
    return rows


def _fine_tuned(
    model: LensModel, modification: Modification, seed: int, settings: ModifiedSettings, progress: Progress
) -> list[dict[str, Cell]]:
    def step(done: int, total: int, message: str) -> None:
        progress(done, total + 1, f"{modification.name}, seed {seed}: {message}")

    training = [read(name, settings) for name in settings.training_tasks]
    tuned = tune(model, modification, training, settings, seed, step)
    rows: list[dict[str, Cell]] = [
        {"step": number + 1, "training_loss": loss} for number, loss in enumerate(tuned.losses)
    ]
    rows.append({"n_parameters": tuned.n_parameters})
    for task in settings.tasks:
        for number in range(settings.n_sets_tuned):
            texts = _texts(model, task, number, settings)
            rows += [{"task": task, "number": number, **row} for row in _said(tuned.lens_model, texts)]
    return rows


def _texts(model: LensModel, task: str, number: int, settings: ModifiedSettings) -> list[Text]:
    known = read(task, settings)
    return texts_of(model, known, *drawn_set(known, settings, number))


def _said(model: LensModel, texts: Sequence[Text]) -> list[dict[str, Cell]]:
    return [
        {"query": place, "log_loss": one.log_loss, "right": float(one.right)}
        for place, one in enumerate(answers(model, texts))
    ]


def _off(model: LensModel, texts: Sequence[Text], log_loss: float) -> float:
    """How far the last prompt's log-loss is from that of the prompt read whole, in nats."""
    (whole,) = answers(model, texts[-1:], shared=False)
    return abs(whole.log_loss - log_loss)


_LONG = {"cb": 8.0, "ag_news": 5.0, "sst2": 2.5, "superglue-rte": 7.0, "sentiment": 2.5}
"""How long a pair is, in pairs of words."""


def _weight(part: Part, settings: ModifiedSettings) -> float:
    """About how many tokens a part reads, in pairs of words; a step of training is three readings."""
    asked = settings.shots + settings.n_queries
    if part["study"] == PUT_IN:
        return len(put_in(settings)) * asked * _LONG.get(str(part["task"]), 1.0)
    lengths = [_LONG.get(task, 1.0) for task in settings.training_tasks]
    trained = 3.0 * settings.steps * settings.batch * (settings.shots + 1) * sum(lengths) / len(lengths)
    return trained + settings.n_sets_tuned * asked * sum(_LONG.get(task, 1.0) for task in settings.tasks)
