"""Ahn et al. and Mahankali et al.: the risk of the best single step, and trained linear attention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from iclens.estimators.estimator import build_estimator
from iclens.papers.related.linear_layer import step_matrix
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, log_ticks, new_figure
from iclens.recipes.lab_answers import answers_of, double_model, fresh_prompts, one_step, squared_error
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen
from iclens.recipes.table import Cell, Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.tasks.anisotropic import Anisotropic
from iclens.training.config import RunConfig

RISK = Claim(
    "For x ~ N(0, I) and w ~ N(0, I) the best single step has the rate 1/(n + d + 1 + σ²) and the excess risk "
    "d (d + 1 + σ²)/(n + d + 1 + σ²).",
    "derived for the setting of Mahankali et al. 2023",
    "derived",
)
TRAINED = Claim(
    "A trained layer of linear attention reaches the risk of the best single step.",
    "Ahn et al. 2023 and Mahankali et al. 2023 on the global minimum; whether training finds it is asked here",
    "asked",
)
PRECONDITIONER = Claim(
    "For x ~ N(0, Σ) without noise the trained layer's step is preconditioned by ((n + 1)/n Σ + (tr Σ/n) I)⁻¹.",
    "derived for the setting of Ahn et al. 2023",
    "derived",
)
FAR = Claim(
    "A single step is far from the best answer: ridge regression has a seventh of its risk or less.",
    "computed for n = 40, d = 5, σ² = 0.1 (0.6616 against 0.0146) and n = 40, d = 20, σ² = 1 (7.097 against 0.948)",
    "derived",
)

WIDTH = 0.1
"""Largest half-width of the interval of a measured risk, relative."""

TOLERANCE = 0.05
"""Of a trained layer's risk, on the same prompts, relative; a run beyond it has not reached the step."""

COSINE = 0.95
"""Least cosine between a trained layer and the nearest preconditioned step."""

RIDGE = 1 / 7
"""Largest risk of ridge regression relative to the step's."""


@dataclass(frozen=True)
class RiskSettings:
    """The cases, and how layers are trained."""

    cases: tuple[tuple[int, int, float, float], ...] = chosen(
        ((5, 20, 0.0, 0.0), (5, 40, 0.1, 0.0), (20, 20, 0.0, 0.0), (20, 40, 1.0, 0.0), (5, 20, 0.0, 1.0)),
        "(d, n, σ², decay): the eigenvalues of Σ fall as i^(−decay) and have mean 1",
    )
    steps: int = chosen(3000, "of Adam")
    batch: int = chosen(256)
    learning_rate: float = chosen(0.01, "cosine schedule")
    init_std: float = chosen(0.1)
    n_prompts: int = chosen(20000, "fresh prompts a seed")
    n_seeds: int = chosen(10)


