"""Which runs can train together, and how one run is put into an ensemble and taken out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iclens.attention import build
from iclens.models.model import PromptModel
from iclens.models.per_run import PerRun
from iclens.models.runs_attention import fixed_options, has_strengths_only
from iclens.models.zero_padding import with_heads
from iclens.tasks.task import Task
from iclens.training.config import RunConfig

_OF_A_RUN = ("learning_rate", "weight_decay", "clip", "momentum", "betas", "warmup", "schedule", "rates")
"""Settings of the training that an ensemble holds for each run."""


def shape_key(config: RunConfig) -> str:
    """Runs with equal keys can train together.

    They may differ in the seed, the task (as long as inputs and labels have the same widths), learning rates, decay,
    clipping, the strengths of the attention, the number of heads when the head's width is given (the outputs of missing
    heads are zero), and the number of demonstrations when tokens are interleaved (a causal model's answers do not see
    the padding after them).
    """
    task = config.make_task()
    data = config.to_dict()
    training = {name: value for name, value in data["training"].items() if name not in _OF_A_RUN}
    model = dict(data["model"])
    if "attention_options" in model:
        heads = model["n_heads"]
        variant = build(model["attention"], n_heads=heads, d=2, d_v=2, **(model["attention_options"] or {}))
        # A learned strength of every head does not stack with one of all heads.
        sizes = {name: tuple(parameter.shape) for name, parameter in variant.named_parameters()}
        model["attention_options"] = [fixed_options(variant), sizes]
        of_heads = any(
            isinstance(value, list | tuple) for value in (config.model.options.get("attention_options") or {}).values()
        )
        if model.get("head_width") and has_strengths_only(variant) and not of_heads:
            del model["n_heads"]
    if model.get("tokens", "interleaved") == "interleaved" and training["loss"] == "every-prefix":
        training.pop("n_context")
    shape = {"d": task.d, "d_y": task.d_y, "model": model, "training": training, "curriculum": data["curriculum"]}
    return json.dumps(shape, sort_keys=True, default=str)


def ensemble_model(configs: Sequence[RunConfig], task: Task) -> PromptModel:
    """One model with a run for each configuration, each starting from the numbers of the run alone.

    Args:
        configs: runs of one shape.
        task: the task of any of them.
    """
    merged: dict[str, Any] = {}
    filled = [one.to_dict()["model"] for one in configs]
    for name in sorted({name for one in configs for name in one.model.options}):
        # A run that does not name an option has its default, whatever the others say.
        values = [one[name] for one in filled]
        merged[name] = values[0] if all(value == values[0] for value in values) else PerRun(values)
    cls, seeds = configs[0].model_class(), [one.seed for one in configs]
    model = cls(task.d, task.d_y, seeds, **merged)
    if isinstance(merged.get("n_heads"), PerRun):
        _place_heads(model, configs, cls, task)
    return model


@torch.no_grad()
def _place_heads(model: PromptModel, configs: Sequence[RunConfig], cls: type[PromptModel], task: Task) -> None:
    widest = max(_heads(one) for one in configs)
    own = dict(model.named_parameters())
    for run, one in enumerate(configs):
        alone = cls(task.d, task.d_y, [one.seed], **one.model.options)
        for name, value in alone.named_parameters():
            own[name][run] = with_heads(name, value, _heads(one), widest, one.model.options["head_width"])[0]


def tensors_of_run(model: PromptModel, configs: Sequence[RunConfig], run: int) -> dict[str, Tensor]:
    """Parameters of one run of an ensemble as the run alone has them, without the axis of runs, on the CPU."""
    config = configs[run]
    tensors = {name: value.detach()[run].cpu().clone() for name, value in model.named_parameters()}
    width = config.model.options.get("head_width")
    if not width:
        return tensors
    widest = max(_heads(one) for one in configs)
    return {
        name: with_heads(name, value.unsqueeze(0), widest, _heads(config), width)[0].clone().contiguous()
        for name, value in tensors.items()
    }


def _heads(config: RunConfig) -> int:
    return config.to_dict()["model"]["n_heads"]
