"""What is within the sources: their sentences, lines or paragraphs, explored from the top within a budget of passes."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from iclens.errors import UserError
from iclens.lens.facts import ADDITIVE, Piece, ResponseEffects, SourceEffect, Token
from iclens.lens.prompt.pieces import PIECES
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import Span
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, TokenizedPrompt

if TYPE_CHECKING:
    from iclens.lens.lens import Lens

_Place = tuple[int, int | None]
"""A source, and a piece of it or None for all of it."""


def statements_inside(lens: Lens, found: ResponseEffects, split: str, *, query_only: bool) -> ResponseEffects:
    """Add what the pieces of every source do to each statement of a response; these must have been scored by token."""
    spans = _by_source(lens.prompt.sources, lens.prompt.within(split).sources)
    rows = lens.passes.by_weight.responses.of_statements(0, query_only=query_only).influence.tolist()
    places = _pieces_of_tokens(lens.tokenized, lens.groups.tolist(), spans)
    statements = []
    for one, row in zip(found.statements, rows, strict=True):
        sums = [[0.0] * len(own) for own in spans]
        for value, place in zip(row, places, strict=False):
            if place is not None:
                sums[place[0]][place[1]] += value
        statements.append(replace(one, pieces=tuple(map(tuple, sums))))
    return replace(found, statements=tuple(statements))


def inside(
    lens: Lens, sources: Sequence[SourceEffect], tokens: Sequence[Token], scores: Sequence[str], split: str, budget: int
) -> tuple[SourceEffect, ...]:
    """Score the pieces of every source, and delete the text of the strongest sources and pieces.

    Additive scores are known for every token, so that those of pieces are sums and cost no pass; each token counts to
    one piece, and the pieces of a source sum to it. The budget goes to real deletions, at most a pass each, from the
    largest score in absolute value on; a piece is considered once its source has been deleted. The text of a source
    that is one piece is deleted once.

    Args:
        lens: the lens that scored them.
        sources: what it found.
        tokens: the tokens of the prompt, with their scores.
        scores: those that were asked for.
        split: `"paragraphs"`, `"lines"` or `"sentences"`.
        budget: how many texts are deleted at most.

    Raises:
        UserError: no additive score, a budget below 0, or as in `Prompt.within`.
    """
    additive = [name for name in scores if name in ADDITIVE]
    if not additive:
        raise UserError(f"what is within a source is told by additive scores alone: name one of {', '.join(ADDITIVE)}.")
    finer = lens.prompt.within(split)
    spans = _by_source(lens.prompt.sources, finer.sources)
    sums = _summed(lens.tokenized, tokens, spans, additive)
    found = [
        replace(
            effect,
            pieces=tuple(
                Piece(
                    k, PIECES[split], span.of(finer.text), {name: part[k] for name, part in sums[effect.index].items()}
                )
                for k, span in enumerate(spans[effect.index])
            ),
        )
        for effect in sources
    ]
    return _confirmed(lens, found, additive[0], finer, budget)


def confirmed(lens: Lens, sources: Sequence[SourceEffect], score: str, budget: int) -> tuple[SourceEffect, ...]:
    """Delete the text of the strongest sources, as many as there are passes for, from the largest score on."""
    return _confirmed(lens, sources, score, None, budget)


def _confirmed(
    lens: Lens, sources: Sequence[SourceEffect], score: str, finer: Prompt | None, budget: int
) -> tuple[SourceEffect, ...]:
    order = _order(sources, score, budget)
    wholes = [i for i, piece in order if piece is None]
    parts = [(i, piece) for i, piece in order if piece is not None]
    changes: dict[_Place, float] = {}
    if wholes:
        margins = lens.passes.rerun(0, [[i] for i in wholes]).margins.tolist()
        changes |= {(i, None): lens.answer.margin - margin for i, margin in zip(wholes, margins, strict=True)}
    if parts and finer is not None:
        first = [0]
        for effect in sources:
            first.append(first[-1] + len(effect.pieces))
        sets = [[first[i] + piece] for i, piece in parts]
        margins = lens.passes.rerun(0, sets, finer).margins.tolist()
        changes |= {place: lens.answer.margin - margin for place, margin in zip(parts, margins, strict=True)}
    return tuple(_with_changes(effect, changes) for effect in sources)


def _with_changes(effect: SourceEffect, changes: Mapping[_Place, float]) -> SourceEffect:
    whole = changes.get((effect.index, None), effect.rerun_margin_change)
    alone = len(effect.pieces) == 1
    pieces = tuple(
        replace(one, rerun_margin_change=whole if alone else changes.get((effect.index, one.index)))
        for one in effect.pieces
    )
    return replace(effect, rerun_margin_change=whole, pieces=pieces)


def _order(sources: Sequence[SourceEffect], score: str, budget: int) -> list[_Place]:
    """Return what is deleted, from the strongest on; sources that were deleted anyway cost nothing."""
    if budget < 0:
        raise UserError(f"the budget is {budget}: give a number of passes, 0 or more.")
    queue: list[tuple[float, int, int]] = [(-abs(one.score(score) or 0.0), one.index, -1) for one in sources]
    heapq.heapify(queue)
    order: list[_Place] = []
    while queue and len(order) < budget:
        _, index, piece = heapq.heappop(queue)
        effect = sources[index]
        if piece >= 0:
            order.append((index, piece))
            continue
        if effect.rerun_margin_change is None:
            order.append((index, None))
        if len(effect.pieces) > 1:
            for one in effect.pieces:
                heapq.heappush(queue, (-abs(one.scores[score]), index, one.index))
    return order


def _by_source(sources: Sequence[Span], pieces: Sequence[Span]) -> list[list[Span]]:
    """Return the pieces that lie in each source."""
    starts = [span.start for span in sources]
    found: list[list[Span]] = [[] for _ in sources]
    for piece in pieces:
        found[bisect_right(starts, piece.start) - 1].append(piece)
    return found


def _summed(
    tokenized: TokenizedPrompt, tokens: Sequence[Token], spans: Sequence[Sequence[Span]], names: Sequence[str]
) -> list[dict[str, list[float]]]:
    """Return the scores of the tokens of each source, summed within its pieces."""
    sums = [{name: [0.0] * len(own) for name in names} for own in spans]
    parts = [NOT_A_DEMONSTRATION if token.part is None else token.part for token in tokens]
    for token, place in zip(tokens, _pieces_of_tokens(tokenized, parts, spans), strict=False):
        if place is None:
            continue
        for name in names:
            value = getattr(token, name) if name in ("gradient_step", "path") else token.scores.get(name)
            sums[place[0]][name][place[1]] += value or 0.0
    return sums


def _pieces_of_tokens(
    tokenized: TokenizedPrompt, parts: Sequence[int], spans: Sequence[Sequence[Span]]
) -> list[tuple[int, int] | None]:
    """Return the source and the piece in it that each token of the prompt counts to; None for those of no source."""
    text = tokenized.prompt.text
    return [
        None if part == NOT_A_DEMONSTRATION else (part, _piece_of(text, offsets, spans[part]))
        for part, offsets in zip(parts, tokenized.offsets, strict=False)
    ]


def _piece_of(text: str, offsets: tuple[int, int], spans: Sequence[Span]) -> int:
    """The piece with which a token shares most visible characters; of two, and where it shows none, the later."""
    start, end = offsets
    shared = [len("".join(text[max(start, one.start) : min(end, one.end)].split())) for one in spans]
    if any(shared):
        return max(range(len(spans)), key=lambda k: (shared[k], k))
    return min(bisect_right([one.end for one in spans], start), len(spans) - 1)
