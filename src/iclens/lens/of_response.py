"""The influence on a response, divided among its tokens and its statements, each once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.tangents import cheaper, influence_on_parts, token_influence

if TYPE_CHECKING:
    from iclens.lens.by_weight import ByWeight


@dataclass(frozen=True)
class OfTokens:
    """What each source does to each token of a response, where the influence was taken.

    Attributes:
        influence: ∂ log p_t / ∂w_i, per the influence's unit.
        residual: how far the sum over the tokens that are read is from the influence on what is read of them, relative
            to the largest sum of the absolute values that either adds up.
        fallback: why a backward pass was taken for each token, where forward derivatives should have been; or empty.
    """

    influence: Float[Tensor, "n_tokens n_sources"]
    residual: float
    fallback: str


@dataclass(frozen=True)
class OfStatements:
    """What each token of a prompt does to each statement of a response, where the influence was taken.

    Attributes:
        influence: ∂ Σ_t log p_t / ∂w of each token, were its weight its own, per the influence's unit.
        residual: how far their sum is from the influence on the response, as in `OfTokens`.
    """

    influence: Float[Tensor, "n_statements n"]
    residual: float


@dataclass(frozen=True)
class _Given:
    """A prompt with its response as it goes through the model, at the weights where its influence was taken."""

    tokens: PaddedTokens
    readouts: Readouts
    edges: Edges
    weights: Float[Tensor, "1 n"]
    of_sources: Float[Tensor, " n_sources"]

    @property
    def n_sources(self) -> int:
        return len(self.of_sources)

    @property
    def groups(self) -> Tensor:
        return self.edges.groups[0].cpu()


@dataclass(eq=False, repr=False)
class ResponseInfluence:
    """The influence on prompts' responses in parts, whose passes are counted where the influence's are."""

    by_weight: ByWeight
    _tokens: dict[tuple[int, bool], OfTokens] = field(default_factory=dict, init=False)
    _statements: dict[tuple[int, bool], OfStatements] = field(default_factory=dict, init=False)

    def of_tokens(self, b: int, *, query_only: bool = False) -> OfTokens:
        """Divide one prompt's influence among the tokens of its response, which must be given."""
        if (b, query_only) not in self._tokens:
            given, passes = self._given(b, query_only), self.by_weight.passes
            model, n_read = passes.lens_model, given.readouts.term_rows.shape[1]
            _, cost = cheaper(model, given.edges, given.n_sources, n_read)
            with passes.stage("influence on every token", f"about {cost:.0f} passes"):
                found = token_influence(
                    model, given.tokens, given.readouts, given.edges, given.weights, given.n_sources
                )
            self._count(*found.cost)
            response = passes.questions[b].response
            assert response is not None
            read = slice(response.first, response.last)
            # Of the logit of p, the derivative is that of log p over 1 − p.
            rest = -float(torch.expm1(found.log_probabilities[read].sum())) if response.measure == "logit" else 1.0
            residual = self._off(b, query_only, found.by_source[read] / rest)
            influence = found.by_source * (self._unit(b, query_only) / given.of_sources)
            self._tokens[b, query_only] = OfTokens(influence, residual, found.fallback)
        return self._tokens[b, query_only]

    def of_statements(self, b: int, *, query_only: bool = False) -> OfStatements:
        """Divide one prompt's influence among its tokens and the statements of its response; a backward pass for each.

        The prompt's question must have statements.
        """
        if (b, query_only) not in self._statements:
            given, passes = self._given(b, query_only), self.by_weight.passes
            parts = [(one.first, one.last) for one in passes.questions[b].statements]
            with passes.stage("influence on every statement", f"{len(parts)} backward passes"):
                by_token = influence_on_parts(
                    passes.lens_model, given.tokens, given.readouts, given.edges, given.weights, parts
                )
            self._count(1.0, float(len(parts)))
            residual = self._off(b, query_only, by_source(by_token, given.groups, given.n_sources)[:, :-1])
            influence = by_token * (self._unit(b, query_only) / given.weights.cpu().double())
            self._statements[b, query_only] = OfStatements(influence, residual)
        return self._statements[b, query_only]

    def _given(self, b: int, query_only: bool) -> _Given:
        passes, taken = self.by_weight.passes, self.by_weight.influence(query_only=query_only)
        question = passes.questions[b]
        response, tokenized = question.response, question.tokenized
        assert response is not None
        (every, _), n = passes.asked, tokenized.n_tokens + len(response.token_ids) - 1
        tokens = PaddedTokens(every.ids[b : b + 1, :n], every.lengths[b : b + 1], every.starts[b : b + 1])
        readouts = Readouts.of([response.readout], [tokenized.n_tokens - 1], passes.lens_model.index_device)
        groups, starts = passes.groups[b, :n], tokens.starts
        edges = Edges(groups[None].to(starts.device), starts if query_only else torch.zeros_like(starts))
        weights, n_sources = taken.weights[b : b + 1, :n], tokenized.n_demonstrations
        of_sources = torch.ones(n_sources).double().scatter(0, groups[groups >= 0], weights[0, groups >= 0].double())
        return _Given(tokens, readouts, edges, weights, of_sources)

    def _off(self, b: int, query_only: bool, parts: Float[Tensor, "n_parts n_sources"]) -> float:
        """Return how far parts are in sum from the influence, relative to the most that either adds up."""
        given = self._given(b, query_only)
        alone = self.by_weight.alone(b, given.of_sources[None], query_only)
        by_head = alone.by_head[0, ..., : len(given.groups)].double()
        expected, added = (
            by_source(one.sum((0, 1)), given.groups, given.n_sources)[:-1] for one in (by_head, by_head.abs())
        )
        # Heads nearly cancel: what they add up is rounded, not what is left.
        largest = torch.maximum(added, parts.abs().sum(0)).max().clamp_min(torch.finfo().tiny)
        return float((parts.sum(0) - expected).abs().max() / largest)

    def _unit(self, b: int, query_only: bool) -> float:
        return float(self.by_weight.influence(query_only=query_only).unit[b])

    def _count(self, forward: float, backward: float) -> None:
        passes = self.by_weight.passes
        passes.forward_passes += forward / len(passes.questions)
        passes.backward_passes += backward / len(passes.questions)
