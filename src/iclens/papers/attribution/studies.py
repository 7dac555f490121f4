"""The studies of the recipe `attribution`: where the gradient step works, and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iclens.language.tokenizer import word_tokenizer
from iclens.lens.model.loading import LensModel, load
from iclens.papers.attribution.chain_cases import chain_cases
from iclens.papers.attribution.learners import chain_learner, deep_learner
from iclens.papers.attribution.measures import Case
from iclens.papers.attribution.two_hop_network import two_hop_network
from iclens.papers.attribution.word_cases import conflicting_cases, word_cases
from iclens.registry import Registry
from iclens.training.language.learner import Advance


@dataclass(frozen=True)
class Setting:
    """What a study is to be run on.

    Attributes:
        model: the learner of word prompts, `"bundled"` or a folder.
        folder: where trained learners are kept.
        n_prompts: how many prompts.
        n_demonstrations: demonstrations a prompt, where the study leaves it free.
        seed: seed of the prompts.
    """

    model: str
    folder: Path
    n_prompts: int
    n_demonstrations: int
    seed: int

    def generator(self) -> torch.Generator:
        """Return the source of the prompts."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Study:
    """A learner and prompts of it.

    Attributes:
        description: one sentence: the prompts, the learner, and what the truth is.
        make: trains or loads the learner, and draws the prompts with their truths.
    """

    description: str
    make: Callable[[Setting, Advance], tuple[LensModel, list[Case]]]


STUDIES: Registry[Study] = Registry("attribution study", "iclens.attribution_studies")


Drawn = tuple[LensModel, list[Case]]


def _study(name: str, description: str) -> Callable[[Callable[[Setting, Advance], Drawn]], Study]:
    def add(make: Callable[[Setting, Advance], Drawn]) -> Study:
        return STUDIES.register(name)(Study(description, make))

    return add


def on_words(learner: LensModel, setting: Setting, *given: Any) -> Drawn:
    """Return a learner and word prompts of it; `given` are the further arguments of `word_cases`."""
    return learner, word_cases(learner.tokenizer, setting.generator(), setting.n_prompts, *given)


@_study("bundled", "the bundled learner; 2 to 4 demonstrations of the query's category are the truth.")
def bundled(setting: Setting, progress: Advance) -> Drawn:
    """Return the main table."""
    return on_words(load(setting.model), setting, setting.n_demonstrations)


@_study("redundant", "the bundled learner; 12 of 24 demonstrations are of the query's category, the truth.")
def redundant(setting: Setting, progress: Advance) -> Drawn:
    """Many demonstrations that say the same."""
    return on_words(load(setting.model), setting, 24, (12, 12))


@_study(
    "conflicting",
    "the bundled learner; of 6 demonstrations of the query's category (of 12) 4 carry the explained label, the truth, "
    "and 2 another one.",
)
def conflicting(setting: Setting, progress: Advance) -> Drawn:
    """Demonstrations that contradict each other."""
    lens_model = load(setting.model)
    return lens_model, conflicting_cases(lens_model.tokenizer, setting.generator(), setting.n_prompts)


@_study("deep-8", 'a learner of 8 layers trained on the same task; the truth as in the study "bundled".')
def deep_8(setting: Setting, progress: Advance) -> Drawn:
    """Twice the layers."""
    return _deep(8, setting, progress)


@_study("deep-12", 'a learner of 12 layers trained on the same task; the truth as in the study "bundled".')
def deep_12(setting: Setting, progress: Advance) -> Drawn:
    """Three times the layers."""
    return _deep(12, setting, progress)


@_study(
    "two-hops",
    "a network with weights written by hand; 6 chains of `b is c` and `a is b`, query `a is`, answer c; the 2 "
    "demonstrations of the query's chain are the truth.",
)
def two_hops(setting: Setting, progress: Advance) -> Drawn:
    """The answer is in no demonstration that names the query."""
    tokenizer = word_tokenizer()
    lens_model = LensModel.wrap(two_hop_network(tokenizer, setting.seed), tokenizer, "two-hop network")
    return lens_model, chain_cases(tokenizer, setting.generator(), setting.n_prompts)


@_study(
    "two-hops-trained",
    "a learner trained on the chains of the study two-hops; look first at how often it is right.",
)
def two_hops_trained(setting: Setting, progress: Advance) -> Drawn:
    """Return the same, if training finds a solution."""
    lens_model = chain_learner(setting.folder, progress)
    return lens_model, chain_cases(lens_model.tokenizer, setting.generator(), setting.n_prompts)


def _deep(n_layers: int, setting: Setting, progress: Advance) -> Drawn:
    return on_words(deep_learner(n_layers, setting.folder, progress), setting, setting.n_demonstrations)
