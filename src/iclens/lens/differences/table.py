"""The table of `iclens compare`: both answers, then every source with its scores in A and in B."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iclens.display_text import one_line, percent, signed
from iclens.lens.differences.comparison import Comparison, ScorePair
from iclens.lens.differences.views import VIEWS
from iclens.lens.facts import ScoreName

_FAINT = "dim"


@VIEWS.register("text")
def as_text(found: Comparison, width: int = 100) -> str:
    """Write the table as plain text without colours, of `width` columns at most."""
    stream = StringIO()
    print_comparison(
        found, Console(file=stream, width=width, force_terminal=False, force_jupyter=False, highlight=False)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def print_comparison(found: Comparison, console: Console) -> None:
    """Print a comparison. Text of prompts and models is printed as text: it is no markup, nothing in it is hidden."""
    for name, one in (("A", found.a), ("B", found.b)):
        said = f"{one_line(one.answer.strip(), 200)}", f"  {one_line(one.model.name, 60)}{_id(one.id)}"
        console.print(Text.assemble(f"{name}  ", (said[0], "bold"), (said[1], _FAINT)))
    _heading(console, "In words")
    for sentence in found.conclusion:
        console.print(Text(f" {one_line(sentence)}"))
    if found.answers:
        _heading(console, "Answers", "probability")
        rows = [(one_line(one.text, 60), percent_of(one.a), percent_of(one.b)) for one in found.answers]
        _table(console, ("", ">A", ">B"), rows)
    _sources(found, console)
    if found.notes:
        _heading(console, "Notes")
    for note in found.notes:
        console.print(Text(f" {one_line(note)}"))


def percent_of(value: float | None) -> str:
    """A probability; a dash where it is not known."""
    return "–" if value is None else percent(value)


def _id(name: str | None) -> str:
    return "" if name is None else f", {one_line(name, 60)}"


def _sources(found: Comparison, console: Console) -> None:
    noun = found.noun
    rows = [[one_line(one.shown, 40), one.mark, one_line(one.text, 80)] for one in found.ranked()]
    if not found.scores:
        _heading(console, f"{noun[:1].upper()}{noun[1:]}s")
        _table(console, ("", "", "text"), rows)
        return
    for k, name in enumerate(found.scores):
        _heading(
            console,
            f"{ScoreName.of(name).long[:1].upper()}{ScoreName.of(name).long[1:]}",
            "+ supports the answer of A, − opposes it",
        )
        ranked = found.ranked(name)
        rows = [
            [
                one_line(one.shown, 40),
                one.mark,
                *([one_line(one.text, 60)] if k == 0 else []),
                *_cells(one.scores[name]),
            ]
            for one in ranked
        ]
        total, rest = found.total(name), found.rest.get(name)
        lines = [("all together", total), ("everything else", rest)]
        rows += [[what, "", *([""] if k == 0 else []), *_cells(pair)] for what, pair in lines if pair is not None]
        _table(console, ("", "", *(["text"] if k == 0 else []), ">A", ">B", ">change"), rows)


def _cells(pair: ScorePair) -> tuple[str, str, str]:
    return signed(pair.a), signed(pair.b), signed(pair.change)


def _heading(console: Console, title: str, remark: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {remark}" if remark else "", _FAINT)))


def _table(console: Console, columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their columns: numbers below a name that begins with `>`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=any(columns))
    for name in columns:
        is_number = name.startswith(">")
        table.add_column(
            Text(name.lstrip(">"), _FAINT), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(Padding(table, (0, 0, 0, 1)), highlight=False)
