"""Another model that runs what one model chose: a small open model may choose for a larger one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from iclens.errors import UserError
from iclens.lens.calls import reading_model
from iclens.selection.comparing import Compared, compared
from iclens.selection.evaluator import Order
from iclens.selection.task import Task


@dataclass(frozen=True)
class Checked:
    """What another model reaches with the starting and with the chosen prompt.

    Attributes:
        model: its name.
        held_out: start and choice on the examples that took no part in the choice.
        tokens: of the starting prompt and of the chosen one, by its tokenizer, with the first development example.
        passes: what that cost; a pass is a reading of the whole pool with one query.
        pass_tokens: tokens of a pass, by its tokenizer.
    """

    model: str
    held_out: Compared
    tokens: tuple[int, int]
    passes: float
    pass_tokens: float


def second_task(task: Task, model: Any) -> Task:
    """Prepare the same pool and examples for another model; nothing runs.

    Args:
        task: the choice that is checked.
        model: what `explain` takes.

    Raises:
        UserError: the model cannot be read, an answer cannot be told by its tokenizer, or a prompt exceeds its context.
    """
    lens_model = reading_model(model)
    second = replace(task, lens_model=lens_model, notes=[], ledgers=[])
    try:
        second.check_lengths()
        _check_room(second, task)
    except UserError as error:
        raise UserError(f"{lens_model.name}, which is to check the choice: {error}") from None
    return second


def check_choice(task: Task, second: Task, order: Order, tell: Callable[[float], None]) -> Checked:
    """Run the starting and the chosen prompt by the other model on the examples that took no part.

    The demonstrations have the labels with which they were chosen.
    """
    second = replace(second, pool=replace(second.pool, demonstrations=task.shots), tell=tell, ledgers=[])
    evaluator = second.evaluator(f"checked with {second.lens_model.name}", second.aside)
    said = evaluator.said([task.start, order])
    tokens = second.tokens(task.start), second.tokens(order)
    passes = evaluator.ledger.passes
    return Checked(second.lens_model.name, compared(said, 0, 1), tokens, passes, second.pass_tokens)


def cost_of_check(task: Task, second: Task) -> float:
    """Passes of the other model, about."""
    sizes, unit = second.sizes, second.pass_tokens
    most = task.limits.k or len(sizes)
    start = sum(sizes[i] for i in task.start)
    return (start + sum(sizes) * most / len(sizes) + 2 * len(task.aside) * (unit - sum(sizes))) / unit


def _check_room(second: Task, task: Task) -> None:
    """Refuse a model that cannot read the starting prompt, or the longest one that may be chosen."""
    longest = sorted(second.sizes)[-(task.limits.k or len(task.start)) :]
    size = max(sum(second.sizes[i] for i in task.start), sum(longest))
    if size > second.context:
        raise UserError(
            f"the demonstrations of a prompt have up to {size} tokens for this model, and its context has room for "
            f"{second.context}: choose fewer, or leave it out."
        )
