"""An explanation in a terminal: the warning first, then the answer, the demonstrations and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iclens.display_text import one_line, percent, plain, scientific, signed
from iclens.lens.explanation import Explanation
from iclens.lens.views import VIEWS

_BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FOR, _AGAINST, _FAINT, _ALARM = "blue", "dark_orange3", "dim", "bold red"
_WITHOUT_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "…": "...", "↵": "\\n", "→": "\\t", "█": "#", "·": ";", "✓": "", "✗": ""}
    | dict.fromkeys(_EIGHTHS[1:4], "") | dict.fromkeys(_EIGHTHS[4:], "#")
)  # fmt: skip
METHODS = {
    "gradient_step": "direct effect (gradient step)",
    "path": "total effect (path)",
    "knock_out": "knock-out",
    "rerun": "text removed",
}
_COLUMNS = {
    "gradient_step": "direct\neffect",
    "path": "total\neffect",
    "knock_out": "knock-\nout",
    "rerun": "text\nremoved",
}
PARTS = {
    "instruction": "instruction",
    "separator": "separators",
    "special": "special tokens",
    "query": "the query",
    "answer": "the answer's own tokens",
}
_TEXT_COLUMNS = 100
"""Columns of an explanation as text."""


@VIEWS.register("text")
def as_text(explanation: Explanation, width: int = _TEXT_COLUMNS) -> str:
    """The table of the command as plain text, without colours.

    Args:
        explanation: what was found.
        width: columns at most.
    """
    stream = StringIO()
    print_table(explanation, Console(file=stream, width=width, force_terminal=False, highlight=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def print_table(explanation: Explanation, console: Console) -> None:
    """Prints an explanation, readable from 80 columns on.

    Text of the prompt and the model is printed as text: it is no markup, and invisible characters are written out.
    """
    _Printer(explanation, console).print()


class _Printer:
    def __init__(self, explanation: Explanation, console: Console) -> None:
        self.e = explanation
        self.console = console
        self.unicode = console.encoding.lower().startswith("utf")

    def print(self) -> None:
        if not self.e.exact:
            self._warning()
        self._answer()
        self._demonstrations()
        self._others()
        self._agreement()
        self._checks()

    def text(self, text: str, style: str = "") -> Text:
        if not self.unicode:
            text = text.translate(_WITHOUT_UNICODE)
            text = text.encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)
        return Text(text, style)

    def line(self, *parts: Text) -> None:
        self.console.print(Text.assemble(*parts), soft_wrap=False, highlight=False)

    def heading(self, title: str, remark: str = "") -> None:
        self.console.print()
        self.line(self.text(title, "bold"), self.text(f"  {remark}" if remark else "", _FAINT))

    def bar(self, value: float, largest: float) -> Text:
        if not (largest > 0.0) or value != value:
            return Text("")
        eighths = min(8 * _BAR, int(abs(value) / largest * 8 * _BAR + 0.5))
        drawn = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        return self.text(drawn, _FOR if value > 0 else _AGAINST)

    def table(self, *columns: tuple[str, bool]) -> Table:
        """A table of named columns; True for numbers."""
        table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=any(name for name, _ in columns))
        for name, numeric in columns:
            table.add_column(
                self.text(name, _FAINT),
                justify="right" if numeric else "left",
                no_wrap=numeric,
                overflow="fold",
                ratio=None,
            )
        return table

    def show(self, table: Table) -> None:
        self.console.print(Padding(table, (0, 0, 0, 1)), highlight=False)

    def _warning(self) -> None:
        self.line(self.text("Do not trust these numbers: ", _ALARM), self.text("they differ from the model's own."))
        for residual in self.e.residuals:
            if not residual.holds:
                self.line(
                    self.text(f"  {one_line(residual.name)}: "),
                    self.text(scientific(residual.value), _ALARM),
                    self.text(f", at most {scientific(residual.tolerance)} is accepted"),
                )
        self.console.print()

    def _answer(self) -> None:
        self.line(self.text("Answer            "), self.text(one_line(self.e.answer.strip(), 200), "bold"))
        self.line(
            self.text("Logit difference  "), self.text(f"{signed(self.e.margin)} nats", "bold"),
            self.text(f"  {one_line(self.e.margin_definition)}", _FAINT),
        )  # fmt: skip
        if self.e.candidates:
            self.heading("Candidate answers")
            table = self.table(("", False), ("", True), ("", False), ("", True))
            for entry in self.e.candidates:
                table.add_row(
                    self.text(one_line(entry.text, 60), "bold" if entry.chosen else ""),
                    self.text(percent(entry.probability)),
                    self.bar(entry.probability, 1.0),
                    self.text(f"log {plain(entry.log_probability)}", _FAINT),
                )
            self.show(table)
        self.heading("Most likely next tokens")
        likely = [f"{one_line(token.text, 24)!r} {percent(token.probability)}" for token in self.e.next_tokens[:5]]
        self.line(self.text(" " + " · ".join(likely)))

    def _demonstrations(self) -> None:
        names = self.e.scores
        self.heading("Demonstrations", "nats of logit difference; + supports the answer, − opposes it")
        columns = [("#", True), ("demonstration", False)]
        for place, name in enumerate(names):
            columns.append((_COLUMNS.get(name, one_line(name.replace("_", "\n"), 24)), True))
            columns += [("", False)] if place == 0 else []
            columns += [("(log p)", True)] if name == "knock_out" else []
        table = self.table(*columns)
        table.columns[3].min_width = _BAR
        taken = 12 + 11 * len(columns[2:])
        most = min(160, max(40, 2 * (self.console.width - taken)))
        largest = largest_magnitude([effect.score(names[0]) or 0.0 for effect in self.e.sources])
        for effect in self.e.ranked():
            row = [self.text(str(effect.index), _FAINT), self.text(one_line(effect.text, most))]
            for place, name in enumerate(names):
                row.append(self.text(signed(effect.score(name))))
                row += [self.bar(effect.score(name) or 0.0, largest)] if place == 0 else []
                if name == "knock_out" and effect.knock_out is not None:
                    row.append(self.text(signed(effect.knock_out.log_probability_change), _FAINT))
            table.add_row(*row)
        self.show(table)
        if "knock_out" in names:
            self.line(
                self.text(" (log p): the same for the answer's log-probability: with it minus without it", _FAINT)
            )
        if self.e.group_knock_outs:
            self.heading("Knocked out together")
            table = self.table(("without", False), ("logit difference", True), ("knock-out", True), ("(log p)", True))
            for group in self.e.group_knock_outs:
                table.add_row(
                    self.text(", ".join(map(str, group.demonstrations))),
                    self.text(signed(group.margin)),
                    self.text(signed(group.margin_change)),
                    self.text(signed(group.log_probability_change), _FAINT),
                )
            self.show(table)

    def _others(self) -> None:
        self.heading("The rest of the prompt")
        table = self.table(("", False), ("direct effect", True), ("total effect", True))
        for other in self.e.others:
            table.add_row(
                self.text(one_line(PARTS.get(other.name, other.name), 60)),
                self.text(signed(other.gradient_step)),
                self.text(signed(other.path)),
            )
        self.show(table)

    def _agreement(self) -> None:
        if self.e.agreement:
            self.heading("Agreement")
            table = self.table(("", False), ("rank correlation", True), ("shared at the top", True))
            for pair in self.e.agreement:
                table.add_row(
                    self.text(f"{_method(pair.first)} and {_method(pair.second)}"),
                    self.text("undefined" if pair.spearman is None else plain(pair.spearman)),
                    self.text(f"{percent(pair.top_k)} of {pair.k}"),
                )
            self.show(table)
        if self.e.faithfulness:
            self.heading("Faithfulness", f"over {self.e.faithfulness[0].n_subsets} random subsets")
            table = self.table(("", False), ("LDS", True), ("logit difference lost without the top", True))
            for test in self.e.faithfulness:
                table.add_row(
                    self.text(_method(test.method)),
                    self.text("undefined" if test.lds is None else plain(test.lds)),
                    self.text(f"{signed(test.margin_drop)} (top {test.k})"),
                )
            self.show(table)

    def _checks(self) -> None:
        self.heading("Checks", "relative differences")
        table = self.table(("", False), ("", True), ("", False), ("", False))
        for residual in self.e.residuals:
            table.add_row(
                self.text(one_line(residual.name)),
                self.text(scientific(residual.value)),
                self.text(f"at most {scientific(residual.tolerance)}", _FAINT),
                self.text("✓ holds") if residual.holds else self.text("✗ exceeded", _ALARM),
            )
        self.show(table)
        self._notes(self.e.notes)

    def _notes(self, notes: Sequence[str]) -> None:
        if notes:
            self.heading("Notes")
        for note in notes:
            self.line(self.text(f" {one_line(note)}"))


def _method(name: str) -> str:
    return METHODS.get(name, one_line(name, 40))


def largest_magnitude(values: Sequence[float]) -> float:
    """The largest finite magnitude, 0 when there is none."""
    return max((abs(value) for value in values if abs(value) < float("inf")), default=0.0)
