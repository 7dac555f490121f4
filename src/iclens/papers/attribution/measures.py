"""Which way to score demonstrations finds those that matter? Methods side by side, against a ground truth.

Every case is a prompt of which it is known which demonstrations matter. Each method scores the demonstrations; then

- *AUC*: probability that a demonstration that matters scores above one that does not (one number a prompt);
- *removed*: is the model still right after deleting the text of the |truth| highest-scored demonstrations? Low is good;
- *kept*: is it right with only those? High is good;
- *LDS*: Spearman correlation, over random subsets, of the summed scores with the margin of the really shortened prompt.

"Right" means that the answer is the likeliest token of the whole vocabulary. Means carry 95 % bootstrap intervals over
the prompts; differences of methods are paired by prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.intervals import Estimate, estimate
from iclens.lens import Lens, LensModel, Readout
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.scores.deletions import Outcome
from iclens.lens.scores.faithfulness import auc, lds, random_subsets, top
from iclens.lens.scores.method import ATTRIBUTIONS, Scores

METHODS = (
    "gradient_step",
    "path",
    "knock_out",
    "rerun",
    "influence",
    "influence_deletions",
    "factorial",
    "shares",
    "attention_weights",
    "attention_rollout",
    "gradient_x_input",
    "integrated_gradients",
    "captum_feature_ablation",
    "captum_shapley",
    "shapley_sampling",
    "lasso",
    "lasso_margin",
    "random",
)
"""The methods of the table, ours first."""

TRUTH = "truth"
"""The row that scores by the ground truth itself: what the measures can reach."""

MEASURES = ("auc", "removed", "kept", "lds")


@dataclass(frozen=True)
class Case:
    """A prompt of which it is known which demonstrations matter.

    Attributes:
        prompt: the prompt.
        margin: the explained margin.
        relevant: the demonstrations that matter.
        parts: demonstrations of a kind, by its name; for each kind one more AUC is measured, of these against the
            demonstrations that are in no kind and do not matter.
    """

    prompt: Prompt
    margin: Readout
    relevant: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What one method did on every case, in their order.

    Attributes:
        measures: for each of `MEASURES`, and for each kind of demonstration "AUC of <kind>", one number a case; NaN
            where undefined.
        forward_passes: mean number of full forward passes a prompt.
        backward_passes: the same of backward passes.
        seconds: median seconds a prompt.
    """

    measures: dict[str, Float[Tensor, " n_cases"]]
    forward_passes: float
    backward_passes: float
    seconds: float

    def of(self, measure: str) -> Estimate:
        """Mean and interval of one measure."""
        return estimate(self.measures[measure])

    def against(self, other: Measured, measure: str) -> Estimate:
        """Mean and interval of the paired difference, this method minus the other."""
        return estimate(self.measures[measure] - other.measures[measure])


@dataclass(frozen=True)
class Results:
    """The table of one study.

    Attributes:
        methods: what each method did, `TRUTH` last.
        accuracy: of the model on the whole prompts.
        n_subsets: random subsets a prompt behind LDS.
    """

    methods: dict[str, Measured]
    accuracy: Estimate
    n_subsets: int

    @property
    def n_cases(self) -> int:
        """How many prompts."""
        return self.accuracy.n


