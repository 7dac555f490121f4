"""Attribution where the truth is known, on prompts of the bundled learner: how good each method is, and its cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iclens.benchmarks.case import Agreement, Cell, Comparison, Context, Listing, Side, Target, Verdict
from iclens.benchmarks.peers import missing
from iclens.lens import ATTRIBUTIONS, Lens, LensModel
from iclens.lens.passes import Passes
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.question import Question, ask

if TYPE_CHECKING:
    from iclens.papers.attribution.measures import Case, Measured

N_DEMONSTRATIONS = 12


def _prompts(n_prompts: int) -> tuple[LensModel, list[Case]]:
    from iclens.papers.attribution.studies import STUDIES, Setting

    setting = Setting("bundled", Path(), n_prompts, N_DEMONSTRATIONS, seed=0)
    return STUDIES["bundled"].make(setting, lambda done, total: None)


def one_batch(context: Context) -> Comparison:
    """Return the gradient step of 64 prompts, side by side, against the Lasso of 64 ablations of each."""
    learner, cases = _prompts(context.pick(4, 64))

    def questions() -> list[Question]:
        return [ask(learner, case.prompt, readout=case.margin) for case in cases]

    def one_by_one(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.stack(
            [ATTRIBUTIONS[name](Lens(learner, one, held=False), generator).values for one in questions()]
        )

    def check() -> Sequence[Agreement]:
        together, alone = side_by_side(learner, questions()), one_by_one("gradient_step")
        return [Agreement.of("gradient steps of prompts side by side and one at a time", together, alone, 1e-4)]

    return Comparison(
        f"scores of {N_DEMONSTRATIONS} demonstrations in {len(cases)} prompts of the bundled learner",
        Side("gradient step, prompts side by side", lambda: side_by_side(learner, questions())),
        Side("64 ablations and a Lasso (ContextCite's way), prompt by prompt", lambda: one_by_one("lasso")),
        check,
        targets=() if context.quick else (Target("speed-up", 30.0, "a thirtieth of its cost"),),
        most_pairs=5,
    )


def side_by_side(learner: LensModel, questions: Sequence[Question]) -> Tensor:
    """Return the gradient step's scores, (prompts, demonstrations)."""
    passes = Passes(learner, questions, held=False)
    return by_source(passes.gradient_step.by_token.cpu(), passes.groups, N_DEMONSTRATIONS)[:, :-1]


def quality(context: Context) -> Listing:
    """Cost beside AUC, removal test and LDS on prompts of the bundled learner."""
    from iclens.papers.attribution.measures import run

    learner, cases = _prompts(context.pick(8, 200))
    peers = ("captum_feature_ablation", "captum_shapley") if missing("captum") is None else ()
    results = run(
        learner,
        cases,
        methods=(*QUALITY, *peers),
        n_subsets=context.pick(8, 32),
        clock=time.process_time,
    )
    rows = [_quality_row(name, results.methods[name]) for name in (*QUALITY, *peers)]
    return Listing(
        f"quality beside cost: {results.n_cases} prompts of the bundled learner, {N_DEMONSTRATIONS} demonstrations; "
        "± is half the width of the 95 % interval",
        rows,
        () if context.quick else verdicts(results.methods["gradient_step"], results.methods["lasso"]),
    )


QUALITY = (
    "gradient_step",
    "knock_out",
    "path",
    "lasso",
    "shapley_sampling",
    "attention_weights",
    "rerun",
    "integrated_gradients",
)
"""Scores that are compared by quality and cost, ours first."""

_NAMES = {
    "gradient_step": "gradient step",
    "knock_out": "exact knock-out",
    "path": "path",
    "lasso": "Lasso of 64 ablations (ContextCite's way)",
    "shapley_sampling": "Shapley, 5 orders",
    "attention_weights": "attention weights",
    "rerun": "true leave-one-out",
    "integrated_gradients": "integrated gradients, 50 steps",
    "captum_feature_ablation": "Captum FeatureAblation",
    "captum_shapley": "Captum ShapleyValueSampling, 5 orders",
}

_MEASURES = {"auc": "AUC", "removed": "right, top removed", "kept": "right, only top", "lds": "LDS"}


def _quality_row(name: str, row: Measured) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        "method": _NAMES[name],
        "forward passes": row.forward_passes,
        "backward passes": row.backward_passes,
        "CPU ms": 1000 * row.seconds,
    }
    for measure, title in _MEASURES.items():
        found = row.of(measure)
        cells[title] = f"{found.mean:.3f} ± {(found.high - found.low) / 2:.3f}"
    return cells


def verdicts(ours: Measured, lasso: Measured) -> tuple[Verdict, ...]:
    """Return the gradient step against the Lasso: the interval excludes being worse by more than a margin."""
    from iclens.papers.attribution.verdicts import AUC_MARGIN, LDS_MARGIN, REMOVED_MARGIN

    auc, removed, lds = (ours.against(lasso, measure) for measure in ("auc", "removed", "lds"))
    # A backward pass costs two forward ones.
    passes = ours.forward_passes + 2 * ours.backward_passes
    return (
        Verdict(
            f"AUC is at most {AUC_MARGIN} below that of the Lasso of 64 ablations, with the interval",
            auc.low >= -AUC_MARGIN,
            f"difference {auc}",
        ),
        Verdict(
            f"right answers after removal are at most {REMOVED_MARGIN} more than the Lasso's, with the interval",
            removed.high <= REMOVED_MARGIN,
            f"difference {removed}",
        ),
        Verdict(
            f"LDS is at most {LDS_MARGIN} below the Lasso's, with the interval",
            lds.low >= -LDS_MARGIN,
            f"difference {lds}",
        ),
        Verdict(
            "at most a thirtieth of the Lasso's forward passes",
            passes <= lasso.forward_passes / 30,
            f"{passes:.0f} against {lasso.forward_passes:.0f}; prompt by prompt {lasso.seconds / ours.seconds:.1f} "
            "times less CPU time: a batch of ablations through a small learner costs little more than one pass",
        ),
    )
