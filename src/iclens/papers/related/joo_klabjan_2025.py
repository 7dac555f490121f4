"""Joo and Klabjan: how many of its demonstrations does a model use, against Bayes?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import build_estimator
from iclens.intervals import Estimate
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts
from iclens.recipes.lab_runs import lab_run, train_all
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen, require_counts
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.linear import Linear
from iclens.tasks.prompt_batch import PromptBatch
from iclens.training.config import RunConfig

_stated = partial(Claim, source="Joo and Klabjan 2025 (arXiv 2502.04580), abstract", trust="stated")
_asked = partial(Claim, source="a question on Joo and Klabjan 2025", trust="asked")

FEW = _stated("With few demonstrations a model is as efficient as the Bayes predictor.")
FALLS = _stated("With many demonstrations its efficiency is lower than with few.")
LONGER = _asked("In contexts longer than those of its training it is less efficient still.")
DEPTH = _asked("A deeper model is more efficient at the longest context of training.")

AS_GOOD = 0.9
"""Least efficiency that counts as that of the Bayes predictor."""


@dataclass(frozen=True)
class SampleSettings:
    """The task, which is simpler than the paper's, the models and their training."""

    d: int = chosen(8, "one class of functions, linear ones; the paper draws the class as well")
    noise_std: float = chosen(0.5, "σ, with weights N(0, I): ridge regression with α = 0.25 is the Bayes predictor")
    n_context: int = chosen(64)
    depths: tuple[int, ...] = chosen((2, 4), "layers of the models")
    n_heads: int = chosen(2)
    width: int = chosen(64)
    steps: int = chosen(50000, "of Adam")
    batch: int = chosen(64)
    learning_rate: float = chosen(1e-3, "cosine schedule")
    n_prompts: int = chosen(1000, "fresh prompts, twice as long as in training")
    n_seeds: int = chosen(5, "of weights and prompts together")

    def __post_init__(self) -> None:
        require_counts(self, "d", "n_context", "n_heads", "width", "steps", "batch", "n_prompts", "n_seeds")
        if not self.depths or min(self.depths) < 1:
            raise UserError(f"depths={list(self.depths)}: give at least one number of layers, each at least 1.")


@recipe("joo-klabjan-sample-size")
class EffectiveSampleSize(Recipe[SampleSettings]):
    """Small causal transformers on noisy linear regression, beside the Bayes predictor, which is ridge regression.

    The effective sample size n_eff(n) of a model after n demonstrations is the number of demonstrations after which the
    Bayes predictor has the model's risk, interpolated between whole numbers; its efficiency is n_eff(n)/n. Risks are
    means of (ŷ − f(x))², without the noise of the label, in float64. The Bayes risk is the mean trace of the posterior
    covariance, which no label enters; the model's is the Bayes risk plus the difference of both errors on the same
    prompts. Models have no positions, so that they read prompts longer than those of training.
    """

    title = "How many of its demonstrations a model uses, against Bayes"
    reference = "Joo and Klabjan 2025"
    claims = (FEW, FALLS, LONGER, DEPTH)
    quick = Preset(
        SampleSettings(
            d=2,
            n_context=12,
            depths=(1, 2),
            width=24,
            steps=600,
            batch=32,
            learning_rate=3e-3,
            n_prompts=300,
            n_seeds=3,
        ),
        seconds=25,
    )
    paper = Preset(SampleSettings(), seconds=40000)
    more: ClassVar[Mapping[str, Preset[SampleSettings]]] = {
        "short": Preset(
            SampleSettings(
                d=4, n_context=24, depths=(1, 2), width=32, steps=1500, batch=32, learning_rate=3e-3, n_seeds=3
            ),
            seconds=70,
        )
    }

    def parts(self, settings: SampleSettings) -> list[Part]:
        """Return one part per depth, with all its seeds."""
        return [{"layers": n_layers} for n_layers in settings.depths]

    def measure(self, part: Part, settings: SampleSettings, progress: Progress) -> Table:
        """Return the risks of every run and of Bayes, and the effective sample size, by demonstrations."""
        configs = [_config(settings, int(part["layers"] or 0), seed) for seed in range(settings.n_seeds)]
        task = Linear(d=settings.d, noise_std=settings.noise_std)
        rows: list[dict[str, Cell]] = []
        for run in train_all(configs, progress):
            seed = run.config.seed
            prompt = fresh_prompts(task, seed, settings.n_prompts, longest(settings))
            of_bayes = bayes_risks(prompt, settings.noise_std)
            risks = of_bayes[: 2 * settings.n_context + 1] + _excess(double_model(run), task, prompt, settings)
            sizes = effective_sizes(risks, of_bayes)
            rows += [
                {
                    "seed": seed,
                    "status": run.status,
                    "n": n,
                    "risk": float(risks[n]),
                    "bayes_risk": float(of_bayes[n]),
                    "size": sizes[n],
                    "efficiency": sizes[n] / n,
                }
                for n in range(1, 2 * settings.n_context + 1)
            ]
        return Table(rows)

    def check(self, table: Table, settings: SampleSettings) -> list[Verdict]:
        """Return the efficiency with few demonstrations, at the end of training's lengths and at twice that."""
        few, most = settings.d, settings.n_context
        deepest = settings.depths[-1]
        found = {(depth, n): _efficiencies(table, depth, n) for depth in settings.depths for n in (few, most, 2 * most)}

        def difference(one: tuple[int, int], other: tuple[int, int]) -> Estimate:
            return seed_mean(found[one] - found[other])

        at = {n: seed_mean(found[deepest, n]) for n in (few, most, 2 * most)}
        falls = difference((deepest, few), (deepest, most))
        longer = difference((deepest, most), (deepest, 2 * most))
        deeper = difference((deepest, most), (settings.depths[0], most))
        said = f"efficiency of {deepest} layers: " + ", ".join(f"{value:.2f} after {n}" for n, value in at.items())
        return [
            FEW.judged(
                at[few].low >= AS_GOOD,
                f"{said} demonstrations (d = {settings.d})",
                f"its interval after {few} demonstrations, as many as coordinates, lies above {AS_GOOD:g}",
            ),
            FALLS.judged(
                falls.low > 0,
                f"{said} demonstrations; after {few} minus after {most}: {falls:.2f}",
                "the interval of the difference, paired by seed, lies above 0",
            ),
            LONGER.judged(
                longer.low > 0,
                f"{said} demonstrations, trained on at most {most}; after {most} minus after {2 * most}: {longer:.2f}",
                "the interval of the difference, paired by seed, lies above 0",
            ),
            DEPTH.judged(
                deeper.low > 0,
                f"after {most} demonstrations: "
                + ", ".join(f"{_named(depth)} {seed_mean(found[depth, most]):.2f}" for depth in settings.depths)
                + f"; difference {deeper:.2f}",
                "the interval of the difference of the deepest and the shallowest, paired by seed, lies above 0",
            ),
        ]

    def plot(self, table: Table, settings: SampleSettings) -> Figure:
        """Return the risks and the efficiency against the number of demonstrations."""
        figure = new_figure(10.0, 4.0)
        left, right = figure.subplots(1, 2)
        for depth in settings.depths:
            rows, label = table.where(layers=depth), _named(depth)
            band(left, seed_curve(rows, "n", "risk"), label, least=1e-3)
            band(right, seed_curve(rows, "n", "efficiency"), label)
        bayes = seed_curve(table, "n", "bayes_risk")
        left.plot(bayes.x, bayes.mean, "--", color="0.5", label="Bayes")
        log_ticks(left.yaxis, [0.01, 0.03, 0.1, 0.3, 1, 3])
        left.set(xlabel="demonstrations", ylabel="(ŷ − f(x))²")
        right.axhline(1, color="0.5", linestyle="--", label="Bayes")
        right.set(xlabel="demonstrations", ylabel="effective sample size / demonstrations", ylim=(0, None))
        for ax in (left, right):
            ax.axvline(settings.n_context, color="0.5", linewidth=1, linestyle=":")
            ax.legend()
        return figure


