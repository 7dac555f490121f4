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

_ROLES = (FIRST, "instruction", "separator", "special", "query", "answer")


def explanations(
    passes: Passes,
    scores: Sequence[str] = SCORES,
    *,
    knock_out: Sequence[Sequence[int]] = (),
    others: Mapping[str, Sequence[float]] | None = None,
    n_next: int = 10,
    command: str = "",
) -> list[Explanation]:
    """Explain every prompt of some passes; nothing runs that the scores do not need.

    The score that comes first orders the sources. `knock_out` are groups of sources to knock out together in every
    prompt, `others` the scores of further methods, one number per source of a single prompt.
    """
    model, traced, questions = passes.lens_model, passes.traced, passes.questions
    counts = [one.tokenized.n_demonstrations for one in questions]
    most = max(counts)
    groups = passes.groups
    residuals: dict[str, Tensor] = {"capture": passes.own_pass}
    direct_tokens: list[list[Any]] = [[None] * groups.shape[1]] * len(counts)
    path_tokens = direct_tokens
    maps = direct = through = knocked = None
    if "gradient_step" in scores:
        step = passes.gradient_step
        residuals |= {"dual_models": step.attention_residual, "gradient_step": passes.gradient_step_residuals}
        maps = by_source(doubled(step.contributions).cpu(), groups, most)
        direct = maps.sum((1, 2))
        direct_tokens = step.by_token.cpu().tolist()
    if "path" in scores:
        whole = passes.path
        residuals["path"] = passes.path_residuals(whole)
        parts = whole.parts.cpu()
        through = by_source(parts, groups, most)
        path_tokens = parts.tolist()
    if "knock_out" in scores or knock_out:
        alone = most if "knock_out" in scores else 0
        # Groups come after as many single sources as the prompt with most has.
        sets = [[*((i,) if i < n else () for i in range(alone)), *map(tuple, knock_out)] for n in counts]
        knocked = passes.knock_out(sets)
        residuals["knock_out"] = knocked.residual
    weighted: dict[str, Tensor] = {}
    if "influence" in scores:
        weighted["influence"] = passes.influence().by_weight
    shares = passes.shares() if "shares" in scores else None
    if shares is not None:
        weighted["shares"] = shares.by_head
    by_weight = {name: by_source(values.double(), groups, most) for name, values in weighted.items()}
    weighted_tokens = {name: values.double().sum((1, 2)).tolist() for name, values in weighted.items()}
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
    found = []
    for b, (question, answer) in enumerate(zip(questions, passes.answers, strict=True)):
        tokenized, prompt, forced = question.tokenized, question.tokenized.prompt, answer.readout.forced
        sizes = Counter(tokenized.groups.tolist())
        own = () if knocked is None else _knock_outs(knocked[b], sets[b], answer)
        sources = tuple(
            SourceEffect(
                index=i,
                text=span.of(prompt.text),
                label=prompt.labels[i],
                n_tokens=sizes[i],
                gradient_step=None if direct is None else float(direct[b, i]),
                path=None if through is None else float(through[b, i]),
                knock_out=own[i] if own and "knock_out" in scores else None,
                rerun_margin_change=None if removed is None else answer.margin - removed[b][i],
                by_layer_and_head=() if maps is None else tuple(map(tuple, maps[b, ..., i].tolist())),
                scores={name: float(values[b, ..., i].sum()) for name, values in by_weight.items()}
                | {name: float(values[i]) for name, values in (others or {}).items()},
                maps={name: tuple(map(tuple, values[b, ..., i].tolist())) for name, values in by_weight.items()},
            )
            for i, span in enumerate(prompt.demonstrations)
        )
        roles = tokenized.roles + ("answer",) * len(forced)
        texts = tokenized.texts + tuple(token_text(model.tokenizer, index) for index in forced)
        parts_of = [None if part == NOT_A_DEMONSTRATION else part for part in groups[b].tolist()]
        # Prompts of a batch are filled up behind their tokens.
        of_tokens = ({name: values[b][t] for name, values in weighted_tokens.items()} for t in range(len(texts)))
        tokens = tuple(map(Token, texts, parts_of, roles, direct_tokens[b], path_tokens[b], of_tokens))
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
                    *about_experts(model),
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
