"""One prompt with two responses: what makes the model write the one rather than the other.

log p(response | prompt) − log p(foil | prompt) reads two texts, the prompt with either response. They go through the
model side by side, and every number is that of the first text less that of the second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.lens.by_weight import ByWeight
from iclens.lens.facts import Cost
from iclens.lens.model.placed import doubled
from iclens.lens.passes import Passes
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.question import Answer
from iclens.lens.read.tracing import Trace
from iclens.lens.scores.deletions import Outcome
from iclens.lens.scores.gradient_step import GradientStep
from iclens.lens.scores.influence import Influence
from iclens.lens.scores.knock_out import KnockOuts
from iclens.lens.scores.path import PathScores


class Contrast(Passes):
    """The passes over a prompt with its response and over the same prompt with its foil, as those of one question."""

    @cached_property
    def pair(self) -> Passes:
        """The two texts as prompts of their own."""
        question = self.questions[0]
        assert question.foil is not None
        pair = Passes(self.lens_model, [question, question.foil], held=self.held, precise=self.precise)
        return replace(pair, nodes=self.nodes, most_tokens=self.most_tokens, progress=self.progress)

    @property
    def cost(self) -> Cost:
        """What ran so far, over both texts."""
        mine, theirs = super().cost, self.pair.cost
        names = dict.fromkeys([*theirs.seconds, *mine.seconds])
        seconds = {name: mine.seconds.get(name, 0.0) + theirs.seconds.get(name, 0.0) for name in names}
        forward, backward = 2 * theirs.forward_passes, 2 * theirs.backward_passes
        return Cost(mine.forward_passes + forward, mine.backward_passes + backward, seconds)

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """The response, whose margin is the difference."""
        first, second = self.pair.answers
        said = f"{first.definition.removesuffix('.')}, minus the l{second.definition.removeprefix('The l')}"
        return (replace(first, margin=first.margin - second.margin, definition=said),)

    @property
    def traced(self) -> Trace:
        """The pass over both texts."""
        return self.pair.traced

    def readout(self, prompt: int) -> Readout:
        """Return what is read of the response."""
        return self.pair.readout(0)

    @property
    def asked(self) -> tuple[PaddedTokens, Readouts]:
        """The tokens of both texts and what is read of them."""
        return self.pair.asked

    @property
    def groups(self) -> Int[Tensor, "1 n"]:
        """The source of every token; the responses' tokens are of none."""
        return self.pair.groups[:1]

    @property
    def outputs(self) -> Bool[Tensor, "1 n"]:
        """Which tokens show the output of their source."""
        return self.pair.outputs[:1]

    @cached_property
    def gradient_step(self) -> GradientStep:
        """The difference of the direct contributions; of answer tokens that of two tokens at one place."""
        return GradientStep(*map(_less, vars(self.pair.gradient_step).values()))

    @cached_property
    def path(self) -> PathScores:
        """The difference of the shares through all layers."""
        whole = self.pair.path
        parts = {name: _less(value) for name, value in vars(whole).items()}
        return PathScores(**(parts | {"residual": _worst(whole.residual)}))

    @cached_property
    def by_weight(self) -> ByWeight:
        """Influence, shares and pairs of the difference."""
        return _OfBoth(self)

    @property
    def own_pass(self) -> Float[Tensor, " 1"]:
        """How far the pass is from a plain one of the model, on the worse text."""
        return _worst(self.pair.own_pass)

    @property
    def dual_models_residuals(self) -> Float[Tensor, " 1"]:
        """How far dual models are from the attention modules' output, on the worse text."""
        return _worst(self.pair.dual_models_residuals)

    @property
    def gradient_step_residuals(self) -> Float[Tensor, " 1"]:
        """How far direct contributions and the rest are from the log-probability, on the worse text."""
        return _worst(self.pair.gradient_step_residuals)

    def path_residuals(self, whole: PathScores) -> Float[Tensor, " 1"]:
        """Return how far the parts of a path are from the log-probability, on the worse text."""
        return _worst(self.pair.path_residuals(self.pair.path))

    def knock_out(self, sets: Sequence[Sequence[Sequence[int]]], *, query_only: bool = True) -> KnockOuts:
        """Knock out sets of sources; log-probabilities are the response's."""
        found = self.pair.knock_out([*sets, *sets], query_only=query_only)
        return KnockOuts(
            _less(found.margins),
            found.log_probabilities[:1],
            _less(found.margin),
            found.log_probability[:1],
            _worst(found.residual),
        )

    def rerun(self, prompt: int, sets: Sequence[Iterable[int]], sources: Prompt | None = None) -> Outcome:
        """Run both texts again without each set of sources; log-probabilities are the response's."""
        chosen = [tuple(one) for one in sets]
        first, second = (self.pair.rerun(b, chosen, sources) for b in (0, 1))
        return first._replace(margins=first.margins - second.margins)

    def tolerances(self, residuals: Mapping[str, Float[Tensor, " 1"]]) -> dict[str, list[float]]:
        """Return the largest residual accepted as exact in either text."""
        both = self.pair.tolerances({key: one.expand(2) for key, one in residuals.items()})
        return {key: [max(limits)] for key, limits in both.items()}


@dataclass(eq=False, repr=False)
class _OfBoth(ByWeight):
    """What depends on training weights, of the difference."""

    inner: ByWeight = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.passes, Contrast)
        self.inner = self.passes.pair.by_weight

    def _influence(self, weights: Tensor, chosen: Tensor, query_only: bool) -> Influence:
        both = torch.cat([torch.zeros_like(chosen), torch.ones_like(chosen)])
        found = self.inner._influence(weights.repeat(2, 1), both, query_only)
        first, second = (Influence(*part) for part in zip(*(x.chunk(2) for x in vars(found).values()), strict=True))
        residual = torch.maximum(first.residual, second.residual)
        return replace(
            first, by_head=first.by_head - second.by_head, margin=first.margin - second.margin, residual=residual
        )

    def alone(self, b: int, weights: Tensor, query_only: bool) -> Influence:
        return self.inner._influence(weights, torch.tensor([b]), query_only)

    @property
    def _margins(self) -> Tensor:
        return _less(doubled(self.passes.traced.margins).cpu())

    def _without(self, query_only: bool) -> Tensor:
        return _less(self.inner._without(query_only))


def _less(both: Tensor) -> Tensor:
    return both[:1] - both[1:]


def _worst(both: Tensor) -> Tensor:
    return both.amax(0, keepdim=True)
