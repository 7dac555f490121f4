"""A choice in a terminal: in words first, then what it is worth, the demonstrations, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iclens.display_text import one_line, signed
from iclens.intervals import Estimate
from iclens.selection.comparing import Compared, Measured
from iclens.selection.conclusion import conclusion
from iclens.selection.judging import Judged
from iclens.selection.selection import Selection
from iclens.work.progress import duration

_MOST_EXAMPLES = 4


def print_selection(found: Selection, console: Console) -> None:
    """Print a choice, readable from 80 columns on; text of the pool is printed as text."""
    _heading(console, "In words")
    for sentence in conclusion(found):
        console.print(Text(f" {sentence}"))
    _heading(console, "What it is worth", "means with 95 % intervals over examples; a change is paired")
    rows = [
        *_worth("chose", found.dev),
        *_worth("took no part", found.held_out),
        *([] if found.rival is None else _rival(found)),
        *(
            []
            if found.checked is None
            else _worth(f"took no part, by {_short(found.checked.model)}", found.checked.held_out)
        ),
    ]
    name = found.value_name
    _table(console, ("examples that", ">n", "prompt", f">{name}", ">log-loss"), rows)
    _heading(console, "Demonstrations", "effect: nats of the right answer's margin; + helps, − hurts")
    columns = (">#", "demonstration", ">place", "verdict", ">effect", ">without it", "hurts on")
    placed = sorted(found.demonstrations, key=lambda one: (one.place is None, one.place, one.index))
    _table(console, columns, [_row(one, found.development) for one in placed])
    cost = found.cost
    others = "" if found.rival is None else f"{cost.against:.0f} for the other method, "
    passes = f"{cost.choice:.0f} for the choice, {others}{cost.report:.0f} for the rest"
    console.print()
    if found.checked is not None:
        other = found.checked
        passes += f", and {other.passes:.0f} of {other.pass_tokens:.0f} tokens by {_short(other.model)}"
    console.print(Text(f" passes of {cost.pass_tokens:.0f} tokens: {passes}; {duration(cost.seconds)}", "dim"))
    for note in found.notes:
        console.print(Text(f" {one_line(note)}", "dim"))


def _short(model: str) -> str:
    """Return a model's name, of a path the last part."""
    return one_line(model.rstrip("/").rpartition("/")[2], 30)


def _worth(which: str, both: Compared) -> list[Sequence[str]]:
    n = str(both.after.metric.n)
    return [
        (which, n, "start", *_numbers(both.before)),
        ("", "", "chosen", *_numbers(both.after)),
        ("", "", "change", *_numbers(both.change, change=True)),
    ]


def _rival(found: Selection) -> list[Sequence[str]]:
    assert found.rival is not None
    both = found.rival.held_out
    return [
        ("", "", f"by {found.rival.method}", *_numbers(both.before)),
        ("", "", "chosen less that", *_numbers(both.change, change=True)),
    ]


def _numbers(one: Measured, *, change: bool = False) -> tuple[str, str]:
    return _interval(one.metric, change), _interval(one.log_loss, change)


def _interval(one: Estimate, change: bool) -> str:
    return format(one, "+.3f" if change else ".3f").replace("-", "−")


def _row(one: Judged, development: Sequence[int]) -> Sequence[str]:
    text = f"{one_line(one.input, 50)} → {one_line(one.output, 24)}"
    if one.certainty is not None:
        text += f" (model's own, {one.certainty:.0%})"
    if one.suspected is not None:
        text += f" ({one_line(one.suspected, 20)}?)"
    examples = [str(development[q]) for q in one.hurts_on[:_MOST_EXAMPLES]]
    more = len(one.hurts_on) - len(examples)
    return (
        str(one.index),
        text,
        "" if one.place is None else str(one.place + 1),
        one.verdict,
        "" if one.effect is None else signed(one.effect.mean),
        "" if one.left_out is None else signed(-one.left_out.mean),
        ", ".join(examples) + (f" and {more}" if more else ""),
    )


def _heading(console: Console, title: str, remark: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {remark}" if remark else "", "dim")))


def _table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; numbers stand below a name that begins with `>`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            Text(name.lstrip(">"), "dim"), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Padding(table, (0, 0, 0, 1)), highlight=False)
