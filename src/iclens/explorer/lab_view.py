"""The Lab view: a bundled regressor's curve beside those of estimators, and what each point does to its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from iclens.estimators.estimator import Estimator, build_estimator
from iclens.explorer.lab_ask import LARGEST_Y, LabAsk
from iclens.explorer.lab_recreate import python
from iclens.matching.pulls import point_pulls
from iclens.models.model import PromptModel
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training import regressors

N_GRID = 81
"""Points of every curve, evenly from −1 to 1."""

_DIGITS = 4
"""Decimals of the points that are drawn, so that links and code stay short."""

Features = Callable[[Tensor], Tensor]


@torch.no_grad()
def lab_view(ask: LabAsk) -> dict[str, Any]:
    """Curves on a grid of queries, the answers at the query, and each point's part in the model's answer.

    In float64, whatever the process's default is: other threads serve other views. `pull` is the point's part of the
    gradient steps of all heads, as `iclens.matching.pulls` splits the answer: pulls and `rest` sum to the answer
    but for `residual`. `left_out` is how much the answer changes when the model reads the other points only: answer
    with it − answer without it.
    """
    drawn = _drawn(ask.seed)
    pairs = ask.points or tuple(zip(drawn["x"][: ask.n], _noisy(drawn, ask), strict=True))
    ask = dataclasses.replace(ask, points=pairs)
    model = regressors.load_regressor(ask.attention)
    points = torch.tensor(pairs, dtype=torch.float64)
    grid = torch.linspace(-1.0, 1.0, N_GRID, dtype=torch.float64)
    queries = torch.cat([grid, grid.new_tensor([ask.query])])
    curves = {"model": model_curve(model, points, queries), **estimator_curves(ask, points, queries)}
    curves["function"] = _task().values(queries[:, None], drawn["function"])[:, 0]
    split = point_pulls(model, prompts(points, queries[-1:]))
    left_out = split.answer[0, 0] - _without_each(model, points, queries[-1])
    return {
        "settings": {**dataclasses.asdict(ask), "points": [list(pair) for pair in pairs]},
        "grid": grid.tolist(),
        "curves": {name: curve[:-1].tolist() for name, curve in curves.items()},
        "answers": {name: float(curve[-1]) for name, curve in curves.items()},
        "points": [
            {"x": x, "y": y, "pull": pull, "left_out": change}
            for (x, y), pull, change in zip(pairs, split.pulls[0, :, 0].tolist(), left_out.tolist(), strict=True)
        ],
        "rest": float(split.rest[0, 0]),
        "residual": float(split.residual[0, 0]),
        "drawn": {name: drawn[name] for name in ("x", "value", "noise")},
        "python": python(ask),
    }


def saved_lab(ask: LabAsk, model_facts: dict[str, Any]) -> dict[str, Any]:
    """The data of a saved page of this view."""
    return {"mode": "saved", "view": "lab", "model": model_facts, "lab": facts(), "lab_answer": lab_view(ask)}


@cache
def facts() -> dict[str, Any]:
    """What the page must know of the regressors before it asks."""
    recorded = regressors.recorded()
    task = _task()
    return {
        "most_points": regressors.MOST_POINTS,
        "largest_y": LARGEST_Y,
        "noise_std": task.noise_std,
        "weight_std": task.weight_std,
        "frequencies": [j * task.frequency for j in range(1, task.n_frequencies + 1)],
        "variants": {
            name: {"options": regressors.VARIANTS[name], **{key: one[key] for key in ("n_parameters", "error")}}
            for name, one in recorded["regressors"].items()
        },
        "ridge_error": recorded["ridge"],
        "defaults": {key: value for key, value in dataclasses.asdict(LabAsk()).items() if key != "points"},
    }


def prompts(points: Tensor, queries: Tensor) -> PromptBatch:
    """One prompt for each query: the same points, (n, 2), and that query."""
    several = points.expand(len(queries), *points.shape)
    inputs = torch.cat([several[..., :1], queries[:, None, None]], 1)
    labels = torch.cat([several[..., 1:], torch.zeros_like(queries)[:, None, None]], 1)
    return PromptBatch(inputs, labels, {})


def model_curve(model: PromptModel, points: Tensor, queries: Tensor) -> Tensor:
    """The model's answers to queries after the same points, in one pass."""
    prompt = prompts(points, queries)
    return model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0))[0, :, -1, 0]


