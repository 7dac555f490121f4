"""Which demonstrations moved each of many answers: the lens on prompts side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from iclens.lens.many.answer import Asked, Said, answer_batch
from iclens.lens.many.held import BatchPath, path_batch
from iclens.lens.many.knock_out import knock_out_batch
from iclens.lens.many.trace import BatchTrace, Tokens, check_batch, direct
from iclens.lens.model.loading import LensModel
from iclens.lens.read.tolerance import TOLERANCE, path_residual, tolerance_of
from iclens.lens.scores.rerun import rerun


@dataclass(frozen=True)
class Explained:
    """What moved one prompt's answer; lists have one entry a demonstration.

    Attributes:
        asked: the prompt.
        said: the model's answer.
        margin: the explained margin, in nats.
        answer_log_probability: of the explained answer, over all its tokens, in nats.
        gradient_step: each demonstration's direct contribution, as in `DemonstrationEffect`.
        path: its contribution through all layers.
        knock_out: the change of the margin in its exact knock-out.
        knock_out_log_probability: the change of the answer's log-probability there.
        rerun: full margin minus the margin after deleting its text; None when not asked for.
        other_gradient_step: the direct contribution of all tokens of no demonstration.
        other_path: their contribution through all layers.
        residuals: `Explanation.residuals`' values, in the order of `RESIDUALS`.
        tolerance: the largest that is accepted.
    """

    asked: Asked
    said: Said
    margin: float
    answer_log_probability: float
    gradient_step: list[float]
    path: list[float]
    knock_out: list[float]
    knock_out_log_probability: list[float]
    rerun: list[float] | None
    other_gradient_step: float
    other_path: float
    residuals: tuple[float, ...]
    tolerance: float

    @property
    def exact(self) -> bool:
        """True when every residual is a number within the tolerance."""
        return all(value <= self.tolerance for value in self.residuals)


RESIDUALS = ("capture", "dual_models", "gradient_step", "path", "knock_out")
"""Names of the residuals: the pass against the model's own attention, the dual models against every layer's attention
output, direct contributions and path parts against the margin, the knock-out of nothing against the full pass."""


def explain_batch(
    lens_model: LensModel,
    asked: Sequence[Asked],
    *,
    rerun_text: bool = False,
    most_tokens: int = 1 << 12,
    between: Callable[[], None] = lambda: None,
) -> list[Explained]:
    """Explain many prompts, which go through the model side by side; each to rounding as `iclens.explain` would.

    Args:
        lens_model: a causal language model.
        asked: the prompts; the closer their lengths, the less is spent on filling up.
        rerun_text: also measure the true leave-one-out.
        most_tokens: tokens that go through the model at once where prompts are run several times.
        between: called between the passes; what it raises ends the work.
    """
    lens_model.require_causal()
    said, traced = answer_batch(lens_model, asked, most_tokens)
    terms = direct(traced)
    between()
    margins = traced.margins
    residual, attention_residual = terms.residuals(margins)
    whole = _path(lens_model, traced)
    between()
    capture = check_batch(traced)
    between()
    counts = [one.tokenized.n_demonstrations for one in asked]
    groups = _groups(asked, traced.tokens)
    knocked = knock_out_batch(traced, groups, counts, most_tokens)

    direct_by_token = terms.contributions.double().sum((0, 2)).cpu()
    path_by_token = whole.parts.double().cpu()
    groups = groups.cpu()
    most = max(counts)
    steps, paths = (_by_demonstration(values, groups, most) for values in (direct_by_token, path_by_token))
    path_residual = _path_residuals(traced, whole)
    residuals = torch.stack(
        [r.double().cpu() for r in (capture, attention_residual, residual, path_residual, knocked.residuals)], 1
    ).tolist()
    changes, log_changes = knocked.margin_changes.double().tolist(), knocked.log_probability_changes.double().tolist()
    values, logs = margins.double().tolist(), traced.log_probabilities.double().tolist()
    found = []
    for b, (one, words, n) in enumerate(zip(asked, said, counts, strict=True)):
        without = None
        if rerun_text:
            between()
            outcome = rerun(
                lens_model,
                one.tokenized.prompt,
                words.margin,
                [(i,) for i in range(n)],
                batch_size=max(1, min(16, most_tokens // one.longest)),
            )
            without = [values[b] - float(margin) for margin in outcome.margins]
        found.append(
            Explained(
                asked=one,
                said=words,
                margin=values[b],
                answer_log_probability=logs[b],
                gradient_step=steps[b, :n].tolist(),
                path=paths[b, :n].tolist(),
                knock_out=changes[b][:n],
                knock_out_log_probability=log_changes[b][:n],
                rerun=without,
                other_gradient_step=float(steps[b, most]),
                other_path=float(paths[b, most]),
                residuals=tuple(residuals[b]),
                tolerance=tolerance_of(lens_model.dtype),
            )
        )
    return found


def _groups(asked: Sequence[Asked], tokens: Tokens) -> Tensor:
    """The demonstration of every token, −1 for none."""
    groups = torch.full(tokens.ids.shape, -1)
    for row, one in zip(groups, asked, strict=True):
        row[: one.tokenized.n_tokens] = one.tokenized.groups
    return groups.to(tokens.ids.device)


def _by_demonstration(values: Tensor, groups: Tensor, most: int) -> Tensor:
    """Sums over each demonstration's tokens, and last over the tokens of none: (batch, most + 1)."""
    slots = torch.where(groups < 0, most, groups)
    return values.new_zeros(len(values), most + 1).scatter_add(1, slots, values)


def _path_residuals(traced: BatchTrace, whole: BatchPath) -> Tensor:
    """As in `explain`: against the margin of the traced pass."""
    margins, parts = traced.margins.double(), whole.parts.double().to(traced.margins.device)
    largest = traced.reading.largest(traced.logits).double().to(margins.device)
    return path_residual(parts.sum(1), margins, parts.abs().amax(1), largest, traced.lens_model.dtype)


def _path(lens_model: LensModel, traced: BatchTrace) -> BatchPath:
    """The paths; in float64 for the prompts where float32 leaves the sum near the tolerance, as in `explain`."""
    whole = path_batch(lens_model, traced.tokens, traced.reading)
    near = whole.residuals > TOLERANCE[torch.float32] / 10
    if not bool(near.any()) or not lens_model.can_be_doubled:
        return whole
    exact = path_batch(_in_double(lens_model), traced.tokens.some(near), traced.reading.some(near))
    parts = whole.parts.double()
    parts[near] = exact.parts.double()
    residuals = whole.residuals.clone()
    residuals[near] = exact.residuals
    return BatchPath(parts, residuals)


_COPIES: WeakKeyDictionary[Any, LensModel] = WeakKeyDictionary()


def _in_double(lens_model: LensModel) -> LensModel:
    """The copy in float64, made once a model."""
    if lens_model.model not in _COPIES:
        _COPIES[lens_model.model] = lens_model.in_double()
    return _COPIES[lens_model.model]
