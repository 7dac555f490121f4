"""Runs of Yang et al. 2024's 4-layer model as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iclens.papers.yang_2024.deep_model import DeepDictionaryModel
from iclens.papers.yang_2024.deep_training import DeepDictionaryTrainer, DeepMeasurement
from iclens.papers.yang_2024.runs import TOKENS, TaskSettings
from iclens.papers.yang_2024.task import Dictionary
from iclens.recipes.contract import Progress
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table


@dataclass(frozen=True)
class DeepSettings(TaskSettings):
    """A standard encoder on the dictionary task."""

    n_layers: int = stated(4)
    width: int = stated(256, "d_model")
    inner_width: int = stated(512, "d_ff")
    embedding: str = chosen("(v_k, y_k, 1) or (v_k, 0, 0), linear, no positions", "not stated")
    keys: str = chosen("the prompt's tokens, in every layer", "not stated")


SMALL: Mapping[str, Any] = {
    "n_prompt": 6,
    "n_tokens": 18,
    "d": 12,
    "n_features": 4,
    "width": 32,
    "inner_width": 64,
    "batch": 32,
    "learning_rate": 1e-3,
}
"""Settings that train in seconds."""


def deep_rows(
    settings: DeepSettings,
    normalised: bool,
    n_heads: int,
    seeds: Sequence[int],
    steps: int,
    seconds: float,
    device: str,
    progress: Progress,
) -> Table:
    """Curves of the deep model, one row a seed and measurement, in float32.

    Args:
        settings: sizes.
        normalised: of the tokens.
        n_heads: H.
        seeds: which seeds train together.
        steps: the least number of steps.
        seconds: at least so long by the clock, measurements left out.
        device: where.
        progress: of this run.
    """
    whole = settings.dictionaries(normalised)
    dictionary = Dictionary.stack([whole[seed] for seed in seeds]).to(device)
    model = DeepDictionaryModel(
        dictionary,
        list(seeds),
        n_layers=settings.n_layers,
        n_heads=n_heads,
        width=settings.width,
        inner_width=settings.inner_width,
    ).to(device, torch.float32)
    trainer = DeepDictionaryTrainer(dictionary, model, settings.training(), list(seeds))
    where = f"{TOKENS[normalised]}, H = {n_heads}"

    def watch(found: DeepMeasurement) -> None:
        done = min(found.step / steps if steps else 1.0, found.seconds / seconds if seconds else 1.0)
        progress(round(1000 * done), 1000, where)

    rows = []
    for found in trainer.run(steps, seconds, watch):
        for run, seed in enumerate(seeds):
            losses = {name: float(getattr(found, name)[run]) for name in ("loss", "in_domain", "shifted")}
            rows.append({"seed": seed, "step": found.step, "seconds": found.seconds} | losses)
    return Table(rows)