def estimator_curves(ask: LabAsk, points: Tensor, queries: Tensor) -> dict[str, Tensor]:
    """The estimators' answers to the same queries."""
    features = features_of(ask.features)
    linear = {
        "ridge": build_estimator("ridge", {"alpha": ask.alpha, "features": features}),
        "least_squares": build_estimator("least-squares", {"features": features}),
        "gradient_descent": build_estimator(
            "gradient-descent",
            {"n_steps": ask.steps, "learning_rate": points.new_tensor(ask.rate), "features": features},
        ),
    }
    nearest = build_estimator("nearest-neighbours", {"n_neighbors": ask.neighbours})
    found = {name: _linear_curve(one, features, points, queries) for name, one in linear.items()}
    return found | {"nearest_neighbours": nearest.predict(prompts(points, queries))[:, 0]}


def features_of(name: str) -> Features:
    """φ of the linear estimators: the task's waves, or a line's (1, x)."""
    return _task().features if name == "waves" else line


def line(inputs: Tensor) -> Tensor:
    """(1, x)."""
    return torch.cat([torch.ones_like(inputs), inputs], -1)


def _linear_curve(estimator: Estimator, features: Features, points: Tensor, queries: Tensor) -> Tensor:
    """The answers of an estimator that is linear in φ, from its answers to the unit vectors of φ: a few queries."""
    plain = dataclasses.replace(estimator, features=None)  # type: ignore[type-var]
    rows = features(points[:, :1])
    width = rows.shape[-1]
    inputs = torch.cat([rows.expand(width, *rows.shape), torch.eye(width, dtype=rows.dtype).unsqueeze(1)], 1)
    labels = torch.cat([points[:, 1:], points.new_zeros(1, 1)]).expand(width, -1, -1)
    weights = plain.predict(PromptBatch(inputs, labels, {}))
    return (features(queries[:, None]) @ weights)[:, 0]


def _without_each(model: PromptModel, points: Tensor, query: Tensor) -> Tensor:
    """The model's answers when it reads all points but one, for every one."""
    n = len(points)
    others = torch.arange(n).expand(n, n)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
    inputs = torch.cat([points[others, :1], query.expand(n, 1, 1)], 1)
    labels = torch.cat([points[others, 1:], points.new_zeros(n, 1, 1)], 1)
    return model(inputs.unsqueeze(0), labels.unsqueeze(0))[0, :, -1, 0]


@cache
def _task() -> Any:
    return regressors.regressor_task()


def _drawn(seed: int) -> dict[str, Any]:
    """A function and as many points of it as a prompt can hold, with their noise in units of σ.

    The numbers that `task.sample` draws when the default dtype is float64.
    """
    task, n = _task(), regressors.MOST_POINTS
    generator = torch.Generator().manual_seed(seed)
    draw: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    x = 2 * torch.rand(n + 1, 1, **draw) - 1
    function = {"weight": task.weight_std * torch.randn(task.n_features, 1, **draw)}
    noise = torch.randn(n + 1, 1, **draw)
    return {
        "x": [round(one, _DIGITS) for one in x[:n, 0].tolist()],
        "value": task.values(x, function)[:n, 0].tolist(),
        "noise": noise[:n, 0].tolist(),
        "function": function,
    }


def _noisy(drawn: dict[str, Any], ask: LabAsk) -> list[float]:
    pairs = zip(drawn["value"][: ask.n], drawn["noise"], strict=False)
    return [round(max(-LARGEST_Y, min(LARGEST_Y, value + ask.noise * noise)), _DIGITS) for value, noise in pairs]
