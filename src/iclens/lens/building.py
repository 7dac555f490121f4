"""From passes to explanations: the numbers of every prompt, put together as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens.explanation import Explanation
from iclens.lens.facts import (
    EDGES,
    RESIDUALS,
    ModelFacts,
    OtherPart,
    Residual,
    ResponseEffects,
    StatementEffects,
    Token,
    total,
)
from iclens.lens.grounding import grounding as ground
from iclens.lens.model.placed import doubled
from iclens.lens.passes import Passes
from iclens.lens.prompt.tokens import FIRST, NOT_A_DEMONSTRATION
from iclens.lens.read.answers import likeliest, token_text
from iclens.lens.read.sight import sight_notes, sink_note, sink_weights
from iclens.lens.read.tolerance import uncertainty
from iclens.lens.remarks import (
    about_candidates,
    about_certainty,
    about_completeness,
    about_experts,
    about_fallback,
    about_rounding,
    about_statements,
    about_the_first_token,
)
from iclens.lens.scored import BY_WEIGHT, scored
from iclens.lens.scores.faithfulness import agreements

SCORES = ("influence", "gradient_step")
"""The scores where none are chosen of many prompts, side by side, and of a prompt that is edited while one waits."""

OPENING = ("influence_deletions", *SCORES)
"""The scores of one prompt where none are chosen, the one that orders its sources first."""

BEYOND = ("influence_knock_out", *SCORES)
"""The same where there are too many sources for deletions of a few passes."""

DESIGNED = 20
"""Sources up to which deletions of a few passes say more than the influence alone."""

CUTS = 1.5
"""Passes that cutting off each source alone may cost, beside the influence's three."""

_ROLES = (FIRST, "instruction", "separator", "special", "query", "answer")


def usual_scores(n_sources: int, query_share: float = 0.0) -> tuple[str, ...]:
    """Return the scores of one prompt where none are chosen: the best on real models within 4.5 passes comes first.

    Up to 20 sources the order is by the influence corrected by real deletions, beyond by the mean of influence and
    knock-out, and by the influence alone where the query is so long that knock-outs cost more than 1.5 passes.
    docs/attribution.md says why.

    Args:
        n_sources: how many there are.
        query_share: the part of the prompt's tokens that the query and the answer have, which each knock-out reads.
    """
    if n_sources <= DESIGNED:
        return OPENING
    return BEYOND if (n_sources + 1) * query_share <= CUTS else SCORES


