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
from iclens.lens.score_names import ScoreName

_FAINT = "dim"
_PLAIN = str.maketrans({"−": "-", "–": "-", "…": "...", "↵": "\\n", "→": "->"})
"""What a terminal that knows no Unicode is given instead."""


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
    _Printer(found, console).print()


class _Printer:
    def __init__(self, found: Comparison, console: Console) -> None:
        self.found = found
        self.console = console
        self.unicode = console.encoding.lower().startswith("utf")

    def print(self) -> None:
        found = self.found
        for name, one in (("A", found.a), ("B", found.b)):
            about = one_line(one.model.name, 60) + ("" if one.id is None else f", {one_line(one.id, 60)}")
            self.line(
                f"{name}  ", self.text(one_line(one.answer.strip(), 200), "bold"), self.text(f"  {about}", _FAINT)
            )
        self.heading("In words")
        for sentence in found.conclusion:
            self.line(f" {one_line(sentence)}")
        if found.answers:
            self.heading("Answers", "probability")
            rows = [(one_line(one.text, 60), _percent(one.a), _percent(one.b)) for one in found.answers]
            self.table(("", ">A", ">B"), rows)
        if not found.scores:
            self.heading(f"{found.noun[:1].upper()}{found.noun[1:]}s")
            names = [[one_line(one.shown, 40), one.mark, one_line(one.text, 80)] for one in found.sources]
            self.table(("", "", "text"), names)
        for name in found.scores:
            self.score(name)
        if found.notes:
            self.heading("Notes")
        for note in found.notes:
            self.line(f" {one_line(note)}")

    def score(self, name: str) -> None:
        """One score of all sources, the largest change first; their texts stand beside the first one."""
        found, is_first = self.found, name == self.found.scores[0]
        title = ScoreName.of(name).long
        self.heading(f"{title[:1].upper()}{title[1:]}", "+ supports the answer of A, − opposes it")

        def row(what: str, mark: str, text: str, pair: ScorePair) -> list[str]:
            told = [what, mark, *([text] if is_first else [])]
            return [*told, signed(pair.a), signed(pair.b), signed(pair.change)]

        rows = [
            row(one_line(one.shown, 40), one.mark, one_line(one.text, 60), one.scores[name])
            for one in found.ranked(name)
        ]
        sums = (("all together", found.total(name)), ("everything else", found.rest.get(name)))
        rows += [row(what, "", "", pair) for what, pair in sums if pair is not None]
        self.table(("", "", *(["text"] if is_first else []), ">A", ">B", ">change"), rows)

    def text(self, text: str, style: str = "") -> Text:
        if not self.unicode:
            text = (
                text.translate(_PLAIN).encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)
            )
        return Text(text, style)

    def line(self, *parts: str | Text) -> None:
        self.console.print(Text.assemble(*(self.text(one) if isinstance(one, str) else one for one in parts)))

    def heading(self, title: str, remark: str = "") -> None:
        self.console.print()
        self.line(self.text(title, "bold"), self.text(f"  {remark}" if remark else "", _FAINT))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows below their columns: numbers below a name that begins with `>`."""
        table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=any(columns))
        for name in columns:
            is_number = name.startswith(">")
            table.add_column(
                self.text(name.lstrip(">"), _FAINT),
                justify="right" if is_number else "left",
                no_wrap=is_number,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(self.text(cell) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, 1)), highlight=False)


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
