"""The scores of some passes, summed within the sources of every prompt; nothing runs that was not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from iclens.lens.facts import Completeness, KnockOut, PairEffects, SourceEffect, Taken
from iclens.lens.model.placed import doubled
from iclens.lens.of_response import OfTokens
from iclens.lens.passes import Passes
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.question import Answer
from iclens.lens.scores.influence import Influence
from iclens.lens.scores.knock_out import KnockOuts
from iclens.lens.scores.pairs import Pairs
from iclens.lens.scores.shares import COMPLETE, Shares

BY_WEIGHT = ("influence", "shares")
"""Scores with respect to training weights."""


@dataclass(frozen=True)
class Scored:
    """What every prompt's sources were scored with.

    Attributes:
        residuals: how far what was computed is from the model's own numbers, a number a prompt, by the check's name.
        by_token: additive scores, (batch, n), by name.
        maps: those that are known for each head, summed within sources, (batch, layers, heads, sources + 1).
        parts: additive scores summed within the input and the output of each source, (batch, sources, 2).
        influence, shares: where these were taken; None when they were not asked for.
        sets, knocked: what was knocked out, every source alone first if that is a score, and the outcome.
        removed: the margins without the text of each source, or None.
        pairs: how sources act together in each prompt, or None.
        of_tokens: what each source does to each token of a response; None for prompts without one, and where the
            influence or the matrix was not asked for.
        statements: what each source does to each statement of a response, (statements, sources); none likewise, and for
            a response that is one statement or is not read as a whole.
    """

    passes: Passes
    residuals: dict[str, Tensor]
    by_token: dict[str, Tensor]
    maps: dict[str, Tensor]
    parts: dict[str, Tensor]
    influence: Influence | None
    shares: Shares | None
    alone: bool
    sets: list[list[tuple[int, ...]]]
    knocked: KnockOuts | None
    removed: list[list[float]] | None
    pairs: tuple[Pairs, ...] | None
    of_tokens: tuple[OfTokens | None, ...]
    statements: tuple[Tensor, ...]

    def sources(self, b: int, answer: Answer, others: Mapping[str, Sequence[float]]) -> tuple[SourceEffect, ...]:
        """Return the effects of one prompt's sources; `others` are the scores of further methods."""
        tokenized = self.passes.questions[b].tokenized
        prompt, groups = tokenized.prompt, tokenized.groups
        sums = {name: values[b].sum(1).tolist() for name, values in self.parts.items()}
        outputs = {name: values[b, :, 1].tolist() for name, values in self.parts.items()}
        shown = by_source(tokenized.in_output.double(), groups, tokenized.n_demonstrations).bool().tolist()
        sizes = by_source(torch.ones(len(groups)), groups, tokenized.n_demonstrations).int().tolist()
        own = self.knock_outs(b, answer) if self.alone else ()

        def split(i: int, name: str) -> tuple[tuple[float, ...], ...]:
            return tuple(map(tuple, self.maps[name][b, ..., i].tolist())) if name in self.maps else ()

        return tuple(
            SourceEffect(
                index=i,
                text=span.of(prompt.text),
                label=prompt.labels[i],
                n_tokens=sizes[i],
                gradient_step=sums["gradient_step"][i] if "gradient_step" in sums else None,
                path=sums["path"][i] if "path" in sums else None,
                knock_out=own[i] if own else None,
                rerun_margin_change=None if self.removed is None else answer.margin - self.removed[b][i],
                by_layer_and_head=split(i, "gradient_step"),
                scores={name: sums[name][i] for name in BY_WEIGHT if name in sums}
                | {name: float(values[i]) for name, values in others.items()},
                maps={name: split(i, name) for name in BY_WEIGHT if name in sums},
                of_output={name: values[i] for name, values in outputs.items()} if shown[i] else {},
                name=str(called),
                kind=called.kind,
                id=called.id,
            )
            for i, (span, called) in enumerate(zip(prompt.sources, prompt.source_names, strict=True))
        )

    def knock_outs(self, b: int, answer: Answer) -> tuple[KnockOut, ...]:
        """Return what every set of one prompt's sources changes."""
        if self.knocked is None:
            return ()
        own = self.knocked[b]
        margins, log_ps = doubled(own.margins).tolist(), doubled(own.log_probabilities).tolist()
        return tuple(
            KnockOut(chosen, margin, answer.margin - margin, answer.log_probability - log_p)
            for chosen, margin, log_p in zip(self.sets[b], margins, log_ps, strict=True)
        )

    def completeness(self, b: int) -> Completeness | None:
        """Return how far the shares of one prompt are from their sum."""
        if self.shares is None:
            return None
        own = self.shares[b]
        taken = own.weights[: int(own.n_nodes)]
        return Completeness(float(own.without), float(own.gap), COMPLETE, tuple(taken.tolist()))

    def taken(self, b: int) -> Taken | None:
        """Where the influence of one prompt was taken."""
        if self.influence is None:
            return None
        weights = self.influence.weights[b][self.passes.groups[b] >= 0]
        return Taken(float(weights[0]), float(self.influence.margin[b]))

    def fallback(self, b: int) -> tuple[str, int]:
        """Why the tokens of one prompt's response took a backward pass each, empty if they did not, and how many."""
        own = self.of_tokens[b]
        return ("", 0) if own is None else (own.fallback, len(own.influence))

    def pair_effects(self, b: int) -> PairEffects | None:
        """How the sources of one prompt act together."""
        if self.pairs is None:
            return None
        own = self.pairs[b]
        matrix, noise = (tuple(map(tuple, one.tolist())) for one in (own.matrix, own.noise))
        return PairEffects(matrix, noise, own.redundant, own.dependent, own.error, own.spread, len(own.weights))