def explanations(
    passes: Passes,
    scores: Sequence[str] = SCORES,
    *,
    knock_out: Sequence[Sequence[int]] = (),
    edges: str | None = None,
    pairs: bool = False,
    seed: int = 0,
    grounding: bool | None = None,
    matrix: bool = True,
    pieces: bool = False,
    others: Mapping[str, Sequence[float]] | None = None,
    n_next: int = 10,
    command: str = "",
) -> list[Explanation]:
    """Explain every prompt of some passes; nothing runs that the scores do not need.

    The score that comes first orders the sources. `knock_out` are groups of sources to knock out together in every
    prompt, `others` the scores of further methods, one number per source of a single prompt. With `pieces`, statements
    of a response are scored by token. `edges`, `pairs`, `seed`, `matrix` and `grounding` are those of `explain`.

    Raises:
        UserError: unknown edges.
    """
    model, traced, questions = passes.lens_model, passes.traced, passes.questions
    if edges is not None and edges not in EDGES:
        raise UserError(f"the edges are {edges!r}: give {' or '.join(map(repr, EDGES))}.")
    how: dict[str, Any] = {"edges": edges, "pairs": pairs, "seed": seed, "matrix": matrix, "pieces": pieces}
    found_scores = scored(passes, scores, knock_out=knock_out, **how)
    residuals, by_token = found_scores.residuals, found_scores.by_token
    of_tokens = {name: values.tolist() for name, values in by_token.items()}
    largest = traced.readouts.largest(traced.logits)
    sinks = sink_weights(traced)
    # Position 0 of the sequence, from the last token of each prompt.
    sunk = torch.stack([layer.weights[:, :, 0, 0].cpu().double().mean(-1) for layer in traced.layers]).mean(0).tolist()
    dtype = str(model.dtype).removeprefix("torch.")
    facts = ModelFacts(
        model.name, model.family.name, model.n_layers, model.n_heads, model.n_parameters, dtype, model.context_length
    )
    limits = passes.tolerances(residuals)
    grounded = [ground(passes, b, grounding) for b in range(len(questions))]
    found = []
    for b, (question, answer) in enumerate(zip(questions, passes.answers, strict=True)):
        tokenized, prompt, forced = question.tokenized, question.tokenized.prompt, answer.readout.forced
        sources = found_scores.sources(b, answer, others or {})
        roles = tokenized.roles + ("answer",) * len(forced)
        texts = tokenized.texts + tuple(token_text(model.tokenizer, index) for index in forced)
        parts_of = [None if part == NOT_A_DEMONSTRATION else part for part in passes.groups[b].tolist()]
        # Prompts of a batch are filled up behind their tokens.
        tokens = tuple(
            Token(
                text,
                part,
                role,
                gradient_step=of_tokens["gradient_step"][b][t] if "gradient_step" in of_tokens else None,
                path=of_tokens["path"][b][t] if "path" in of_tokens else None,
                scores={name: of_tokens[name][b][t] for name in BY_WEIGHT if name in of_tokens},
            )
            for t, (text, part, role) in enumerate(zip(texts, parts_of, roles, strict=False))
        )
        of_response = found_scores.of_tokens[b]
        by_token_of_it = () if of_response is None else of_response.influence.tolist()
        response = response_effects(passes, b, by_token_of_it, found_scores.statements[b])
        complete, taken = found_scores.completeness(b), found_scores.taken(b)
        checks = tuple(
            Residual(name, float(residuals[key][b]), limits[key][b], key)
            for key, name in RESIDUALS.items()
            if key in residuals
        )
        found.append(
            Explanation(
                model=facts,
                prompt=prompt.text,
                tokens=tokens,
                next_tokens=likeliest(model.tokenizer, answer.next_logits, n_next),
                candidates=answer.candidates,
                answer=answer.text,
                answer_log_probability=answer.log_probability,
                margin=answer.margin,
                margin_definition=answer.definition,
                sources=sources,
                others=(
                    *_others(tokens),
                    *(() if response is None or "path" not in scores else (_entropy(passes, b),)),
                    *(() if sinks is None else (_learned_sinks(scores),)),
                ),
                residuals=checks,
                agreement=agreements({name: [effect.score(name) or 0.0 for effect in sources] for name in scores}),
                scores=tuple(scores),
                completeness=complete,
                influence_at=taken,
                grounding=grounded[b],
                edges=edges,
                pairs=found_scores.pair_effects(b),
                response=response,
                group_knock_outs=found_scores.knock_outs(b, answer)[-len(knock_out) :] if knock_out else (),
                notes=(
                    *model.notes,
                    *tokenized.notes,
                    *question.notes,
                    *sight_notes(traced, b, passes.groups[b], tokenized.n_demonstrations, prompt.noun),
                    *(() if sinks is None else (sink_note(sinks[b]),)),
                    *about_candidates(question.answers, answer),
                    *about_completeness(answer.margin, complete, prompt.noun),
                    *about_certainty(taken, prompt.noun),
                    *about_the_first_token(tokens[0], sunk[b], prompt.noun),
                    *about_experts(model),
                    *about_statements(question.response),
                    *about_fallback(*found_scores.fallback(b)),
                    *about_rounding(answer.margin, float(uncertainty(largest[b], model.dtype)), dtype),
                ),
                cost=passes.cost,
                command=command,
                id=question.id,
            )
        )
    return found


def _others(tokens: Sequence[Token]) -> tuple[OtherPart, ...]:
    """Return the rest of the prompt by role."""
    parts = []
    for role in _ROLES:
        chosen = [token for token in tokens if token.role == role]
        if chosen:
            parts.append(OtherPart(role, total(one.gradient_step for one in chosen), total(one.path for one in chosen)))
    return tuple(parts)


def response_effects(
    passes: Passes, b: int, influence: Sequence[Sequence[float]] = (), by_statement: Iterable[torch.Tensor] = ()
) -> ResponseEffects | None:
    """Describe the response that one prompt's explanation is of, by the traced pass; None where answers are explained.

    Args:
        passes: the passes over the prompts.
        b: which of them.
        influence: of every source on each token, where it is known.
        by_statement: of every source on each statement, where it is known.
    """
    response, foil = passes.questions[b].response, passes.questions[b].foil
    if response is None:
        return None
    readouts = passes.traced.readouts
    log_ps = doubled(readouts.token_log_probabilities(passes.traced.logits)[b])[: len(response.tokens)].tolist()
    statements = tuple(
        StatementEffects(
            one.start, one.end, one.first, one.last, sum(log_ps[one.first : one.last]), tuple(row.tolist())
        )
        for one, row in zip(passes.questions[b].statements, by_statement, strict=False)
    )
    return ResponseEffects(
        response.text,
        response.tokens,
        tuple(log_ps),
        response.measure,
        response.first,
        response.last,
        response.statement,
        None if foil is None or foil.response is None else foil.response.statement or foil.response.text,
        tuple(map(tuple, influence)),
        statements,
    )


def _entropy(passes: Passes, b: int) -> OtherPart:
    """Return what belongs to no token of a log-probability: minus the entropy of the predictions."""
    return OtherPart("entropy", None, float(passes.path.rest[b]))


def _learned_sinks(scores: Sequence[str]) -> OtherPart:
    """Training pairs with target 0."""
    return OtherPart("learned_sinks", *(0.0 if name in scores else None for name in ("gradient_step", "path")))
