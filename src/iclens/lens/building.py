"""From passes to explanations: the numbers of every prompt, put together as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iclens.lens.explanation import Explanation
from iclens.lens.facts import (
    RESIDUALS,
    Completeness,
    KnockOut,
    ModelFacts,
    OtherPart,
    Residual,
    SourceEffect,
    Token,
    total,
)
from iclens.lens.model.placed import doubled
from iclens.lens.passes import Passes
from iclens.lens.prompt.tokens import FIRST, NOT_A_DEMONSTRATION, by_source
from iclens.lens.read.answers import likeliest, token_text
from iclens.lens.read.question import Answer
from iclens.lens.read.sight import sight_notes, sink_note, sink_weights
from iclens.lens.read.tolerance import uncertainty
from iclens.lens.remarks import (
    about_candidates,
    about_completeness,
    about_experts,
    about_rounding,
    about_the_first_token,
)
from iclens.lens.scores.faithfulness import agreements
from iclens.lens.scores.knock_out import KnockOuts
from iclens.lens.scores.shares import COMPLETE, Shares

SCORES = ("gradient_step", "path", "knock_out")
"""The scores of an explanation where none are chosen."""

_BY_WEIGHT = ("influence", "shares")
"""Scores with respect to training weights."""

_ROLES = (FIRST, "instruction", "separator", "special", "query", "answer")


def explanations(
    passes: Passes,
    scores: Sequence[str] = SCORES,
    *,
    knock_out: Sequence[Sequence[int]] = (),
    edges: str | None = None,
    others: Mapping[str, Sequence[float]] | None = None,
    n_next: int = 10,
    command: str = "",
) -> list[Explanation]:
    """Explain every prompt of some passes; nothing runs that the scores do not need.

    The score that comes first orders the sources. `knock_out` are groups of sources to knock out together in every
    prompt, `others` the scores of further methods, one number per source of a single prompt. `edges` are those of
    `explain`.
    """
    model, traced, questions = passes.lens_model, passes.traced, passes.questions
    counts = [one.tokenized.n_demonstrations for one in questions]
    most = max(counts)
    groups = passes.groups
    residuals: dict[str, Tensor] = {"capture": passes.own_pass}
    # Additive scores: what each token has of them, (batch, n), and through each head, (batch, layers, heads, n).
    by_token: dict[str, Tensor] = {}
    by_head: dict[str, Tensor] = {}
    knocked = None
    if "gradient_step" in scores:
        step = passes.gradient_step
        residuals |= {"dual_models": step.attention_residual, "gradient_step": passes.gradient_step_residuals}
        by_head["gradient_step"] = doubled(step.contributions).cpu()
        by_token["gradient_step"] = doubled(step.by_token).cpu()
    if "path" in scores:
        whole = passes.path
        residuals["path"] = passes.path_residuals(whole)
        by_token["path"] = doubled(whole.parts).cpu()
    if "knock_out" in scores or knock_out:
        alone = most if "knock_out" in scores else 0
        # Groups come after as many single sources as the prompt with most has.
        sets = [[*((i,) if i < n else () for i in range(alone)), *map(tuple, knock_out)] for n in counts]
        knocked = passes.knock_out(sets, query_only=edges != "later")
        residuals["knock_out"] = knocked.residual
    query_only = edges == "query"
    influence = passes.influence(query_only=query_only) if "influence" in scores else None
    shares = passes.shares(query_only=query_only) if "shares" in scores else None
    if influence is not None:
        by_head["influence"] = influence.by_weight
    if shares is not None:
        by_head["shares"] = shares.by_head.double()
    by_token |= {name: values.sum((1, 2)) for name, values in by_head.items() if name not in by_token}
    maps = {name: by_source(values, groups, most) for name, values in by_head.items()}
    # Beside each other: what comes from the input of a source, and what from its output.
    halves = torch.where(groups < 0, groups, 2 * groups + passes.outputs)
    parts = {name: by_source(values, halves, 2 * most)[:, :-1] for name, values in by_token.items()}
    parts = {name: values.unflatten(1, (most, 2)) for name, values in parts.items()}
    of_tokens = {name: values.tolist() for name, values in by_token.items()}
    removed: list[list[float]] | None = None
    if "rerun" in scores:
        removed = [passes.rerun(b, [(i,) for i in range(n)]).margins.tolist() for b, n in enumerate(counts)]
    largest = traced.readouts.largest(traced.logits)
    sinks = sink_weights(traced)
    # Position 0 of the sequence, from the last token of each prompt.
    sunk = torch.stack([layer.weights[:, :, 0, 0].cpu().double().mean(-1) for layer in traced.layers]).mean(0).tolist()
    dtype = str(model.dtype).removeprefix("torch.")
    facts = ModelFacts(
        model.name, model.family.name, model.n_layers, model.n_heads, model.n_parameters, dtype, model.context_length
    )
    limits = passes.tolerances(residuals)

    def maps_of(b: int, i: int, name: str) -> tuple[tuple[float, ...], ...]:
        return tuple(map(tuple, maps[name][b, ..., i].tolist())) if name in maps else ()

    found = []
    for b, (question, answer) in enumerate(zip(questions, passes.answers, strict=True)):
        tokenized, prompt, forced = question.tokenized, question.tokenized.prompt, answer.readout.forced
        sizes = Counter(tokenized.groups.tolist())
        own = () if knocked is None else _knock_outs(knocked[b], sets[b], answer)
        effects = {name: values[b].sum(1).tolist() for name, values in parts.items()}
        shown = by_source(passes.outputs[b].double(), groups[b], most).bool().tolist()
        sources = tuple(
            SourceEffect(
                index=i,
                text=span.of(prompt.text),
                label=prompt.labels[i],
                n_tokens=sizes[i],
                gradient_step=effects["gradient_step"][i] if "gradient_step" in effects else None,
                path=effects["path"][i] if "path" in effects else None,
                knock_out=own[i] if own and "knock_out" in scores else None,
                rerun_margin_change=None if removed is None else answer.margin - removed[b][i],
                by_layer_and_head=maps_of(b, i, "gradient_step"),
                scores={name: effects[name][i] for name in _BY_WEIGHT if name in effects}
                | {name: float(values[i]) for name, values in (others or {}).items()},
                maps={name: maps_of(b, i, name) for name in _BY_WEIGHT if name in maps},
                of_output={name: float(values[b, i, 1]) for name, values in parts.items()} if shown[i] else {},
            )
            for i, span in enumerate(prompt.demonstrations)
        )
        roles = tokenized.roles + ("answer",) * len(forced)
        texts = tokenized.texts + tuple(token_text(model.tokenizer, index) for index in forced)
        parts_of = [None if part == NOT_A_DEMONSTRATION else part for part in groups[b].tolist()]
        # Prompts of a batch are filled up behind their tokens.
        tokens = tuple(
            Token(
                text,
                part,
                role,
                *(of_tokens[name][b][t] if name in of_tokens else None for name in ("gradient_step", "path")),
                {name: of_tokens[name][b][t] for name in _BY_WEIGHT if name in of_tokens},
            )
            for t, (text, part, role) in enumerate(zip(texts, parts_of, roles, strict=False))
        )
        complete = None if shares is None else _completeness(shares[b])
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
                others=_others(tokens) + (() if sinks is None else (_learned_sinks(scores),)),
                residuals=checks,
                agreement=agreements({name: [effect.score(name) or 0.0 for effect in sources] for name in scores}),
                scores=tuple(scores),
                completeness=complete,
                group_knock_outs=own[len(own) - len(knock_out) :],
                notes=(
                    *model.notes,
                    *tokenized.notes,
                    *question.answers.notes,
                    *sight_notes(traced, b, groups[b], counts[b]),
                    *(() if sinks is None else (sink_note(sinks[b]),)),
                    *about_candidates(question.answers, answer),
                    *about_completeness(answer.margin, complete),
                    *about_the_first_token(tokens[0], sunk[b]),
                    *about_experts(model, checks),
                    *about_rounding(answer.margin, float(uncertainty(largest[b], model.dtype)), dtype),
                ),
                cost=passes.cost,
                command=command,
                id=question.id,
            )
        )
    return found


def _knock_outs(knocked: KnockOuts, sets: Sequence[tuple[int, ...]], answer: Answer) -> tuple[KnockOut, ...]:
    margins, log_ps = doubled(knocked.margins).tolist(), doubled(knocked.log_probabilities).tolist()
    return tuple(
        KnockOut(chosen, margin, answer.margin - margin, answer.log_probability - log_p)
        for chosen, margin, log_p in zip(sets, margins, log_ps, strict=True)
    )


def _completeness(shares: Shares) -> Completeness:
    taken = shares.weights[: int(shares.n_nodes)]
    return Completeness(float(shares.without), float(shares.gap), COMPLETE, tuple(taken.tolist()))


def _others(tokens: Sequence[Token]) -> tuple[OtherPart, ...]:
    """The rest of the prompt by role."""
    parts = []
    for role in _ROLES:
        chosen = [token for token in tokens if token.role == role]
        if chosen:
            parts.append(OtherPart(role, total(one.gradient_step for one in chosen), total(one.path for one in chosen)))
    return tuple(parts)


def _learned_sinks(scores: Sequence[str]) -> OtherPart:
    """Training pairs with target 0."""
    return OtherPart("learned_sinks", *(0.0 if name in scores else None for name in ("gradient_step", "path")))