def scored(
    passes: Passes,
    scores: Sequence[str],
    *,
    knock_out: Sequence[Sequence[int]] = (),
    edges: str | None = None,
    pairs: bool = False,
    seed: int = 0,
    matrix: bool = True,
    pieces: bool = False,
) -> Scored:
    """Compute some scores of every prompt, and knock out groups of sources together in every prompt.

    With `matrix`, also what each source does to each token of a response; with `pieces`, what each token of the prompt
    does to each statement of it.
    """
    groups = passes.groups
    counts = [one.tokenized.n_demonstrations for one in passes.questions]
    most = max(counts)
    residuals: dict[str, Tensor] = {"capture": passes.own_pass}
    by_token: dict[str, Tensor] = {}
    by_head: dict[str, Tensor] = {}
    knocked = None
    if "gradient_step" in scores:
        step = passes.gradient_step
        residuals |= {"dual_models": passes.dual_models_residuals}
        residuals |= {"gradient_step": passes.gradient_step_residuals}
        by_head["gradient_step"] = doubled(step.contributions).cpu()
        by_token["gradient_step"] = doubled(step.by_token).cpu()
    if "path" in scores:
        whole = passes.path
        residuals["path"] = passes.path_residuals(whole)
        by_token["path"] = doubled(whole.parts).cpu()
    alone = most if "knock_out" in scores else 0
    # Groups come after as many single sources as the prompt with most has.
    sets: list[list[tuple[int, ...]]]
    sets = [[*((i,) if i < n else () for i in range(alone)), *map(tuple, knock_out)] for n in counts]
    if sets[0]:
        knocked = passes.knock_out(sets, query_only=edges != "later")
        residuals["knock_out"] = knocked.residual
    query_only = edges == "query"
    influence = passes.by_weight.influence(query_only=query_only) if "influence" in scores else None
    shares = passes.by_weight.shares(query_only=query_only) if "shares" in scores else None
    if influence is not None:
        by_head["influence"] = influence.by_weight
    if shares is not None:
        by_head["shares"] = shares.by_head.double()
    checked = [one.residual for one in (influence, shares) if one is not None]
    if checked:
        residuals["weighted"] = torch.stack(checked).amax(0)
    by_token |= {name: values.sum((1, 2)) for name, values in by_head.items() if name not in by_token}
    responses, divided = passes.by_weight.responses, dict[int, float]()
    of_tokens: list[OfTokens | None] = [None] * len(passes.questions)
    statements = [torch.empty(0, n) for n in counts]
    for b, one in enumerate(passes.questions):
        if influence is None or one.response is None:
            continue
        if matrix:
            own = of_tokens[b] = responses.of_tokens(b, query_only=query_only)
            divided[b] = own.residual
        if one.statements and matrix and not pieces:
            rows = [own.influence[part.first : part.last].sum(0) for part in one.statements]
            statements[b] = torch.stack(rows)
        elif one.statements:
            by_prompt = responses.of_statements(b, query_only=query_only)
            divided[b] = max(divided.get(b, 0.0), by_prompt.residual)
            n = by_prompt.influence.shape[1]
            statements[b] = by_source(by_prompt.influence, groups[b, :n], counts[b])[:, :-1]
    if divided:
        each = [divided.get(b, 0.0) for b in range(len(passes.questions))]
        residuals["response"] = torch.tensor(each, dtype=torch.float64)
    # Input and output of a source stand beside each other.
    halves = torch.where(groups < 0, groups, 2 * groups + passes.outputs)
    parts = {name: by_source(values, halves, 2 * most)[:, :-1] for name, values in by_token.items()}
    removed: list[list[float]] | None = None
    if "rerun" in scores:
        removed = [passes.rerun(b, [(i,) for i in range(n)]).margins.tolist() for b, n in enumerate(counts)]
    return Scored(
        passes,
        residuals,
        by_token,
        {name: by_source(values, groups, most) for name, values in by_head.items()},
        {name: values.unflatten(1, (most, 2)) for name, values in parts.items()},
        influence,
        shares,
        bool(alone),
        sets,
        knocked,
        removed,
        passes.by_weight.pairs(seed=seed) if pairs else None,
        tuple(of_tokens),
        tuple(statements),
    )
