"""What a list of demonstrations reaches as it stands: a check in a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.lens import Prompt
from iclens.lens.calls import reading_model
from iclens.selection.comparing import Measured, measured
from iclens.selection.examples import ExamplesLike, read_examples
from iclens.selection.metrics import ACCURACY, MATCHES, Metric
from iclens.selection.pool import Pool, read_pool
from iclens.selection.task import Limits, Task


def check(
    model: Any,
    demonstrations: ExamplesLike | Prompt | Pool,
    examples: ExamplesLike,
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
    tokenizer: Any = None,
) -> Measured:
    """Run demonstrations as one prompt, in their order, on examples with right answers. See `select`.

    Raises:
        UserError: something cannot be read or does not go together, or the demonstrations do not fit.
    """
    given = demonstrations
    chat: dict[str, Any] = {"as_chat": as_chat, "template_args": template_args, "system_in_user": system_in_user}
    pool = given if isinstance(given, Pool) else read_pool(given, template, instruction, separator, **chat)
    asked = read_examples(examples, "the examples")
    task = Task(reading_model(model, tokenizer), pool, asked, (), tuple(candidates or ()), Limits(), metric, match)
    said = task.evaluator("check", asked).said([tuple(range(len(pool.demonstrations)))])
    return measured(said.values[0], said.log_p[0])
