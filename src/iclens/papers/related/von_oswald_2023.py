"""Does training find von Oswald et al.'s construction? One linear self-attention layer, trained in the lab."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.estimators.estimator import build_estimator
from iclens.matching.distances import alignment, sensitivity
from iclens.matching.predictor import of_estimator, of_model
from iclens.models.model import PromptModel
from iclens.papers.related.linear_attention_step import best_step
from iclens.papers.related.linear_layer import step_tensor, symmetric_tensor
from iclens.recipes.contract import Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.lab_answers import (
    answers_of,
    double_model,
    fresh_prompts,
    loss_rows,
    nearest_rate,
    one_step,
    squared_error,
)
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import seed_curve, seed_estimate
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training.config import RunConfig

_SOURCE = "von Oswald et al. 2023 give the construction; whether training finds it is asked here"

RISK = Claim(
    "A trained layer reaches the squared error of the best single gradient step, 1.6498 with x ~ U(−1, 1) and "
    "N = d = 10.",
    "closed form for the setting of von Oswald et al. 2023; the comparison is ours",
    "derived",
)
PREDICTIONS = Claim("A trained layer predicts what one gradient step predicts.", _SOURCE, "asked")
SENSITIVITY = Claim("Its prediction moves with the query as that of one gradient step does.", _SOURCE, "asked")
WEIGHTS = Claim("Its weights are those of the construction, with the best learning rate.", _SOURCE, "asked")

TOLERANCE = 0.03
"""Of the risk, of the predictions and of the learning rate, each relative."""

COSINE = 0.99
"""Least cosine of sensitivities and of weights."""

_A = 1.0
"""Inputs are uniform on (−1, 1)."""


@dataclass(frozen=True)
class TrainedStepSettings:
    """The prompts, and how a layer is trained."""

    n_context: int = stated(10, "N = n_I = 10, noiseless")
    d: int = stated(10, "n_I")
    query_in_keys: bool = stated(False, "the query is not among the keys")
    steps: int = chosen(6000, "of Adam; the paper's training is not known to us")
    batch: int = chosen(512)
    learning_rate: float = chosen(0.01, "cosine schedule")
    init_std: float = chosen(0.1)
    n_prompts: int = chosen(20000, "fresh prompts a seed, for the risk")
    n_sensitivities: int = chosen(1000, "of them for the sensitivities")
    n_seeds: int = chosen(10)


@recipe("von-oswald-trained")
class TrainedStep(Recipe[TrainedStepSettings]):
    """One layer of linear self-attention on tokens (x, y), from random weights, on noiseless linear regression.

    Trained in float32, compared in float64 on fresh prompts with one gradient step from W = 0 at the best learning
    rate: predictions, sensitivities ∂ŷ/∂x at the query, and weights. The layer computes Σ_abc T_abc x_a e_b e_c with
    e = (x_i, y_i) summed over demonstrations, so weights are compared as T, symmetric in b and c, with that of the
    construction. What the answer does not depend on, such as the query's label, is so left out.
    """

    title = "Trained linear attention finds the gradient step"
    reference = "von Oswald et al. 2023 (arXiv 2212.07677)"
    claims = (RISK, PREDICTIONS, SENSITIVITY, WEIGHTS)
    quick = Preset(TrainedStepSettings(steps=1500, batch=256, n_seeds=5), seconds=12)
    paper = Preset(TrainedStepSettings(), seconds=180)

    def measure(self, part: object, settings: TrainedStepSettings, progress: Progress) -> Table:
        """Training curves, and every layer beside the best step."""
        runs = train_all([_config(settings, seed) for seed in range(settings.n_seeds)], progress)
        best, _ = best_step(settings.n_context, settings.d, _A)
        rows: list[dict[str, Cell]] = []
        for seed, run in enumerate(runs):
            rows += loss_rows(run, seed=seed)
            prompt = fresh_prompts(run.config.make_task(), seed, settings.n_prompts, settings.n_context)
            model, unit = double_model(run), one_step(prompt)
            answers = answers_of(model, prompt)[:, -1]
            step = best * unit
            eta, cosine = of_weights(model, settings.n_context)
            rows.append(
                {
                    "seed": seed,
                    "status": run.status,
                    "risk": squared_error(answers, prompt.target),
                    "step_risk": squared_error(step, prompt.target),
                    "spd": squared_error(answers, step) / float(step.square().mean()),
                    "eta": nearest_rate(answers, unit),
                    "alignment": _alignment(model, prompt, settings.n_sensitivities),
                    "weight_eta": eta,
                    "weight_cosine": cosine,
                }
            )
        return Table(rows)

    def check(self, table: Table, settings: TrainedStepSettings) -> list[Verdict]:
        """Risks, predictions, sensitivities and weights against the best step."""
        ends = table.only("risk")
        best, expected = best_step(settings.n_context, settings.d, _A)
        ratio = ends.column("risk").mean() / ends.column("step_risk").mean()
        step = seed_estimate(ends, "step_risk")
        spd = seed_estimate(ends, "spd")
        cosine, pattern = seed_estimate(ends, "alignment"), seed_estimate(ends, "weight_cosine")
        eta = seed_estimate(ends, "weight_eta")
        return [
            RISK.judged(
                abs(ratio - 1) <= TOLERANCE and step.agrees(expected),
                f"risk {seed_estimate(ends, 'risk'):.4f}, the best step on the same prompts "
                f"{step:.4f}, closed form {expected:.4f}: a ratio of {ratio:.4f}",
                f"the ratio of the mean risks on the same prompts is within {TOLERANCE:.0%} of 1, and the closed form "
                "within twice the 95 % interval of the step's",
            ),
            PREDICTIONS.judged(
                spd.high <= TOLERANCE,
                f"E (difference)² / E (step)² = {spd:.4f}; nearest η = {seed_estimate(ends, 'eta'):.3f}, "
                f"best {best:.3f}",
                f"the interval of the relative squared difference ends below {TOLERANCE}",
            ),
            SENSITIVITY.judged(
                cosine.low >= COSINE,
                f"mean cosine {cosine:.4f}",
                f"the interval of the mean cosine begins above {COSINE}",
            ),
            WEIGHTS.judged(
                pattern.low >= COSINE and abs(eta.mean / best - 1) <= TOLERANCE,
                f"cosine with the construction {pattern:.4f}; η read off the weights {eta:.3f}, best {best:.3f}",
                f"the interval of the cosine begins above {COSINE}, and the mean η is within {TOLERANCE:.0%} of the "
                "best",
            ),
        ]

    def plot(self, table: Table, settings: TrainedStepSettings) -> Figure:
        """Left: training curves. Right: the rate read off the weights and the risk of every seed."""
        figure = new_figure(9.0, 3.8)
        left, right = figure.subplots(1, 2)
        best, expected = best_step(settings.n_context, settings.d, _A)
        band(left, seed_curve(table.only("loss"), "step", "loss"), "trained layer")
        left.axhline(expected, color="C1", linestyle="--", label=f"best gradient step, {expected:.4f}")
        left.axhline(settings.d * _A**2 / 3, color="0.5", linestyle=":", label="answer 0")
        left.set(xlabel="step of the training", ylabel="training loss = squared error", ylim=(0, None))
        left.legend()
        ends = table.only("risk")
        ratios = ends.column("risk") / ends.column("step_risk")
        right.plot(ends.column("weight_eta"), ratios, "o", label="trained layers, one a seed")
        right.plot([best], [1.0], "*", color="C1", ms=13, label="best step")
        rates = torch.linspace(0.9 * best, 1.1 * best, 41, dtype=torch.float64)
        # The risk is quadratic in η: E y² at η = 0, least at the best rate.
        of_zero = settings.d * _A**2 / 3 / expected
        right.plot(rates, 1 + (of_zero - 1) * (rates / best - 1).square(), color="C1", label="steps of other rates")
        right.set(xlabel="learning rate η read off the weights", ylabel="squared error / that of the best step")
        right.legend(fontsize="small")
        return figure


def of_weights(model: PromptModel, n_context: int) -> tuple[float, float]:
    """Return the learning rate that the weights of a layer amount to, and the cosine with the construction.

    The construction is ŷ = (η/N) Σ_i y_i ⟨x_i, x⟩.
    """
    tensor = symmetric_tensor(model)
    pattern = step_tensor(torch.eye(model.d, dtype=tensor.dtype))
    inner = (tensor * pattern).sum()
    return float(n_context * inner / pattern.square().sum()), float(inner / (tensor.norm() * pattern.norm()))


def _alignment(model: PromptModel, prompt: PromptBatch, n: int) -> float:
    some = PromptBatch(prompt.inputs[:n], prompt.labels[:n], {})
    # The direction of a step's sensitivity does not depend on its rate.
    step = of_estimator(build_estimator("gradient-descent", {"n_steps": 1}))
    return float(alignment(sensitivity(of_model(model), some), sensitivity(step, some)).nanmean())


def _config(settings: TrainedStepSettings, seed: int) -> RunConfig:
    task = {"name": "linear", "d": settings.d, "inputs": "uniform", "input_scale": _A}
    heads = {"query_in_keys": settings.query_in_keys, "init_std": settings.init_std}
    return query_run(settings, seed, task, {"name": "linear-attention", **heads})
