"""An absorption in a terminal: in words first, then what it is worth, by rank, and by number of demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iclens.absorption.absorbed import Absorbed
from iclens.absorption.conclusion import conclusion
from iclens.absorption.reached import Reached
from iclens.display_text import one_line
from iclens.intervals import Estimate
from iclens.work.progress import duration


def print_absorbed(found: Absorbed, console: Console) -> None:
    """Print an absorption, readable from 100 columns on."""
    _heading(console, "In words")
    for sentence in conclusion(found):
        console.print(Text(f" {sentence}"))
    remark = f"on {found.n_held_out} queries that took no part; means with 95 % intervals; a change is paired"
    _heading(console, "What it is worth", remark)
    columns = ("answered by", ">tokens", ">KL from prompt", f">{found.metric}", ">log-loss", ">its change")
    _table(console, columns, [_main(one) for one in found.main])
    if found.by_rank:
        _heading(console, "By rank", "the rank that is written is among them")
        rows = [(str(one.rank), *_numbers(one)) for one in found.by_rank]
        _table(console, (">rank", ">KL from prompt", ">|Δ log p|", f">{found.metric}", ">log-loss"), rows)
    if found.by_number:
        _heading(console, "By demonstrations", "each prompt, and what it becomes at the rank that is written")
        rows = [(str(one.demonstrations), one.name, *_numbers(one)) for one in found.by_number]
        columns = (">n", "answered by", ">KL from prompt", ">|Δ log p|", f">{found.metric}", ">log-loss")
        _table(console, columns, rows)
    console.print()
    said = (
        f"fitted by {found.n_fitted} queries; {' and '.join(found.targets)} of {len(found.layers)} layers, ridge "
        f"{found.ridge:g}; {duration(found.seconds)}"
    )
    console.print(Text(f" {said}", "dim"))
    for note in found.notes:
        console.print(Text(f" {one_line(note)}", "dim"))


def _main(one: Reached) -> Sequence[str]:
    change = format(one.change.log_loss, "+.3f").replace("-", "−")
    return (
        one.name,
        f"{one.tokens:.0f}",
        _interval(one.divergence),
        _interval(one.reached.metric),
        _interval(one.reached.log_loss),
        "" if one.name == "prompt" else change,
    )


def _numbers(one: Reached) -> tuple[str, ...]:
    return (
        f"{one.divergence.mean:.3f}",
        f"{one.difference.mean:.3f}",
        _interval(one.reached.metric),
        f"{one.reached.log_loss.mean:.3f}",
    )


def _interval(one: Estimate) -> str:
    return format(one, ".3f").replace("-", "−")


def _heading(console: Console, title: str, remark: str = "") -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), (f"  {remark}" if remark else "", "dim")))


def _table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; numbers stand below a name that begins with `>`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in columns:
        right = name.startswith(">")
        table.add_column(Text(name.lstrip(">"), "dim"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Padding(table, (0, 0, 0, 1)), highlight=False)