def run(
    lens_model: LensModel,
    cases: Sequence[Case],
    *,
    methods: Sequence[str] = METHODS,
    n_subsets: int = 32,
    seed: int = 0,
    most_tokens: int = 1 << 12,
    advance: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Results:
    """Score every case with every method and measure the scores.

    Args:
        lens_model: the model.
        cases: the prompts with their truths.
        methods: names in `ATTRIBUTIONS`.
        n_subsets: random subsets a prompt for LDS.
        seed: seed of the methods and of the subsets.
        most_tokens: tokens that go through the model at once where prompts run several times.
        advance: called after every case.
        clock: seconds; `time.process_time` gives those of the processor.

    Raises:
        UserError: no case, an unknown method, or one whose library is missing.
    """
    if not cases:
        raise UserError("there is no prompt to measure on: ask for at least 1.")
    scorers = {name: ATTRIBUTIONS[name] for name in dict.fromkeys(methods)}
    generator = torch.Generator().manual_seed(seed)
    # Libraries are imported and caches filled before anything is timed.
    for score in scorers.values():
        score(Lens(lens_model, cases[0].prompt, readout=cases[0].margin), torch.Generator().manual_seed(seed))
    rows: dict[str, list[_Row]] = {name: [] for name in (*scorers, TRUTH)}
    right = []
    for case in cases:
        scores, seconds = {}, {}
        for name, score in scorers.items():
            start = clock()
            # A lens of its own, so that no method is spared a pass that another one paid for.
            lens = Lens(lens_model, case.prompt, readout=case.margin, held=name == "path", most_tokens=most_tokens)
            scores[name] = score(lens, generator)
            seconds[name] = clock() - start
        truth = torch.zeros(lens.n_demonstrations, dtype=torch.float64)
        truth[list(case.relevant)] = 1.0
        scores[TRUTH] = Scores(truth, 0.0)
        measured, answered = measures_of(
            lens.deletions, truth.bool(), scores, random_subsets(generator, n_subsets, len(truth))
        )
        for name, row in measured.items():
            every = dict(zip(MEASURES, row, strict=True)) | _parts(case, truth.bool(), scores[name])
            rows[name].append(_Row(every, scores[name], seconds.get(name, 0.0)))
        right.append(answered)
        advance()
    return Results(
        {name: _gather(entries) for name, entries in rows.items()},
        estimate(torch.tensor(right, dtype=torch.float64)),
        n_subsets,
    )


@dataclass(frozen=True)
class _Row:
    measures: dict[str, float]
    scores: Scores
    seconds: float


def measures_of(
    deletions: Callable[[Tensor], Outcome], truth: Tensor, scores: dict[str, Scores], subsets: Tensor
) -> tuple[dict[str, tuple[float, ...]], float]:
    """`MEASURES` of every method on one case, and whether the model is right on the whole prompt."""
    k = int(truth.sum())
    tops = torch.stack([top(entry.values, k) for entry in scores.values()])
    asked = torch.cat([torch.ones(1, len(truth), dtype=torch.bool), subsets, ~tops, tops])
    # Methods that agree ask for the same prompts: each runs once.
    unique, place = asked.unique(dim=0, return_inverse=True)
    outcome = deletions(unique)
    margins, answered = outcome.margins.double()[place], outcome.answered.double()[place]
    n_subsets, n_methods = len(subsets), len(scores)
    of_subsets = margins[1 : 1 + n_subsets]
    removed, kept = answered[1 + n_subsets :].reshape(2, n_methods)
    measured: dict[str, tuple[float, ...]] = {}
    for i, (name, entry) in enumerate(scores.items()):
        correlation = lds(entry.values, subsets, of_subsets)
        measured[name] = (
            float(auc(entry.values, truth)),
            float(removed[i]),
            float(kept[i]),
            float("nan") if correlation is None else correlation,
        )
    return measured, float(answered[0])


def _parts(case: Case, truth: Tensor, scores: Scores) -> dict[str, float]:
    """AUC of each kind of demonstration against those of no kind that do not matter."""
    others = ~truth
    for members in case.parts.values():
        others[list(members)] = False
    found = {}
    for kind, members in case.parts.items():
        chosen = torch.zeros_like(truth)
        chosen[list(members)] = True
        judged = chosen | others
        found[f"AUC of {kind}"] = float(auc(scores.values[judged], chosen[judged]))
    return found


def _gather(rows: Sequence[_Row]) -> Measured:
    return Measured(
        measures={
            measure: torch.tensor([row.measures[measure] for row in rows], dtype=torch.float64)
            for measure in rows[0].measures
        },
        forward_passes=sum(row.scores.forward_passes for row in rows) / len(rows),
        backward_passes=sum(row.scores.backward_passes for row in rows) / len(rows),
        seconds=float(torch.tensor([row.seconds for row in rows], dtype=torch.float64).median()),
    )
