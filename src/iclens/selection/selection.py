"""What a choice of demonstrations gives."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from iclens.data_frame import data_frame
from iclens.errors import UserError
from iclens.plain_data import finite
from iclens.selection.comparing import Compared, is_clear
from iclens.selection.evaluator import ALIKE
from iclens.selection.examples import Example
from iclens.selection.judging import Judged
from iclens.selection.metrics import ACCURACY, LOG_LOSS
from iclens.selection.second_model import Checked
from iclens.selection.sizes import Size
from iclens.selection.views import VIEWS
from iclens.work.whole_files import write_atomically

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Spending:
    """What a choice cost, in passes: a pass is a reading of the whole pool with one query.

    Attributes:
        choice: for choosing, on the development examples.
        against: for the other method that was given the same budget.
        report: for what is said afterwards: held-out examples, left-out demonstrations, doubtful labels.
        pass_tokens: tokens of a pass.
        seconds: wall time of everything.
    """

    choice: float
    against: float
    report: float
    pass_tokens: float
    seconds: float


@dataclass(frozen=True)
class Rival:
    """What another method chose at the same cost.

    Attributes:
        method: its name.
        indices: its choice, in the order of the prompt.
        held_out: its prompt (before) and the chosen one (after) on the held-out examples.
        sizes: what its prompts of each length reached on the examples that chose.
    """

    method: str
    indices: tuple[int, ...]
    held_out: Compared
    sizes: tuple[Size, ...] = ()

    @property
    def is_as_good(self) -> bool:
        """Whether the chosen prompt is not clearly better on the held-out examples, by the metric or the log-loss.

        A log-loss that is lower by less than a hundredth of a nat counts as the same.
        """
        change = self.held_out.change
        return change.metric.low <= 0 and not (is_clear(change.log_loss) and change.log_loss.mean <= -ALIKE)

    @property
    def is_better(self) -> bool:
        """Whether the other prompt is clearly better on them, by the same measures."""
        change = self.held_out.change
        worse = is_clear(change.log_loss) and change.log_loss.mean >= ALIKE
        return self.is_as_good and (change.metric.high < 0 or worse)

    @property
    def verdict(self) -> str:
        """The verdict on it: `"does better"`, `"is as good"` or `"reaches less"`."""
        return "does better" if self.is_better else "is as good" if self.is_as_good else "reaches less"


@dataclass(frozen=True)
class Selection:
    """Demonstrations that were chosen from a pool, in order, and what that is worth.

    Attributes:
        indices: their numbers in the pool, in the order of the prompt.
        demonstrations: the verdict on every demonstration of the pool.
        start: the prompt that it is compared with, by numbers.
        prompt: the chosen prompt, with `{input}` in the place of a query.
        messages: the same as the messages of a chat, `{input}` in the place of the query; None for a text.
        template, instruction, separator: how it is written; a chat has no template and no separator of ours.
        candidates: among which answers the model chooses; empty for free answers.
        metric: the metric's name.
        dev: start and choice on the examples that chose.
        held_out: start and choice on examples that took no part.
        development: the examples that chose, by their numbers in the development set, in the order of `hurts_on`.
        examples: the examples that chose themselves, in the same order.
        set_aside: those that took no part; empty where other examples were given for that.
        rival: another method at the same cost, or None.
        sizes: what prompts of each length reached on the examples that chose, of those that really ran on all of them.
        checked: what another model reaches with the same prompts, or None.
        tokens: of the starting prompt and of the chosen one, with the first development example as query.
        cost: what was spent.
        model: the model's name.
        method: how it was chosen.
        order: how it was ordered.
        seed: of what was drawn.
        notes: what a reader should know.
        schema_version: of the JSON.
    """

    indices: tuple[int, ...]
    demonstrations: tuple[Judged, ...]
    start: tuple[int, ...]
    prompt: str
    messages: tuple[dict[str, str], ...] | None
    template: str | None
    instruction: str | None
    separator: str | None
    candidates: tuple[str, ...]
    metric: str
    dev: Compared
    held_out: Compared
    development: tuple[int, ...]
    examples: tuple[Example, ...]
    set_aside: tuple[int, ...]
    rival: Rival | None
    sizes: tuple[Size, ...]
    checked: Checked | None
    tokens: tuple[int, int]
    cost: Spending
    model: str
    method: str
    order: str
    seed: int
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The mean effect of every demonstration, or what leaving it out changes; None where neither was measured."""
        found = [one.effect or one.left_out for one in self.demonstrations]
        return tuple(None if one is None else one.mean for one in found)

    @property
    def value_name(self) -> str:
        """What is counted beside the log-loss: the metric's name, and of the log-loss itself the accuracy."""
        return ACCURACY if self.metric == LOG_LOSS else self.metric

    @property
    def tokens_saved(self) -> int:
        """How many tokens shorter the chosen prompt is than the starting one."""
        return self.tokens[0] - self.tokens[1]

    def __str__(self) -> str:
        from rich.console import Console

        from iclens.selection.table import print_selection

        stream = StringIO()
        print_selection(self, Console(file=stream, width=120, force_terminal=False, highlight=False))
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def to_rows(self) -> list[dict[str, Any]]:
        """The demonstrations of the pool, a row each; an interval becomes `effect`, `effect_low` and `effect_high`."""
        rows = []
        for one in self.demonstrations:
            row = asdict(one)
            for name in ("effect", "left_out"):
                value = row[name] or {}
                row[name] = value.get("mean")
                row |= {f"{name}_low": value.get("low"), f"{name}_high": value.get("high")}
            rows.append(row)
        return rows

    def to_pandas(self) -> Any:
        """Return the rows as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.to_rows())

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(finite(asdict(self)), ensure_ascii=False, indent=1) + "\n"

    def chosen_lines(self) -> str:
        """The chosen demonstrations in order, one `{"input", "output"}` a line, as `iclens select` reads a pool."""
        rows = [self.demonstrations[i] for i in self.indices]
        return "".join(
            json.dumps({"input": one.input, "output": one.output}, ensure_ascii=False) + "\n" for one in rows
        )

    def to_html(self) -> str:
        """Return the report as a page in one file, which opens from a disk and loads nothing."""
        return VIEWS["page"](self)

    def prompt_file(self, ending: str) -> str:
        """Return the chosen prompt as the content of a file: its text, or for `.json` the messages of a chat.

        Raises:
            UserError: `.json` where the prompt is no chat.
        """
        if ending.lower() != ".json":
            return self.prompt
        if self.messages is None:
            raise UserError("the prompt is no chat: write it to a .txt file.")
        return json.dumps({"messages": self.messages}, ensure_ascii=False, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write a file: `.jsonl` the chosen ones, `.json` everything, `.txt` the prompt, `.html` the report as a page.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        path = Path(path)
        contents = {
            ".jsonl": self.chosen_lines,
            ".json": self.to_json,
            ".txt": lambda: self.prompt + "\n",
            ".html": self.to_html,
        }
        if path.suffix.lower() not in contents:
            raise UserError(
                f"{path}: end it with .jsonl (the chosen ones), .json (everything), .txt (the prompt), .html (a page)."
            )
        write_atomically(path, contents[path.suffix.lower()]())
