"""A short fine-tuning on few-shot prompts, with any attention: the same data, steps and seeds for all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from iclens.lens import LensModel
from iclens.lens.read.padded import unembedding_only
from iclens.papers.attribution.real_models.data import Task
from iclens.papers.ren_liu_2024.on_real_models.modifications import Modification
from iclens.papers.ren_liu_2024.on_real_models.prompts import Lesson, lessons
from iclens.papers.ren_liu_2024.on_real_models.settings import ModifiedSettings
from iclens.papers.ren_liu_2024.table_1.training import Settings, rate_at
from iclens.recipes.contract import Progress, silent
from iclens.training.reproducibly import reproducibly


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned copy of a model.

    Attributes:
        lens_model: the copy, with its attention in it.
        losses: the mean loss of an output's token at every step, in nats.
        n_parameters: how many numbers were trained.
    """

    lens_model: LensModel
    losses: tuple[float, ...]
    n_parameters: int


def tune(
    lens_model: LensModel,
    modification: Modification,
    tasks: Sequence[Task],
    settings: ModifiedSettings,
    seed: int,
    progress: Progress = silent,
) -> Tuned:
    """Fine-tune a copy of a model on the outputs of few-shot prompts; the model itself is left as it was.

    Args:
        lens_model: where to start from.
        modification: the attention.
        tasks: what prompts are drawn from.
        settings: how to train.
        seed: of the prompts, and of the numbers that the attention adds.
        progress: called after every step.

    Raises:
        UserError: the attention does not fit the model, or a prompt its context.
    """
    drawn = lessons(lens_model, tasks, settings, seed)
    with reproducibly(seed, 1):
        tuned = replace(lens_model, model=copy.deepcopy(lens_model.model))
        modification.apply(tuned)
        trained = _trained(tuned, settings)
        losses = _train(tuned, trained, drawn, settings, progress)
    tuned.model.eval()
    return Tuned(tuned, losses, sum(p.numel() for p in trained))


def _trained(tuned: LensModel, settings: ModifiedSettings) -> list[nn.Parameter]:
    parts = [tuned.model] if settings.trained == "all" else [one.attention for one in tuned.anatomy.layers]
    tuned.model.requires_grad_(False)
    trained = list(dict.fromkeys(p for part in parts for p in part.parameters()))
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def _train(
    tuned: LensModel,
    trained: Sequence[nn.Parameter],
    drawn: Sequence[Lesson],
    settings: ModifiedSettings,
    progress: Progress,
) -> tuple[float, ...]:
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    schedule = Settings(n_steps=settings.steps, batch=settings.batch, learning_rate=settings.learning_rate)
    losses = []
    tuned.model.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_at(step, schedule)
        loss = loss_of(tuned, drawn[step * settings.batch : (step + 1) * settings.batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        progress(step + 1, settings.steps, f"step {step + 1} of {settings.steps}")
    optimizer.zero_grad(set_to_none=True)
    return tuple(losses)


def loss_of(lens_model: LensModel, some: Sequence[Lesson]) -> Tensor:
    """Mean of −log p over the tokens of the outputs, each after all before it, in nats."""
    longest, most = max(len(one.ids) for one in some), max(len(one.targets) for one in some)
    # What is filled up on the right comes after all that is read.
    ids = torch.tensor([[*one.ids, *one.ids[-1:] * (longest - len(one.ids))] for one in some])
    places = torch.tensor([[*one.targets, *one.targets[-1:] * (most - len(one.targets))] for one in some])
    weights = torch.tensor([[1.0] * len(one.targets) + [0.0] * (most - len(one.targets)) for one in some])
    ids, places, weights = (x.to(lens_model.device) for x in (ids, places, weights))
    with unembedding_only(lens_model, places - 1):
        logits = lens_model.model(input_ids=ids, use_cache=False).logits.float()
    log_p = logits.log_softmax(-1).gather(-1, ids.gather(1, places)[..., None]).squeeze(-1)
    return -(log_p * weights).sum() / weights.sum()