@recipe("mahankali-ahn-risk")
class OneStepRisk(Recipe[RiskSettings]):
    """One layer of linear attention, trained on linear regression with Gaussian inputs, and the best single step.

    The excess risk is E(ŷ − wᵀx)² over fresh prompts in float64; of the trained layer, of the best step, of steps whose
    rate is a fifth smaller and larger, and of ridge regression with α = σ², all on the same prompts. The preconditioner
    M of ŷ = xᵀM Σ y_i x_i is read off the weights of each layer.
    """

    title = "The risk of one step, in closed form and trained"
    reference = "Ahn et al. 2023 (arXiv 2306.00297); Mahankali et al. 2023 (arXiv 2307.03576)"
    claims = (RISK, TRAINED, PRECONDITIONER, FAR)
    quick = Preset(
        RiskSettings(cases=((5, 20, 0.0, 0.0), (5, 40, 0.1, 0.0), (5, 20, 0.0, 1.0)), steps=1500, batch=128, n_seeds=5),
        seconds=50,
    )
    paper = Preset(RiskSettings(), seconds=720)

    def parts(self, settings: RiskSettings) -> list[Part]:
        """Return one part per case, with all its seeds."""
        return [{"d": d, "n": n, "noise_variance": noise, "decay": decay} for d, n, noise, decay in settings.cases]

    def measure(self, part: Part, settings: RiskSettings, progress: Progress) -> Table:
        """Excess risks, and the preconditioner of every layer."""
        case = int(part["d"] or 0), int(part["n"] or 0), float(part["noise_variance"] or 0), float(part["decay"] or 0)
        runs = train_all([_config(settings, case, seed) for seed in range(settings.n_seeds)], progress)
        d, n, noise, decay = case
        task = Anisotropic(d=d, decay=decay, rotated=False, noise_std=noise**0.5)
        best = task.preconditioner(n)
        rows: list[dict[str, Cell]] = []
        for run in runs:
            prompt = fresh_prompts(task, run.config.seed, settings.n_prompts, n)
            truth = task.values(prompt.query.unsqueeze(-2), prompt.function)[:, 0]
            model = double_model(run)
            matrix, cosine = step_matrix(model)
            # One plain step on queries that the preconditioner has turned is the preconditioned step.
            turned = type(prompt)(
                torch.cat([prompt.xs, (prompt.query @ best).unsqueeze(1)], 1), prompt.labels, prompt.function
            )
            step = one_step(turned)
            ridge = build_estimator("ridge", {"alpha": max(noise, 1e-12)}).predict(prompt)
            eye = torch.eye(d, dtype=best.dtype)
            matrix = n * matrix
            rows.append(
                {
                    "seed": run.config.seed,
                    "status": run.status,
                    "trained": squared_error(answers_of(model, prompt)[:, -1], truth),
                    "step": squared_error(step, truth),
                    "smaller": squared_error(0.8 * step, truth),
                    "larger": squared_error(1.2 * step, truth),
                    "ridge": squared_error(ridge, truth),
                    "expected": task.one_step_risk(n),
                    "cosine": cosine,
                    "off": float((matrix - best).norm() / best.norm()),
                    "off_isotropic": float((matrix - matrix.diagonal().mean() * eye).norm() / best.norm()),
                }
            )
        return Table(rows)

    def check(self, table: Table, settings: RiskSettings) -> list[Verdict]:
        """Measured risks against closed forms, trained layers against steps."""
        said: dict[str, list[str]] = {name: [] for name in ("risk", "trained", "matrix", "far")}
        good: dict[str, list[bool]] = {name: [] for name in said}
        missed: dict[str, list[str]] = {"trained": [], "matrix": []}
        for case in settings.cases:
            d, n, noise, decay = case
            rows = _rows(table, case).sorted_by("seed")
            step, name = rows.column("step"), _name(case)
            trained = rows.column("trained") / step
            reached = trained <= 1 + TOLERANCE
            count = f"{reached.sum()} of {len(rows)} runs reach the step"
            enough = 2 * reached.sum() > len(rows)
            if not reached.all():
                some = f"{reached.sum()} of {len(rows)} do where {name}"
                missed["matrix"] += [some] if decay else []
                missed["trained"].append(some)
            if decay == 0:
                found = over_seeds(torch.from_numpy(step), len(settings.cases))
                expected = d * (d + 1 + noise) / (n + d + 1 + noise)
                worse = [seed_mean(rows.column(other) - step) for other in ("smaller", "larger")]
                narrow = found.high - found.low <= 2 * WIDTH * expected
                within = found.low <= expected <= found.high
                good["risk"].append(within and narrow and min(one.low for one in worse) > 0)
                said["risk"].append(f"{name}: {found:.4f}, closed form {expected:.4f}")
            else:
                off, isotropic, cosine = (
                    seed_mean(rows.column(of)[reached]) for of in ("off", "off_isotropic", "cosine")
                )
                near = off.mean <= isotropic.low / 2 and off.mean <= 0.2 and cosine.low >= COSINE
                good["matrix"].append(enough and near)
                said["matrix"].append(
                    f"{name}: distance to the closed form {off:.3f}, to the nearest isotropic one {isotropic:.3f}, "
                    f"both relative; cosine of the layer with a step {cosine:.3f}; {count}"
                )
            ratio = seed_mean(trained[reached])
            good["trained"].append(enough and abs(ratio.mean - 1) <= TOLERANCE)
            rest = ", ".join(f"{one:.2f}" for one in trained[~reached])
            said["trained"].append(f"{name}: {ratio:.3f}, {count}" + (f", the others have {rest}" if rest else ""))
            if noise > 0:
                share = seed_mean(rows.column("ridge") / step)
                good["far"].append(share.high <= RIDGE)
                said["far"].append(f"{name}: ridge {rows.column('ridge').mean():.4f}, step {step.mean():.4f}")
        return [
            RISK.judged(
                bool(good["risk"]) and all(good["risk"]),
                "; ".join(said["risk"]),
                "the interval of the step's risk, made for all cases at once, contains the closed form, with a "
                f"half-width of at most {WIDTH:.0%}, and steps with a rate a fifth smaller or larger are worse, "
                "paired by seed",
            ),
            TRAINED.judged(
                all(good["trained"]),
                "risk of the trained layer over that of the best step: " + "; ".join(said["trained"]),
                f"in every case more than half of the runs have a ratio of at most {1 + TOLERANCE:g} on the same "
                f"prompts, and the mean of theirs is within {TOLERANCE:.0%} of 1",
                _condition(missed["trained"]),
            ),
            PRECONDITIONER.judged(
                all(good["matrix"]),
                "; ".join(said["matrix"]),
                "over the runs that reach the step, more than half of all, the distance to the closed form is at most "
                f"0.2 and half of that to the nearest isotropic one, and the cosine is at least {COSINE:g}",
                _condition(missed["matrix"]),
            )
            if good["matrix"]
            else PRECONDITIONER.untested("All cases have Σ = I."),
            FAR.judged(
                all(good["far"]),
                "; ".join(said["far"]),
                f"the interval of the ratio ends below {RIDGE:.3f} in every case",
            )
            if good["far"]
            else FAR.untested("No case has noise."),
        ]

    def plot(self, table: Table, settings: RiskSettings) -> Figure:
        """Left: excess risks of every case. Right: the trained layer's over the step's."""
        figure = new_figure(10.0, 4.2)
        left, right = figure.subplots(1, 2)
        places = range(len(settings.cases))
        marks = {"step": ("o", "best step"), "trained": ("s", "trained layer"), "ridge": ("^", "ridge regression")}
        for shift, (column, (mark, label)) in enumerate(marks.items()):
            found = [seed_mean(_rows(table, case).column(column)) for case in settings.cases]
            # Without noise ridge regression is exact once n ≥ d, and has no place on a logarithmic axis.
            shown = [(at, one) for at, one in zip(places, found, strict=True) if one.mean > 1e-6]
            left.errorbar(
                [at + 0.15 * (shift - 1) for at, _ in shown],
                [one.mean for _, one in shown],
                yerr=[
                    [max(one.mean - one.low, 0.0) for _, one in shown],
                    [max(one.high - one.mean, 0.0) for _, one in shown],
                ],
                fmt=mark,
                label=label,
            )
        expected = [_rows(table, case).column("expected")[0] for case in settings.cases]
        left.plot(places, expected, "_", color="0.5", ms=30, label="closed form")
        log_ticks(left.yaxis, [0.01, 0.1, 1.0, 10.0])
        left.set(ylabel="excess risk E(ŷ − wᵀx)²", ylim=(0.008, None))
        left.legend(fontsize="small")
        for at, case in enumerate(settings.cases):
            rows = _rows(table, case)
            ratios = rows.column("trained") / rows.column("step")
            right.plot(np.full(len(ratios), at), ratios, "s", color="C1", mfc="none")
        right.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.5", alpha=0.15, lw=0)
        right.axhline(1.0, color="0.5", linewidth=0.8)
        right.set(ylabel="risk of the trained layer / of the best step")
        for ax in (left, right):
            ax.set_xticks(places, [_name(case).replace(", ", "\n") for case in settings.cases], fontsize="x-small")
            ax.margins(x=0.15)
        return figure


def _rows(table: Table, case: tuple[int, int, float, float]) -> Table:
    d, n, noise, decay = case
    return table.where(d=d, n=n, noise_variance=noise, decay=decay)


def _condition(missed: list[str]) -> str:
    return f"the run reaches the step's risk, as {'; '.join(missed)}" if missed else ""


def _name(case: tuple[int, int, float, float]) -> str:
    d, n, noise, decay = case
    return f"n = {n}, d = {d}, σ² = {noise:g}" + (f", Σ ∝ i^−{decay:g}" if decay else "")


def _config(settings: RiskSettings, case: tuple[int, int, float, float], seed: int) -> RunConfig:
    d, n, noise, decay = case
    task = {"name": "anisotropic", "d": d, "decay": decay, "rotated": False, "noise_std": noise**0.5}
    return query_run(settings, seed, task, {"name": "linear-attention", "init_std": settings.init_std}, n_context=n)
