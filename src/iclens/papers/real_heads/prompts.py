"""Prompts of public data for recipes that look into the heads of a real model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from iclens.errors import UserError
from iclens.lens import Lens, LensModel
from iclens.papers.attribution.real_models.data import Asked, digest, missing, read_task
from iclens.papers.attribution.scoring import loaded, no_model
from iclens.recipes.contract import Part, Preset, Recipe
from iclens.recipes.settings import chosen, option


@dataclass(frozen=True)
class PromptSettings:
    """The model, the data, and how many prompts of how many demonstrations.

    Raises:
        UserError: no task, no prompt, or no demonstration.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    data: str = option("", "the folder of the data")
    tasks: tuple[str, ...] = chosen(("antonym", "country-capital", "sst2", "ag_news"), "of the folder")
    n_prompts: int = chosen(4, "prompts a task")
    n_demonstrations: int = chosen(8, "of a prompt")
    seed: int = chosen(0, "of the prompts")

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("there is no task: name at least one, e.g. antonym.")
        if min(self.n_prompts, self.n_demonstrations) < 1:
            raise UserError("n_prompts and n_demonstrations are at least 1.")


class OnPrompts(Recipe[PromptSettings]):
    """A recipe on prompts that a user's folder of data holds."""

    def lacking(self, settings: PromptSettings) -> str:
        """Which data are missing, or why there is no such model."""
        return missing(settings.data, settings.tasks, ()) or no_model(settings.model)

    def inputs(self, settings: PromptSettings) -> str:
        """The digest of the data."""
        return digest(settings.data, settings.tasks, ())

    def estimate(self, settings: PromptSettings, preset: Preset[PromptSettings]) -> float:
        """By the number of demonstrations in all."""
        own, others = (len(self.parts(one)) * one.n_demonstrations for one in (settings, preset.settings))
        return preset.seconds * own / max(1, others)


def model_of(settings: PromptSettings, dtype: torch.dtype = torch.float32) -> LensModel:
    """The model, in single precision or a copy of it in double.

    Raises:
        UserError: there is no such model.
    """
    single = loaded(settings.model)
    return single if dtype == torch.float32 else _doubled(settings.model)


@cache
def _doubled(name: str) -> LensModel:
    return loaded(name).in_double()


def asked(part: Part, settings: PromptSettings) -> Asked:
    """The prompt of a part's task and number, from a seed of its own.

    Raises:
        UserError: the task has too few pairs.
    """
    task, number = str(part["task"]), int(part["number"] or 0)
    generator = torch.Generator().manual_seed(1_000_000 * settings.seed + number)
    pairs = read_task(settings.data, task)
    drawn = pairs.drawn(generator, settings.n_demonstrations + 1)
    return pairs.asked(drawn[:-1], drawn[-1])


def reading(lens_model: LensModel, prompt: Asked) -> Lens:
    """The lens on a prompt, read where its right answer begins."""
    return Lens(lens_model, prompt.prompt, answers=prompt.labels or None, answer=prompt.answer, held=False)
