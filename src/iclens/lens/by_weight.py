"""What depends on the training weights of some prompts' demonstrations: influence, shares and pairs, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.placed import doubled
from iclens.lens.of_response import ResponseInfluence
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.weighted import Edges
from iclens.lens.scores.influence import HALF, Influence, influence, logits_at, where_it_shows
from iclens.lens.scores.pairs import N_CHECKS, N_VECTORS, Pairs, fit, weight_vectors
from iclens.lens.scores.shares import Shares, shares

if TYPE_CHECKING:
    from iclens.lens.passes import Passes


@dataclass(eq=False, repr=False)
class ByWeight:
    """Influence, shares and pairs of the prompts of some passes, which count what runs for them."""

    passes: Passes
    _influences: dict[tuple[tuple[float, ...] | None, bool], Influence] = field(default_factory=dict, init=False)
    _shares: dict[tuple[int, bool], Shares] = field(default_factory=dict, init=False)
    _nothing: dict[bool, Tensor] = field(default_factory=dict, init=False)
    _pairs: dict[tuple[int, int, int], tuple[Pairs, ...]] = field(default_factory=dict, init=False)

    def influence(
        self, weights: float | Float[Tensor, "batch n_sources"] | None = None, *, query_only: bool = False
    ) -> Influence:
        """Differentiate every margin with respect to the training weights of its demonstrations, at some weights.

        Args:
            weights: one for all demonstrations, or one for each; without them half, or less in a prompt whose answer is
                certain there, see `where_it_shows`.
            query_only: weight the edges from the query's tokens alone, not those from all later tokens.

        Raises:
            UserError: a weight that is not positive.
        """
        if isinstance(weights, float | int):
            weights = torch.full((len(self.passes.questions), self._most), float(weights)).double()
        key = (None if weights is None else tuple(weights.flatten().tolist()), query_only)
        if key not in self._influences:
            with self.passes.stage("influence"):
                if weights is None:
                    found = self._where_it_shows(query_only)
                else:
                    found = self._influence(weights, torch.arange(len(self.passes.questions)), query_only)
                self._influences[key] = found
        return self._influences[key]

    def shares(self, nodes: int | None = None, *, query_only: bool = False) -> Shares:
        """Divide every margin's change, from no demonstration to all, among the demonstrations' tokens.

        Args:
            nodes: how many weights the influence is integrated over, at most; those of the passes when None.
            query_only: as in `influence`.

        Raises:
            UserError: fewer than one node.
        """
        nodes = self.passes.nodes if nodes is None else nodes
        if (nodes, query_only) not in self._shares:
            with self.passes.stage("shares"):
                margins, without = self._margins, self._without(query_only)
                take = self._taking(query_only)
                self._shares[nodes, query_only] = shares(take, margins, without, self.passes.groups, nodes)
        return self._shares[nodes, query_only]

    def influences(self, weights: Float[Tensor, "m batch n_sources"]) -> Float[Tensor, "m batch n_sources"]:
        """∂M/∂w_i of every prompt at several weight vectors, side by side: a forward and a backward pass for each.

        All later edges carry the weights. A prompt with fewer sources than another leaves its last entries unused.

        Raises:
            UserError: a weight that is not positive.
        """
        return self._influences_at(weights)[0]

    def pairs(self, n_vectors: int = N_VECTORS, seed: int = 0, n_checks: int = N_CHECKS) -> tuple[Pairs, ...]:
        """How the influence of every prompt's demonstrations changes with the weight of the others.

        All later edges carry the weights, which count by the unit of `influence`. Random halves of the demonstrations
        are cut out for the check.

        Args:
            n_vectors: weight vectors at which the gradient is taken, in mirrored pairs.
            seed: of the vectors and of the halves.
            n_checks: random halves; without any the error of predictions is not known.

        Raises:
            UserError: too few vectors, or an odd number.
        """
        if (n_vectors, seed, n_checks) not in self._pairs:
            batch, generator = len(self.passes.questions), torch.Generator().manual_seed(seed)
            vectors = weight_vectors(batch, self._most, generator, n_vectors)
            kept = torch.rand(batch, n_checks, self._most, generator=generator) < 0.5
            unit = self.influence().unit[:, None]
            with self.passes.stage("pairs"):
                gradients, margins = self._influences_at(vectors * unit)
            gradients = gradients * unit
            checked = torch.empty(batch, 0)
            if n_checks:
                sets = [[tuple((~one[:n]).nonzero().flatten().tolist()) for one in own] for own, n in self._sizes(kept)]
                checked = doubled(self.passes.knock_out(sets, query_only=False).margins).cpu()
            self._pairs[n_vectors, seed, n_checks] = tuple(
                fit(vectors[:, b, :n], gradients[:, b, :n], margins[:, b], own[:, :n], checked[b])
                for b, (own, n) in enumerate(self._sizes(kept))
            )
        return self._pairs[n_vectors, seed, n_checks]

    def alone(self, b: int, weights: Float[Tensor, "1 n_sources"], query_only: bool) -> Influence:
        """Return the influence on one prompt's read-out where `influence` took it."""
        return self.influence(query_only=query_only)[b : b + 1]

    @cached_property
    def responses(self) -> ResponseInfluence:
        """The influence divided among the tokens and the statements of responses."""
        return ResponseInfluence(self)

    def _influence(self, weights: Tensor, chosen: Tensor, query_only: bool) -> Influence:
        """Return the influence on some of the prompts, by their numbers, at weights of their demonstrations."""
        every, asked = self.passes.asked
        here = chosen.to(every.ids.device)
        tokens, edges = every[here], self.edges(query_only)[here]
        # −1 of tokens in no demonstration finds the 1 in the last place.
        of_sources = nn.functional.pad(weights.double(), (0, 1), value=1.0)
        of_tokens = of_sources.gather(1, self.passes.groups[chosen] % of_sources.shape[1])
        self.passes.forward_passes += len(chosen) / len(self.passes.questions)
        self.passes.backward_passes += len(chosen) / len(self.passes.questions)
        at_once = max(len(self.passes.questions), self.passes.most_tokens // tokens.ids.shape[1])
        parts = []
        for some in (slice(first, first + at_once) for first in range(0, len(chosen), at_once)):
            readouts = asked[here[some]]
            parts.append(influence(self.passes.lens_model, tokens[some], readouts, edges[some], of_tokens[some]))
        return Influence.joined(parts)

    def _influences_at(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives (m, batch, n_sources) and margins (m, batch) at weight vectors."""
        prompts = torch.arange(len(self.passes.questions)).repeat(len(weights))
        found = self._influence(weights.flatten(0, 1), prompts, False)
        gradients = by_source(found.by_token, self.passes.groups[prompts], self._most)[:, :-1]
        return gradients.unflatten(0, weights.shape[:2]), found.margin.unflatten(0, weights.shape[:2])

    def _taking(self, query_only: bool) -> Callable[[Tensor, Tensor], Influence]:
        """The influence on some prompts when all demonstrations of each have one weight; at half weight taken once."""

        def take(weights: Tensor, chosen: Tensor) -> Influence:
            each = weights[:, None].expand(-1, self._most)
            if len(chosen) == len(self.passes.questions) and bool((weights == HALF).all()):
                key = (tuple(each.flatten().tolist()), query_only)
                if key not in self._influences:
                    self._influences[key] = self._influence(each, chosen, query_only)
                return self._influences[key]
            return self._influence(each, chosen, query_only)

        return take

    def _where_it_shows(self, query_only: bool) -> Influence:
        def strength(found: Influence, chosen: Tensor) -> Tensor:
            by_token = found.by_head.double().sum((1, 2))
            return by_source(by_token, self.passes.groups[chosen], self._most)[:, :-1].abs().sum(1)

        measures = self.passes.asked[1].measures[: len(self.passes.questions)].cpu()
        most = torch.where(measures > 0, torch.inf, self._margins.abs())
        take, without = self._taking(query_only), lambda: self._without(query_only)
        return where_it_shows(take, self._margins, without, strength, most)

    @property
    def _most(self) -> int:
        """Demonstrations of the prompt that has most."""
        return int(self.passes.groups.max()) + 1

    @property
    def _margins(self) -> Float[Tensor, " batch"]:
        return doubled(self.passes.traced.margins).cpu()

    def _without(self, query_only: bool) -> Float[Tensor, " batch"]:
        """Return the margins when no demonstration is trained on."""
        if query_only not in self._nothing:
            (tokens, readouts), edges = self.passes.asked, self.edges(query_only)
            weights = torch.where(edges.groups.cpu() >= 0, 0.0, 1.0)
            self.passes.forward_passes += 1
            logits = logits_at(self.passes.lens_model, tokens, readouts, edges, weights)
            self._nothing[query_only] = doubled(readouts.margin(logits)).cpu()
        return self._nothing[query_only]

    def edges(self, query_only: bool) -> Edges:
        """Which edges carry the weights: those of the query's tokens alone, or of all later ones."""
        starts = self.passes.asked[0].starts
        return Edges(self.passes.groups.to(starts.device), starts if query_only else torch.zeros_like(starts))

    def _sizes(self, kept: Tensor) -> Iterable[tuple[Tensor, int]]:
        return zip(kept, (one.tokenized.n_demonstrations for one in self.passes.questions), strict=True)
