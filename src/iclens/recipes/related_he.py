"""He et al.: two softmax heads, trained on linear regression, become a debiased gradient step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from iclens.estimators.estimator import build_estimator
from iclens.models.model import PromptModel
from iclens.recipes.figures import band, log_ticks, new_figure
from iclens.recipes.lab_runs import train_all
from iclens.recipes.recipe import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.related_runs import (
    answers_of,
    double_model,
    fresh_prompts,
    loss_rows,
    nearest_rate,
    one_step,
    squared_error,
)
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOURCE = "He et al. 2025"

SIGNS = Claim(
    "Training makes two softmax heads with scores ±ω⟨x_i, x⟩ and outputs ±μ y.",
    f"the heads are those of {_SOURCE}; whether training finds them is asked here",
    "asked",
)
ALGORITHM = Claim(
    "Two trained heads answer as a debiased gradient step with η = 2μω, and are nearer to it than to a plain one.",
    f"derived for heads with small ω, after {_SOURCE}",
    "derived",
)
ERRORS = Claim(
    "With d = 5, L = 40, σ² = 0.1 and weights from N(0, I/d) the squared error, noise included, is 0.2416 for two "
    "heads and 0.403 for one; debiased gradient descent has 0.2417, Bayes 0.1146.",
    f"computed for the setting of {_SOURCE}",
    "derived",
)

EXPECTED = {"two heads": 0.2416, "one head": 0.403, "debiased step": 0.2417, "plain step": 0.2387, "Bayes": 0.1146}
"""Computed for the setting of the claim; they belong to no other."""

ERROR = 0.02
"""Largest relative distance of a mean error from the computed one."""

UNEXPLAINED = 0.02
"""Largest squared difference to the debiased step, relative to the mean square of the step."""

RATE = 0.1
"""Largest relative distance between 2μω and the rate of the nearest debiased step."""


@dataclass(frozen=True)
class HeadsSettings:
    """The prompts and the training."""

    d: int = stated(5)
    n_context: int = stated(40, "L")
    noise_variance: float = stated(0.1, "σ²")
    steps: int = chosen(3000, "of Adam")
    batch: int = chosen(256)
    learning_rate: float = chosen(0.01, "cosine schedule")
    init_std: float = chosen(0.1)
    n_prompts: int = chosen(20000, "fresh prompts, the same for all runs")
    n_seeds: int = chosen(20)


@recipe("he-debiased")
class DebiasedHeads(Recipe[HeadsSettings]):
    """One layer of one or two softmax heads on bare tokens (x, y), from random weights, on noisy linear regression.

    The prompts are y = wᵀx + σz with w ~ N(0, I/d). Trained in float32 and asked in float64. For small ω two heads with
    opposite signs give (2μω/L) Σ y_l ⟨x_l − x̄, x⟩, a gradient step with centred inputs. ω is the mean diagonal of a
    head's W_Q W_Kᵀ over the inputs, divided by the root of the head's width; μ is the weight with which it passes the
    label on. A run in which both heads have the same sign acts as one head.
    """

    title = "Two softmax heads become a debiased gradient step"
    reference = f"{_SOURCE} (arXiv 2503.12734)"
    claims = (SIGNS, ALGORITHM, ERRORS)
    quick = Preset(HeadsSettings(steps=1500, batch=128, n_prompts=10000, n_seeds=5), seconds=35)
    paper = Preset(HeadsSettings(), seconds=500)

    def parts(self, settings: HeadsSettings) -> list[Part]:
        """One a number of heads, with all its seeds."""
        return [{"heads": 1}, {"heads": 2}]

    def measure(self, part: Part, settings: HeadsSettings, progress: Progress) -> Table:
        """Training curves, and every run beside both steps."""
        heads = int(part["heads"] or 0)
        runs = train_all([_config(settings, heads, seed) for seed in range(settings.n_seeds)], progress)
        prompt = fresh_prompts(runs[0].config.make_task(), 0, settings.n_prompts, settings.n_context)
        plain, debiased = one_step(prompt), one_step(prompt, debiased=True)
        bayes = build_estimator("ridge", {"alpha": settings.noise_variance * settings.d}).predict(prompt)
        rows: list[dict[str, Cell]] = []
        if heads == 1:
            references = {
                "plain step": nearest_rate(prompt.target, plain) * plain,
                "debiased step": nearest_rate(prompt.target, debiased) * debiased,
                "Bayes": bayes,
            }
            rows += [
                {"reference": name, "reference_error": squared_error(answers, prompt.target)}
                for name, answers in references.items()
            ]
        for run in runs:
            seed = run.config.seed
            rows += loss_rows(run, seed=seed)
            model = double_model(run)
            answers = answers_of(model, prompt)[:, -1]
            rates = {"plain": nearest_rate(answers, plain), "debiased": nearest_rate(answers, debiased)}
            scale = float((rates["debiased"] * debiased).square().mean())
            omegas, mus = of_heads(model, settings.d, heads)
            rows.append(
                {
                    "seed": seed,
                    "status": run.status,
                    "error": squared_error(answers, prompt.target),
                    "rate": rates["debiased"],
                    "from_debiased": squared_error(answers, rates["debiased"] * debiased) / scale,
                    "from_plain": squared_error(answers, rates["plain"] * plain) / scale,
                    "weight_rate": float((omegas * mus).sum()),
                    "opposite": bool(omegas.min() < 0 < omegas.max() and mus.min() < 0 < mus.max()),
                }
                | {f"omega_{place}": value for place, value in enumerate(omegas.tolist())}
                | {f"mu_{place}": value for place, value in enumerate(mus.tolist())}
            )
        return Table(rows)

    def check(self, table: Table, settings: HeadsSettings) -> list[Verdict]:
        """Signs of the heads, distances to both steps, errors."""
        two, one = (table.where(heads=heads).only("error") for heads in (2, 1))
        found = two.where(opposite=True)
        share = f"{len(found)} of {len(two)} runs"
        condition = "" if len(found) == len(two) else f"the heads end with opposite signs, as in {share}"
        if not len(found):
            none = "No run ended with heads of opposite signs."
            return [
                SIGNS.judged(False, share, "most runs end with heads of opposite signs"),
                ALGORITHM.untested(none),
                ERRORS.untested(none),
            ]
        omegas = np.abs(np.stack([found.column(name) for name in ("omega_0", "omega_1")]))
        mus = np.abs(np.stack([found.column(name) for name in ("mu_0", "mu_1")]))
        unlike = [float((np.abs(part[0] - part[1]) / part.mean(0)).max()) for part in (omegas, mus)]
        near, far = seed_mean(found.column("from_debiased")), seed_mean(found.column("from_plain"))
        rate, weight_rate = seed_mean(found.column("rate")), seed_mean(found.column("weight_rate"))
        references = table.only("reference")
        named = zip(references.cells("reference"), references.column("reference_error").tolist(), strict=True)
        errors = {str(name): value for name, value in named}
        of_two, of_one = seed_mean(found.column("error")), seed_mean(one.column("error"))
        measured = {"two heads": of_two.mean, "one head": of_one.mean, **errors}
        off = {name: measured[name] / value - 1 for name, value in EXPECTED.items()}
        return [
            SIGNS.judged(
                2 * len(found) > len(two) and max(unlike) <= 0.2,
                f"{share}; there |ω| = {seed_mean(omegas.mean(0)):.3f} and |μ| = {seed_mean(mus.mean(0)):.3f}, and the "
                f"two heads differ by at most {max(unlike):.1%}",
                "more than half of the runs end with opposite signs of ω and of μ, and there |ω| and |μ| of the two "
                "heads differ by at most 20 %",
                condition and f"it is one of {share}; in the others both heads have one sign",
            ),
            ALGORITHM.judged(
                near.high <= UNEXPLAINED and near.high < far.low and abs(weight_rate.mean / rate.mean - 1) <= RATE,
                f"squared difference to the nearest debiased step {near:.4f}, to the nearest plain one {far:.4f}, both "
                f"relative to the step; η = {rate:.3f}, from the weights {weight_rate:.3f}",
                f"the interval of the first ends below {UNEXPLAINED} and below that of the second, and the two rates "
                f"agree within {RATE:.0%}",
                condition,
            ),
            ERRORS.judged(
                max(map(abs, off.values())) <= ERROR,
                f"two heads {of_two:.4f}, one head {of_one:.4f}, "
                + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()),
                f"every mean is within {ERROR:.0%} of the computed one: "
                + ", ".join(f"{name} {value:g}" for name, value in EXPECTED.items()),
                condition,
            ),
        ]

    def plot(self, table: Table, settings: HeadsSettings) -> Figure:
        """Left: training curves with the errors of the references. Right: ω and μ of the two heads."""
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2)
        ends = table.only("error")
        groups = {
            "one head": table.where(heads=1),
            "two heads, opposite signs": table.where(heads=2),
        }
        for label, rows in groups.items():
            kept = {row["seed"] for row in ends.where(heads=2) if row["opposite"]}
            curves = rows.only("loss")
            if label != "one head":
                curves = Table(row for row in curves if row["seed"] in kept)
            if len(curves):
                curve = seed_curve(curves, "step", "loss")
                band(left, curve.x, curve.low, curve.mean, curve.high, label)
        styles = {"debiased step": "--", "plain step": ":", "Bayes": "-."}
        for row in table.only("reference"):
            name = str(row["reference"])
            left.axhline(float(row["reference_error"] or 0), color="0.5", linestyle=styles[name], label=name)
        log_ticks(left.yaxis, [0.1, 0.2, 0.4, 1.0])
        left.set(
            xlabel="step of the training", ylabel="training loss = squared error, noise included", ylim=(0.1, None)
        )
        left.legend(fontsize="small")
        two = ends.where(heads=2)
        for opposite, marker, label in ((True, "o", "opposite signs"), (False, "x", "same sign")):
            rows = two.where(opposite=opposite)
            if len(rows):
                x = np.concatenate([rows.column("omega_0"), rows.column("omega_1")])
                y = np.concatenate([rows.column("mu_0"), rows.column("mu_1")])
                right.plot(x, y, marker, label=f"heads of {len(rows)} runs, {label}")
        right.axhline(0, color="0.5", linewidth=0.8)
        right.axvline(0, color="0.5", linewidth=0.8)
        right.set(xlabel="ω: score of a head / ⟨x_i, x⟩", ylabel="μ: weight of the label in its output")
        right.legend(fontsize="small")
        return figure


@torch.no_grad()
def of_heads(model: PromptModel, d: int, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ω and μ of every head of a layer of softmax heads on bare tokens."""
    weights = dict(model.named_parameters())
    width = d + 1
    # (3, heads, token, head's width)
    queries, keys, values = weights["blocks.0.qkv.weight"][0].reshape(width, 3, n_heads, width).permute(1, 2, 0, 3)
    outputs = weights["blocks.0.out.weight"][0].reshape(n_heads, width, width)
    scores = (queries @ keys.mT)[:, :d, :d] / width**0.5
    return scores.diagonal(dim1=-2, dim2=-1).mean(-1), (values @ outputs)[:, d, d]


def _config(settings: HeadsSettings, heads: int, seed: int) -> RunConfig:
    return RunConfig.from_dict(
        {
            "seed": seed,
            "task": {
                "name": "linear",
                "d": settings.d,
                "noise_std": settings.noise_variance**0.5,
                "weight_std": settings.d**-0.5,
            },
            "model": {"name": "softmax-heads", "n_heads": heads, "init_std": settings.init_std},
            "training": {
                "steps": settings.steps,
                "batch": settings.batch,
                "n_context": settings.n_context,
                "loss": "query",
                "learning_rate": settings.learning_rate,
                "schedule": "cosine",
                "warmup": min(50, settings.steps),
                "clip": 1.0,
                "evaluate_every": 0,
                "evaluation_prompts": 16,
            },
        }
    )
