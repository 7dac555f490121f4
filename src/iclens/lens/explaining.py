"""Which demonstrations moved this answer: the whole lens on one prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from iclens.errors import UserError
from iclens.lens.explanation import (
    Cost,
    DemonstrationEffect,
    Explanation,
    Faithfulness,
    KnockOut,
    ModelFacts,
    OtherPart,
    Residual,
    Token,
)
from iclens.lens.model.loading import LensModel, load
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import NOT_A_DEMONSTRATION, TokenizedPrompt, tokenize
from iclens.lens.read.answered import Read, answer_prompt, by_group, read_margin
from iclens.lens.read.answers import likeliest, token_text
from iclens.lens.read.capture import check_capture
from iclens.lens.read.readout import Readout
from iclens.lens.read.tolerance import TOLERANCE, path_residual, tolerance_of, uncertainty
from iclens.lens.read.trace import Trace
from iclens.lens.scores.agreement import agreements
from iclens.lens.scores.faithfulness import faithfulness as measure_faithfulness
from iclens.lens.scores.gradient_step import GradientStep, gradient_step
from iclens.lens.scores.knock_out import KnockOutResult
from iclens.lens.scores.knock_out import knock_out as knock_out_sets
from iclens.lens.scores.path import Path, path
from iclens.lens.scores.rerun import Outcome, rerun


def explain(
    model: Any,
    tokenizer: Any = None,
    prompt: Prompt | str | Sequence[Mapping[str, str]] = "",
    *,
    answers: Sequence[str] | None = None,
    answer: str | None = None,
    knock_out: Iterable[Iterable[int]] = (),
    rerun_text: bool = False,
    faithfulness: bool = False,
    n_next: int = 10,
    seed: int = 0,
    command: str = "",
    progress: Callable[[str], None] = lambda stage: None,
) -> Explanation:
    """Explain a language model's answer to a few-shot prompt by its demonstrations.

    For the margin of the answer's logit over its alternatives, and for every demonstration: its *gradient step* (the
    sum over layers and heads of its contribution to the dual models' one step of training, direct, through the frozen
    final norm), its *path* (through all layers, with attention weights, norms and gates held: the parts sum to the
    margin), and its *exact knock-out* (every dual model of the query's tokens trained without it). Margins are in nats.

    Args:
        model: `"bundled"`, a local folder, a hub name, a Hugging Face model, or a `LensModel`.
        tokenizer: the tokenizer of a Hugging Face model; None for the others, which bring theirs.
        prompt: plain text (blank lines between demonstrations, query last), chat messages, or a `Prompt`.
        answers: candidate answers. The likeliest is explained, against the mean of the others.
        answer: the answer to explain instead; without candidates its alternatives are the next most likely tokens.
        knock_out: groups of demonstrations to knock out together, as indices from 0.
        rerun_text: also measure the true leave-one-out, by deleting each demonstration's text.
        faithfulness: also measure LDS and the removal test by re-running the model on shortened prompts.
        n_next: number of likely next tokens to report.
        seed: seed of the random subsets of `faithfulness`.
        command: the command that gives the same numbers, to be shown with them.
        progress: called with the name of each stage before it starts.

    Raises:
        UserError: the model, the prompt or an answer cannot be handled exactly.

    Source: Ren & Liu 2024, Theorem 3.1 and its extension to layers; docs/explain.md.
    """
    lens_model = _lens_model(model, tokenizer)
    lens_model.require_causal()
    parsed = _prompt(prompt, lens_model.tokenizer)
    tokenized = tokenize(parsed, lens_model.tokenizer, lens_model.context_length)
    groups_asked = _checked_groups(knock_out, tokenized.n_demonstrations)
    clock = _Clock(progress)

    with clock.stage("answer"):
        answered = answer_prompt(lens_model, tokenized, answers, answer)
        clock.forward += answered.forward_passes
    with clock.stage("gradient step"):
        read = read_margin(lens_model, answered)
        clock.forward += read.forward_passes
        traced, groups, margin = read.traced, read.groups, answered.margin
        step = gradient_step(traced)
    with clock.stage("check against the model"):
        # Before anything is built on it: the captured attention against the model's own.
        capture = check_capture(lens_model, traced.input_ids[None])
        clock.forward += 2
    with clock.stage("path"):
        whole = _path(lens_model, traced.input_ids, traced.readout, clock)
    n_demonstrations = tokenized.n_demonstrations
    with clock.stage("knock-out"):
        sets = [(i,) for i in range(n_demonstrations)] + groups_asked
        knocked = knock_out_sets(traced, groups, sets)
        clock.forward += (len(sets) + 1) * (len(read.roles) - tokenized.query_start) / len(read.roles)
    without: Outcome | None = None
    if rerun_text:
        with clock.stage("rerun"):
            without = rerun(lens_model, parsed, margin, [(i,) for i in range(n_demonstrations)])
            clock.forward += n_demonstrations
    effects = _effects(tokenized, traced, groups, step, whole, knocked, without)
    measured: tuple[Faithfulness, ...] = ()
    if faithfulness:
        with clock.stage("faithfulness"):
            measured, passes = measure_faithfulness(
                lens_model, parsed, margin, _scores(effects), traced.margin, torch.Generator().manual_seed(seed)
            )
            clock.forward += passes

    return Explanation(
        model=_facts(lens_model),
        prompt=parsed.text,
        tokens=_tokens(lens_model, tokenized, read, step, whole),
        next_tokens=likeliest(lens_model.tokenizer, answered.first.logits[0], n_next),
        candidates=answered.candidates,
        answer=margin.answer,
        margin=traced.margin,
        margin_definition=margin.definition,
        demonstrations=effects,
        others=_others(read.roles, step, whole),
        residuals=_residuals(lens_model, capture.worst, step, whole, knocked, traced.readout.largest(traced.logits)),
        agreement=agreements(_scores(effects)),
        group_knock_outs=tuple(_knock_out(knocked, n_demonstrations + i) for i in range(len(groups_asked))),
        faithfulness=measured,
        notes=tokenized.notes + answered.answers.notes + _doubts(traced),
        cost=Cost(round(clock.forward, 3), clock.backward, clock.seconds),
        command=command,
    )


class _Clock:
    """What was spent so far."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.progress = progress
        self.forward = 0.0
        self.backward = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def _lens_model(model: Any, tokenizer: Any) -> LensModel:
    if isinstance(model, str):
        return load(model)
    wrapped = model if isinstance(model, LensModel) else LensModel.wrap(model, tokenizer)
    if wrapped.tokenizer is None:
        raise UserError("a tokenizer is needed to read the prompt: explain(model, tokenizer, prompt).")
    return wrapped


def _prompt(prompt: Prompt | str | Sequence[Mapping[str, str]], tokenizer: Any) -> Prompt:
    if isinstance(prompt, Prompt):
        return prompt
    if isinstance(prompt, str):
        return Prompt.from_text(prompt)
    return Prompt.from_chat(prompt, tokenizer)


def _checked_groups(groups: Iterable[Iterable[int]], n_demonstrations: int) -> list[tuple[int, ...]]:
    checked = []
    for group in groups:
        members = tuple(sorted(set(group)))
        for index in members:
            if not 0 <= index < n_demonstrations:
                raise UserError(
                    f"cannot knock out demonstration {index}: the prompt has {n_demonstrations}, numbered from 0 to "
                    f"{n_demonstrations - 1}."
                )
        if not members:
            raise UserError("a group to knock out is empty: name at least one demonstration, e.g. 3,7.")
        checked.append(members)
    return checked


def _path(lens_model: LensModel, input_ids: Tensor, readout: Readout, clock: _Clock) -> Path:
    """The path; in float64 where float32 leaves its sum near the tolerance and the model is small enough to copy."""
    whole = path(lens_model, input_ids, readout)
    clock.forward += 1
    clock.backward += 1
    near = whole.residual > TOLERANCE[torch.float32] / 10
    if not near or not lens_model.can_be_doubled:
        return whole
    # Parts that nearly cancel lose digits to the rounding of single precision, not to the decomposition.
    clock.forward += 1
    clock.backward += 1
    return path(lens_model.in_double(), input_ids, readout)


def _effects(
    tokenized: TokenizedPrompt,
    traced: Trace,
    groups: Tensor,
    step: GradientStep,
    whole: Path,
    knocked: KnockOutResult,
    without: Outcome | None,
) -> tuple[DemonstrationEffect, ...]:
    n = tokenized.n_demonstrations
    split = by_group(step.contributions.double(), groups, n)
    paths = by_group(whole.parts.double(), groups, n)
    return tuple(
        DemonstrationEffect(
            index=i,
            text=span.of(tokenized.prompt.text),
            n_tokens=int((groups == i).sum()),
            gradient_step=float(split[..., i].sum()),
            path=float(paths[i]),
            knock_out=_knock_out(knocked, i),
            rerun_margin_change=None if without is None else traced.margin - float(without.margins[i]),
            by_layer_and_head=tuple(tuple(row) for row in split[..., i].tolist()),
        )
        for i, span in enumerate(tokenized.prompt.demonstrations)
    )


def _knock_out(knocked: KnockOutResult, row: int) -> KnockOut:
    return KnockOut(
        demonstrations=knocked.sets[row],
        margin=float(knocked.margins[row]),
        margin_change=float(knocked.margin - knocked.margins[row]),
        log_probability_change=float(knocked.log_probability - knocked.log_probabilities[row]),
    )


def _scores(effects: Sequence[DemonstrationEffect]) -> dict[str, list[float]]:
    """The scores of every method that was run, by its name."""
    scores = {
        "gradient_step": [effect.gradient_step for effect in effects],
        "path": [effect.path for effect in effects],
        "knock_out": [effect.knock_out.margin_change for effect in effects],
    }
    reruns = [effect.rerun_margin_change for effect in effects if effect.rerun_margin_change is not None]
    return scores | ({"rerun": reruns} if reruns else {})


def _tokens(
    lens_model: LensModel,
    tokenized: TokenizedPrompt,
    read: Read,
    step: GradientStep,
    whole: Path,
) -> tuple[Token, ...]:
    texts = tokenized.texts + tuple(token_text(lens_model.tokenizer, index) for index in read.forced)
    parts = read.groups.tolist()
    direct = step.contributions.double().sum((0, 1)).tolist()
    through = whole.parts.double().tolist()
    return tuple(
        Token(text, None if part == NOT_A_DEMONSTRATION else part, role, one, other)
        for text, part, role, one, other in zip(texts, parts, read.roles, direct, through, strict=True)
    )


def _others(roles: Sequence[str], step: GradientStep, whole: Path) -> tuple[OtherPart, ...]:
    """What is no demonstration, by role, and what belongs to no token."""
    direct = step.contributions.double().sum((0, 1)).cpu()
    through = whole.parts.double().cpu()
    parts = []
    for role in ("instruction", "separator", "special", "query", "answer"):
        chosen = torch.tensor([r == role for r in roles])
        if bool(chosen.any()):
            parts.append(OtherPart(role, float(direct[chosen].sum()), float(through[chosen].sum())))
    return tuple(parts)


def _residuals(
    lens_model: LensModel,
    capture: float,
    step: GradientStep,
    whole: Path,
    knocked: KnockOutResult,
    largest_logit: float,
) -> tuple[Residual, ...]:
    tolerance = tolerance_of(lens_model.dtype)
    # Against the margin of the traced pass, not of the path's own: the two passes must agree as well.
    parts = whole.parts.double().cpu()
    margin, largest = torch.tensor((step.margin, largest_logit), dtype=torch.float64)
    along_path = path_residual(parts.sum(), margin, parts.abs().max(), largest, lens_model.dtype)
    return (
        Residual("captured attention against the model's own", capture, tolerance),
        Residual("dual models against the attention output of every layer", step.attention_residual, tolerance),
        Residual("direct contributions and the rest against the margin", step.residual, tolerance),
        Residual("path parts against the margin", float(along_path), tolerance),
        Residual("knock-out of nothing against the full pass", knocked.residual, tolerance),
    )


def _doubts(traced: Trace) -> tuple[str, ...]:
    """A remark where the margin is lost in the rounding of the logits."""
    dtype = traced.lens_model.dtype
    unsure = float(uncertainty(torch.tensor(traced.readout.largest(traced.logits)), dtype))
    if abs(traced.margin) > unsure:
        return ()
    name = str(dtype).removeprefix("torch.")
    return (
        f"the margin, {traced.margin:.3g} nats, is no larger than what {name} leaves open in these logits "
        f"({unsure:.2g}): load the model in a wider type before you trust its parts.",
    )


def _facts(lens_model: LensModel) -> ModelFacts:
    return ModelFacts(
        name=lens_model.name,
        family=lens_model.family.name,
        n_layers=lens_model.n_layers,
        n_heads=lens_model.n_heads,
        n_parameters=lens_model.n_parameters,
        dtype=str(lens_model.dtype).removeprefix("torch."),
        context_length=lens_model.context_length,
    )
