"""Which demonstrations to keep, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from iclens.errors import UserError
from iclens.lens import Prompt
from iclens.lens.calls import reading_model
from iclens.selection.comparing import compared
from iclens.selection.doubts import doubts
from iclens.selection.elsewhere import Elsewhere
from iclens.selection.examples import ExamplesLike, read_examples
from iclens.selection.judging import judge
from iclens.selection.metrics import ACCURACY, MATCHES, Metric
from iclens.selection.pool import Pool, read_pool
from iclens.selection.search import METHODS, ORDERS, Found
from iclens.selection.second_model import check_choice, second_task
from iclens.selection.selection import Rival, Selection, Spending
from iclens.selection.sizes import Size, shorter, sizes
from iclens.selection.splitting import HELD_OUT, in_turns, split_off
from iclens.selection.task import BUDGET, Limits, Task
from iclens.work.parts import Parts

_INPUT = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for a query where the prompt is shown."""


def select(
    model: Any,
    demonstrations: ExamplesLike | Prompt | Pool,
    dev: ExamplesLike,
    *,
    k: int | None = None,
    budget_tokens: int | None = None,
    order: str = ORDERS[0],
    balanced: bool = False,
    method: str = "influence",
    against: str | None = "random",
    budget: float = BUDGET,
    template: str | None = None,
    instruction: str | None = None,
    separator: str | None = None,
    as_chat: bool = False,
    template_args: Mapping[str, Any] | None = None,
    system_in_user: bool = False,
    candidates: Sequence[str] | None = None,
    metric: Metric = ACCURACY,
    match: str = MATCHES[0],
    held_out: float | ExamplesLike = HELD_OUT,
    check_with: Any = None,
    seed: int = 0,
    tokenizer: Any = None,
    parts: Parts | None = None,
    about: Any = None,
    elsewhere: Sequence[Elsewhere] = (),
    progress: Callable[[str, float], None] = lambda stage, passes: None,
) -> Selection:
    """Choose demonstrations for a prompt, order them, and measure what that is worth on examples that took no part.

    Args:
        model: what `explain` takes.
        demonstrations: the pool: a file, pairs, or a prompt.
        dev: examples with right answers.
        k: how many to choose; None keeps what helps.
        budget_tokens: tokens that the demonstrations and the instruction may have together.
        order: `"search"` by real runs, `"best-last"` by their scores, or `"given"` as in the pool.
        balanced: choose labels equally often.
        method: one of `METHODS`.
        against: another method that is given the passes which the first one spent, and compared; None leaves it out.
        budget: passes for choosing; a pass is a reading of the whole pool with one query.
        template: how a pair is written, see `Prompt.from_examples`.
        instruction: a text before the demonstrations; of a chat its system message.
        separator: what stands between them.
        as_chat: write pairs as questions of a user and replies of an assistant, by the model's chat template; as it is
            done anyway where the pool is a chat, or consists of chats.
        template_args: further arguments of the chat template.
        system_in_user: put a chat's system message before the first question.
        candidates: the answers among which the model chooses; None takes the outputs where they are few, and free
            answers otherwise.
        metric: `"accuracy"`, `"log-loss"`, or a function of (prediction, target), the more the better; ties are decided
            by the log-loss.
        match: `"exact"` or `"normalised"`: how a free answer is compared. Exact: the model's likeliest tokens begin
            with it; normalised: what the model writes equals it except for case, punctuation and articles.
        held_out: what takes no part in the choice: a part of `dev`, between 0 and 1, or other examples.
        check_with: another model, for which the first one chooses: the starting and the chosen prompt run there too.
        seed: of what is drawn.
        tokenizer: the tokenizer of a Hugging Face model.
        parts: where finished numbers are kept, so that a run that was stopped goes on.
        about: what the numbers depend on beside the texts, such as a digest of the models' files.
        elsewhere: other processes that run the prompts, of the model and of the one that checks; none runs them here.
        progress: is called with what is being done and the passes that it has taken.

    Raises:
        UserError: something cannot be read or does not go together; nothing has run then.
    """
    began = time.perf_counter()
    chosen_by = METHODS[method]
    rival_by = None if against is None or against == method else METHODS[against]
    task, second, numbers = prepare(
        model, demonstrations, dev, k=k, budget_tokens=budget_tokens, order=order, balanced=balanced, budget=budget,
        template=template, instruction=instruction, separator=separator, as_chat=as_chat, template_args=template_args,
        system_in_user=system_in_user, candidates=candidates, metric=metric, match=match, held_out=held_out,
        check_with=check_with, seed=seed, tokenizer=tokenizer, parts=parts, about=about,
    )  # fmt: skip
    for one, processes in zip(filter(None, (task, second)), elsewhere, strict=False):
        one.elsewhere = processes

    def stage(name: str) -> None:
        before = task.passes
        task.tell = lambda passes: progress(name, passes - before)

    stage("choosing")
    on_dev = task.evaluator("choice", task.dev)
    found = chosen_by(task.search(on_dev, seed))
    spent = on_dev.ledger.passes
    rival: Found | None = None
    rival_cost, rival_sizes = 0.0, tuple[Size, ...]()
    if rival_by is not None:
        stage(f"the same cost for {against}")
        other = task.evaluator(f"against {against}", task.dev)
        rival = rival_by(task.search(other, seed + 1, spent))
        rival_cost, rival_sizes = other.ledger.passes, sizes(other)
    stage("checking")
    on_aside = task.evaluator("held out", task.aside)
    orders = [task.start, found.order, *([] if rival is None else [rival.order])]
    aside, before = on_aside.said(orders), on_dev.ledger.passes
    dev_said = on_dev.said(orders[:2])
    search = task.search(on_dev, seed)
    doubted = doubts(search, torch.Generator().manual_seed(seed))
    judged = judge(on_dev, found, doubted, task.certainties)
    missed = {one.index: one.left_out.mean for one in judged if one.left_out is not None}
    # Fewer than were asked for may do as well: a report of sizes shows it.
    on_dev.said(shorter(found.order, missed))
    report = on_aside.ledger.passes + on_dev.ledger.passes - before
    checked = None
    if second is not None:
        checked = check_choice(task, second, found.order, partial(progress, f"with {second.lens_model.name}"))
    writing, shots = task.pool.writing, [task.shots[i] for i in found.order]
    written = writing.prompt(shots, _INPUT)
    return Selection(
        indices=found.order,
        demonstrations=judged,
        start=task.start,
        prompt=written.text.replace("{", "{{").replace("}", "}}").replace(_INPUT, "{input}"),
        messages=None if writing.chat is None else tuple(writing.messages(shots, "{input}")),
        template=writing.template if writing.chat is None else None,
        instruction=writing.instruction,
        separator=writing.separator if writing.chat is None else None,
        candidates=task.candidates,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "metric"),
        dev=compared(dev_said, 0, 1),
        held_out=compared(aside, 0, 1),
        development=numbers[0],
        set_aside=numbers[1],
        rival=None if rival is None else Rival(str(against), rival.order, compared(aside, 2, 1), rival_sizes),
        examples=task.dev,
        sizes=sizes(on_dev),
        checked=checked,
        tokens=(task.tokens(task.start), task.tokens(found.order)),
        cost=Spending(spent, rival_cost, report, task.pass_tokens, time.perf_counter() - began),
        model=task.lens_model.name,
        method=method,
        order=order,
        seed=seed,
        notes=tuple(dict.fromkeys([*task.notes, *filter(None, [found.note])])),
    )