def longest(settings: SampleSettings) -> int:
    """Return the demonstrations of fresh prompts: a quarter more than models are asked after, for Bayes alone."""
    return 2 * settings.n_context + settings.n_context // 2


def bayes_risks(prompt: PromptBatch, noise_std: float) -> Float[Tensor, " n_points"]:
    """Return E (ŷ − f(x))² of the Bayes predictor after 0, 1, … demonstrations, for w, x ~ N(0, I).

    It is the mean over prompts of tr(I + XᵀX/σ²)⁻¹, which falls with every demonstration of every prompt.
    """
    x = prompt.inputs
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    seen = torch.cat([torch.zeros_like(eye).expand(len(x), 1, -1, -1), x.unsqueeze(-1) * x.unsqueeze(-2)], 1)
    precision = eye + seen[:, :-1].cumsum(1) / noise_std**2
    return torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1).sum(-1).mean(0)


def effective_sizes(risks: Float[Tensor, " n"], of_bayes: Float[Tensor, " m"]) -> list[float]:
    """Return the number of demonstrations after which Bayes has each risk, linear between whole numbers in the log.

    A risk above that of no demonstration counts as 0, one below that of the most as the most.

    Args:
        risks: of a model.
        of_bayes: of the Bayes predictor after 0, 1, … demonstrations, falling.
    """
    # np.interp wants rising positions.
    levels = -of_bayes.log().numpy()
    asked = -risks.clamp_min(torch.finfo(risks.dtype).tiny).log().numpy()
    return np.interp(asked, levels, np.arange(len(levels))).tolist()


def _excess(model: torch.nn.Module, task: Linear, prompt: PromptBatch, settings: SampleSettings) -> Tensor:
    """Return the error of the model minus that of Bayes on the same prompts, without noise, by demonstrations."""
    some = slice(0, 2 * settings.n_context + 1)
    inputs, labels = prompt.inputs[:, some], prompt.labels[:, some]
    truth = task.values(inputs, prompt.function)
    bayes = build_estimator("ridge", {"alpha": settings.noise_std**2}).prefixes(inputs, labels)
    ours = answers_of(model, PromptBatch(inputs, labels, {}))  # type: ignore[arg-type]
    return ((ours - truth).square() - (bayes - truth).square()).mean((0, 2))


def _named(depth: int) -> str:
    return f"{depth} layer" + "s" * (depth > 1)


def _efficiencies(table: Table, depth: int, n: int) -> np.ndarray:
    return table.where(layers=depth, n=n).sorted_by("seed").column("efficiency")


def _config(settings: SampleSettings, n_layers: int, seed: int) -> RunConfig:
    sizes = {"n_layers": n_layers, "n_heads": settings.n_heads, "width": settings.width}
    model = {"name": "transformer", **sizes, "ffn_width": 2 * settings.width, "tokens": "pairs"}
    task = {"name": "linear", "d": settings.d, "noise_std": settings.noise_std}
    schedule = {"schedule": "cosine", "warmup": min(100, settings.steps), "clip": 1.0}
    return lab_run(settings, seed, task, model, **schedule)
