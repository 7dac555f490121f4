"""He et al.: two softmax heads, trained on linear regression, become a debiased gradient step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iclens.estimators.estimator import build_estimator
from iclens.models.model import PromptModel
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
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
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.anisotropic import Anisotropic
from iclens.training.config import RunConfig

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
    "With d = 5, L = 40, σ² = 0.1 and weights from N(0, I/d) the squared error, noise included, is 0.2428 for two "
    "heads with ω = 0.1 and 0.403 for one; the best debiased gradient step has 0.2429, the best plain one 0.2398, "
    "Bayes 0.1146.",
    f"computed for the setting of {_SOURCE}; both steps in closed form",
    "derived",
)

COMPUTED = {"two heads": 0.2428, "one head": 0.403, "Bayes": 0.1146}
"""Computed for the setting of the claim; they belong to no other."""

ERROR = 0.02
"""How far the interval of a mean error may reach from the computed one, relative."""

COSINE = 0.95
"""Least cosine of a head's scores with ±⟨x_i, x⟩, and of its output with ±y."""

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
    n_prompts: int = chosen(20000, "fresh prompts a seed")
    n_seeds: int = chosen(20)


@recipe("he-debiased")
class DebiasedHeads(Recipe[HeadsSettings]):
    """One layer of one or two softmax heads on bare tokens (x, y), from random weights, on noisy linear regression.

    The prompts are y = wᵀx + σz with w ~ N(0, I/d). Trained in float32 and asked in float64. For small ω two heads with
    opposite signs give (2μω/L) Σ y_l ⟨x_l − x̄, x⟩, a gradient step with centred inputs. ω is the mean diagonal of a
    head's W_Q W_Kᵀ over the inputs, divided by the root of the head's width; μ is the weight with which it passes the
    label on. A run in which both heads have the same sign acts as one head. Errors are means of (ŷ − wᵀx)² + σ² over
    prompts of the run's own, the label's noise being known exactly; the references are measured on the same prompts.
    """

    title = "Two softmax heads become a debiased gradient step"
    reference = f"{_SOURCE} (arXiv 2503.12734)"
    claims = (SIGNS, ALGORITHM, ERRORS)
    quick = Preset(HeadsSettings(steps=2500, batch=128, n_seeds=8), seconds=65)
    paper = Preset(HeadsSettings(), seconds=500)
    revision = 2

    def parts(self, settings: HeadsSettings) -> list[Part]:
        """Return one part per number of heads, with all its seeds."""
        return [{"heads": 1}, {"heads": 2}]

    def measure(self, part: Part, settings: HeadsSettings, progress: Progress) -> Table:
        """Training curves, and every run beside both steps."""
        heads = int(part["heads"] or 0)
        runs = train_all([_config(settings, heads, seed) for seed in range(settings.n_seeds)], progress)
        noise = settings.noise_variance
        rows: list[dict[str, Cell]] = []
        for run in runs:
            seed, task = run.config.seed, run.config.make_task()
            rows += loss_rows(run, seed=seed)
            prompt = fresh_prompts(task, seed, settings.n_prompts, settings.n_context)
            truth = task.values(prompt.query.unsqueeze(-2), prompt.function)[:, 0]
            plain, debiased = one_step(prompt), one_step(prompt, debiased=True)
            if heads == 1:
                references = {
                    "plain step": nearest_rate(truth, plain) * plain,
                    "debiased step": nearest_rate(truth, debiased) * debiased,
                    "Bayes": build_estimator("ridge", {"alpha": noise * settings.d}).predict(prompt),
                }
                rows += [
                    {"seed": seed, "reference": name, "reference_error": squared_error(answers, truth) + noise}
                    for name, answers in references.items()
                ]
            model = double_model(run)
            answers = answers_of(model, prompt)[:, -1]
            rates = {"plain": nearest_rate(answers, plain), "debiased": nearest_rate(answers, debiased)}
            scale = float((rates["debiased"] * debiased).square().mean())
            found = of_heads(model, settings.d, heads)
            rows.append(
                {
                    "seed": seed,
                    "status": run.status,
                    "error": squared_error(answers, truth) + noise,
                    "rate": rates["debiased"],
                    "from_debiased": squared_error(answers, rates["debiased"] * debiased) / scale,
                    "from_plain": squared_error(answers, rates["plain"] * plain) / scale,
                    "weight_rate": float((found["omega"] * found["mu"]).sum()),
                }
                | {f"{name}_{place}": value for name, of in found.items() for place, value in enumerate(of.tolist())}
            )
        return Table(rows)

    def check(self, table: Table, settings: HeadsSettings) -> list[Verdict]:
        """Signs of the heads, distances to both steps, errors."""
        two, one = (table.where(heads=heads).only("error") for heads in (2, 1))
        found = _opposite(two)
        share = f"{len(found)} of {len(two)} runs"
        condition = "" if len(found) == len(two) else f"the heads end with opposite signs, as in {share}"
        if not len(found):
            none = "No run ended with heads of opposite signs."
            return [
                SIGNS.judged(False, share, "more than half of the runs end with heads of opposite signs"),
                ALGORITHM.untested(none),
                ERRORS.untested(none),
            ]
        omegas = np.abs(np.stack([found.column(name) for name in ("omega_0", "omega_1")]))
        mus = np.abs(np.stack([found.column(name) for name in ("mu_0", "mu_1")]))
        unlike = [float((np.abs(part[0] - part[1]) / part.mean(0)).max()) for part in (omegas, mus)]
        names = ("score_cosine_0", "score_cosine_1", "output_cosine_0", "output_cosine_1")
        cosine = min(float(found.column(name).min()) for name in names)
        near, far = seed_mean(found.column("from_debiased")), seed_mean(found.column("from_plain"))
        rate, weight_rate = seed_mean(found.column("rate")), seed_mean(found.column("weight_rate"))
        measured = {"two heads": seed_mean(found.column("error")), "one head": seed_mean(one.column("error"))}
        for name in ("debiased step", "plain step", "Bayes"):
            measured[name] = seed_mean(table.where(reference=name).column("reference_error"))
        expected = expected_errors(settings)
        within = [
            (1 - ERROR) * value <= measured[name].low and measured[name].high <= (1 + ERROR) * value
            for name, value in expected.items()
        ]
        return [
            SIGNS.judged(
                2 * len(found) > len(two) and max(unlike) <= 0.2 and cosine >= COSINE,
                f"{share}; there |ω| = {seed_mean(omegas.mean(0)):.3f} and |μ| = {seed_mean(mus.mean(0)):.3f}, the "
                f"two heads differ by at most {max(unlike):.1%}, and every head's scores and outputs have a cosine of "
                f"at least {cosine:.3f} with these",
                "more than half of the runs end with one head of positive ω and μ and one of negative ω and μ, where "
                "|ω| and |μ| of the two heads differ by at most 20 % and the cosines of scores with ±⟨x_i, x⟩ and of "
                f"outputs with ±y are at least {COSINE:g}",
                condition,
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
                all(within),
                ", ".join(f"{name} {found:.4f}" for name, found in measured.items()),
                f"every 95 % interval over seeds lies within {ERROR:.0%} of the computed error: "
                + ", ".join(f"{name} {value:.4f}" for name, value in expected.items()),
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
        kept = {row["seed"] for row in _opposite(ends.where(heads=2))}
        for label, rows in groups.items():
            curves = rows.only("loss")
            if label != "one head":
                curves = Table(row for row in curves if row["seed"] in kept)
            if len(curves):
                band(left, seed_curve(curves, "step", "loss"), label)
        for name, style in {"debiased step": "--", "plain step": ":", "Bayes": "-."}.items():
            level = table.where(reference=name).column("reference_error").mean()
            left.axhline(level, color="0.5", linestyle=style, label=name)
        log_ticks(left.yaxis, [0.1, 0.2, 0.4, 1.0])
        left.set(
            xlabel="step of the training", ylabel="training loss = squared error, noise included", ylim=(0.1, None)
        )
        left.legend(fontsize="small")
        two = ends.where(heads=2)
        other = Table(row for row in two if row["seed"] not in kept)
        for rows, marker, label in ((_opposite(two), "o", "opposite signs"), (other, "x", "other signs")):
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
def of_heads(model: PromptModel, d: int, n_heads: int) -> dict[str, torch.Tensor]:
    """Every head of a layer of softmax heads on bare tokens: `omega`, `mu`, and how much of the head they are.

    `score_cosine` is that of the scores of the query (x, 0) with all (x_i, y_i) as a form in both and ±⟨x_i, x⟩;
    `output_cosine` that of the label's part of the output, linear in (x_i, y_i), and ±y_i.
    """
    weights = dict(model.named_parameters())
    width = d + 1
    # (3, heads, token, head's width)
    queries, keys, values = weights["blocks.0.qkv.weight"][0].reshape(width, 3, n_heads, width).permute(1, 2, 0, 3)
    outputs = weights["blocks.0.out.weight"][0].reshape(n_heads, width, width)
    scores = (queries @ keys.mT)[:, :d] / width**0.5
    omega = scores[:, :, :d].diagonal(dim1=-2, dim2=-1).mean(-1)
    passed = (values @ outputs)[:, :, d]
    mu = passed[:, d]
    return {
        "omega": omega,
        "mu": mu,
        "score_cosine": d**0.5 * omega.abs() / scores.flatten(1).norm(dim=-1),
        "output_cosine": mu.abs() / passed.norm(dim=-1),
    }


def expected_errors(settings: HeadsSettings) -> dict[str, float]:
    """Return what the errors of the claim should be: both steps in closed form, the rest computed for its setting.

    With centred inputs the best step is that of L − 1 demonstrations: the scatter matrix has a degree of freedom less.
    """
    task = Anisotropic(
        d=settings.d, decay=0.0, rotated=False, weight_std=settings.d**-0.5, noise_std=settings.noise_variance**0.5
    )
    steps = {"debiased step": settings.n_context - 1, "plain step": settings.n_context}
    return {**COMPUTED, **{name: settings.noise_variance + task.one_step_risk(n) for name, n in steps.items()}}


def _opposite(two: Table) -> Table:
    """Return the runs of which one head has positive ω and μ, and the other negative ones."""
    return Table(
        row
        for row in two
        if {(float(row[f"omega_{at}"] or 0) > 0, float(row[f"mu_{at}"] or 0) > 0) for at in (0, 1)}
        == {(True, True), (False, False)}
    )


def _config(settings: HeadsSettings, heads: int, seed: int) -> RunConfig:
    spreads = {"noise_std": settings.noise_variance**0.5, "weight_std": settings.d**-0.5}
    model = {"name": "softmax-heads", "n_heads": heads, "init_std": settings.init_std}
    return query_run(settings, seed, {"name": "linear", "d": settings.d, **spreads}, model)