def prepare(
    model: Any,
    demonstrations: ExamplesLike | Prompt | Pool,
    dev: ExamplesLike,
    *,
    template: str | None = None,
    instruction: str | None = None,
    separator: str | None = None,
    as_chat: bool = False,
    template_args: Mapping[str, Any] | None = None,
    system_in_user: bool = False,
    candidates: Sequence[str] | None = None,
    metric: Metric = ACCURACY,
    match: str = MATCHES[0],
    held_out: float | ExamplesLike = HELD_OUT,
    check_with: Any = None,
    seed: int = 0,
    tokenizer: Any = None,
    parts: Parts | None = None,
    about: Any = None,
    **limits: Any,
) -> tuple[Task, Task | None, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Read and check everything, and set examples aside; no pass runs.

    Returns:
        The task; the same for the model that checks the choice, if there is one; and the numbers in `dev` of the
        examples to choose by and of those set aside.

    Raises:
        UserError: something cannot be read or does not go together.
    """
    pool = demonstrations if isinstance(demonstrations, Pool) else None
    if pool is None:
        chat: dict[str, Any] = {"as_chat": as_chat, "template_args": template_args, "system_in_user": system_in_user}
        pool = read_pool(demonstrations, template, instruction, separator, **chat)  # type: ignore[arg-type]
    examples = read_examples(dev, "the development set")
    lacking = [i for i, one in enumerate(examples) if one.output is None]
    if lacking:
        raise UserError(f"development example {lacking[0]} (from 0) has no output: each needs its right answer.")
    for one in examples:
        if one.system is not None and one.system != pool.writing.instruction:
            raise UserError(
                f"the development example {one.input[:40]!r} has another system message than the pool: give both the "
                "same, or leave it out."
            )
    if isinstance(held_out, float | int):
        chosen, aside = split_off(examples, held_out, seed)
        set_aside = tuple(examples[i] for i in aside)
    else:
        chosen, aside = tuple(in_turns(range(len(examples)), examples)), ()
        set_aside = read_examples(held_out, "held_out")
        both = {one.input.strip() for one in examples} & {one.input.strip() for one in set_aside}
        if both:
            raise UserError(f"the example {min(both)[:40]!r} is in dev and in held_out: leave it out of one of them.")
    if isinstance(candidates, str):
        raise UserError(f"the candidates are the text {candidates!r}: give a list.")
    task = Task(
        reading_model(model, tokenizer),
        pool,
        tuple(examples[i] for i in chosen),
        set_aside,
        tuple(candidates or ()),
        Limits(**limits),
        metric,
        match,
        parts,
        about,
    )
    task.check_lengths()
    return task, None if check_with is None else second_task(task, check_with), (chosen, aside)
