"""From passes to explanations: the numbers of every prompt, put together as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from iclens.lens.explanation import (
    RESIDUALS,
    Cost,
    Explanation,
    KnockOut,
    ModelFacts,
    OtherPart,
    Residual,
    SourceEffect,
    Token,
)
from iclens.lens.model.loading import LensModel
from iclens.lens.passes import Passes
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION
from iclens.lens.read.answers import likeliest, token_text
from iclens.lens.read.sums import by_source
from iclens.lens.read.tolerance import tolerance_of, uncertainty
from iclens.lens.scores.agreement import agreements

SCORES = ("gradient_step", "path", "knock_out")
"""The scores of an explanation where none are chosen."""

_ROLES = ("instruction", "separator", "special", "query", "answer")


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

    Args:
        passes: the prompts and what runs over them.
        scores: names of the scores, the one that orders the sources first.
        knock_out: groups of sources to knock out together, in every prompt.
        others: scores of further methods by their names, one number per source; for one prompt alone.
        n_next: number of likely next tokens to report.
        command: the command that gives the same numbers.
    """
    model, traced, questions = passes.lens_model, passes.traced, passes.questions
    counts = [one.tokenized.n_demonstrations for one in questions]
    most = max(counts)
    groups = passes.groups
    residuals: dict[str, Tensor] = {"capture": passes.own_pass}
    none = [[None] * len(row) for row in groups.tolist()]
    direct_tokens: list[list[float]] | list[list[None]] = none
    path_tokens: list[list[float]] | list[list[None]] = none
    maps = direct = through = knocked = None
    if "gradient_step" in scores:
        step = passes.gradient_step
        residuals |= {"dual_models": step.attention_residual, "gradient_step": step.residual}
        maps = by_source(step.contributions.double().cpu(), groups, most)
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
        sets = [[(i,) if i < n else () for i in range(alone)] + list(knock_out) for n in counts]
        knocked = passes.knock_out(sets)
        residuals["knock_out"] = knocked.residual
    removed: list[list[float]] | None = None
    if "rerun" in scores:
        removed = [passes.rerun(b, [(i,) for i in range(n)]).margins.tolist() for b, n in enumerate(counts)]
    margins = traced.margins.double().tolist()
    log_probabilities = traced.log_probabilities.double().tolist()
    largest = traced.readouts.largest(traced.logits)
    found = []
    for b, (question, answered) in enumerate(zip(questions, passes.answered, strict=True)):
        tokenized, readout = question.tokenized, answered.readout
        prompt = tokenized.prompt
        sizes = Counter(tokenized.groups.tolist())
        own = None if knocked is None else _knock_outs(knocked.margins[b], knocked.log_probabilities[b],
                                                       margins[b], log_probabilities[b], sets[b])  # fmt: skip
        sources = tuple(
            SourceEffect(
                index=i,
                text=span.of(prompt.text),
                label=prompt.labels[i],
                n_tokens=sizes[i],
                gradient_step=None if direct is None else float(direct[b, i]),
                path=None if through is None else float(through[b, i]),
                knock_out=own[i] if own is not None and "knock_out" in scores else None,
                rerun_margin_change=None if removed is None else margins[b] - removed[b][i],
                by_layer_and_head=() if maps is None else tuple(map(tuple, maps[b, ..., i].tolist())),
                scores={name: float(values[i]) for name, values in (others or {}).items()},
            )
            for i, span in enumerate(prompt.demonstrations)
        )
        roles = tokenized.roles + ("answer",) * len(readout.forced)
        texts = tokenized.texts + tuple(token_text(model.tokenizer, index) for index in readout.forced)
        tokens = tuple(
            Token(text, None if part == NOT_A_DEMONSTRATION else part, role, one, other)
            for text, part, role, one, other in zip(
                texts, groups[b].tolist(), roles, direct_tokens[b], path_tokens[b], strict=False
            )
        )
        found.append(
            Explanation(
                model=_facts(model),
                prompt=prompt.text,
                tokens=tokens,
                next_tokens=likeliest(model.tokenizer, answered.next_logits, n_next),
                candidates=answered.candidates,
                answer=readout.answer,
                answer_log_probability=log_probabilities[b],
                margin=margins[b],
                margin_definition=readout.definition,
                sources=sources,
                others=_others(tokens),
                residuals=tuple(
                    Residual(name, float(residuals[key][b]), tolerance_of(model.dtype), key)
                    for key, name in RESIDUALS.items()
                    if key in residuals
                ),
                agreement=agreements({name: [effect.score(name) or 0.0 for effect in sources] for name in scores}),
                scores=tuple(scores),
                group_knock_outs=() if own is None else own[len(sets[b]) - len(knock_out) :],
                notes=tokenized.notes + question.answers.notes + _doubts(model, margins[b], largest[b]),
                cost=Cost(round(passes.forward_passes, 3), passes.backward_passes, dict(passes.seconds)),
                command=command,
            )
        )
    return found


def _knock_outs(
    without: Tensor, log_without: Tensor, margin: float, log_probability: float, sets: Sequence[Sequence[int]]
) -> tuple[KnockOut, ...]:
    return tuple(
        KnockOut(tuple(chosen), value, margin - value, log_probability - log_value)
        for chosen, value, log_value in zip(sets, without.double().tolist(), log_without.double().tolist(), strict=True)
    )


def _others(tokens: Sequence[Token]) -> tuple[OtherPart, ...]:
    """The rest of the prompt by role."""
    parts = []
    for role in _ROLES:
        chosen = [token for token in tokens if token.role == role]
        if chosen:
            direct, through = (
                None if None in values else sum(value for value in values if value is not None)
                for values in ([one.gradient_step for one in chosen], [one.path for one in chosen])
            )
            parts.append(OtherPart(role, direct, through))
    return tuple(parts)


def _doubts(model: LensModel, margin: float, largest: Tensor) -> tuple[str, ...]:
    """A remark where the margin is lost in the rounding of the logits."""
    unsure = float(uncertainty(largest, model.dtype))
    if abs(margin) > unsure:
        return ()
    name = str(model.dtype).removeprefix("torch.")
    return (
        f"the margin, {margin:.3g} nats, is no larger than what {name} leaves open in these logits "
        f"({unsure:.2g}): load the model in a wider type before you trust its parts.",
    )


def _facts(model: LensModel) -> ModelFacts:
    return ModelFacts(
        name=model.name,
        family=model.family.name,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_parameters=model.n_parameters,
        dtype=str(model.dtype).removeprefix("torch."),
        context_length=model.context_length,
    )
