"""An explanation in a terminal: the warning first, then the answer, the demonstrations and the checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from iclens.display_text import one_line, percent, plain, scientific, signed
from iclens.lens.explanation import Explanation
from iclens.lens.facts import ADDITIVE, METHODS
from iclens.lens.prompt.sources import DEMONSTRATION
from iclens.lens.views import VIEWS

_BAR = 8
_MOST_PAIRS = 6
_MOST_UPDATES = 12
_MOST_OPENED = 3
_MOST_CITED = 3
_EIGHTHS = " ▏▎▍▌▋▊▉"
_FOR, _AGAINST, _FAINT, _ALARM = "blue", "dark_orange3", "dim", "bold red"
_WITHOUT_UNICODE = str.maketrans(
    {"−": "-", "–": "-", "…": "...", "↵": "\\n", "→": "\\t", "█": "#", "·": ";", "✓": "", "✗": ""}
    | dict.fromkeys(_EIGHTHS[1:4], "") | dict.fromkeys(_EIGHTHS[4:], "#")
)  # fmt: skip
_COLUMNS = {
    "influence_deletions": "effect of\ndeleting",
    "influence_knock_out": "influence,\nknock-out",
    "gradient_step": "direct\neffect",
    "path": "total\neffect",
    "knock_out": "knock-\nout",
    "rerun": "text\nremoved",
}
PARTS = {
    "first": "first token (attention sink)",
    "instruction": "instruction",
    "separator": "separators",
    "special": "special tokens",
    "query": "the query",
    "answer": "the answer's own tokens",
    "learned_sinks": "learned sinks",
    "entropy": "entropy of the predictions",
}


UPDATES = {
    "rest": "other tokens that were taken away",
    "states": "changed states of the tokens that stay",
    "norms": "changed scales of norms",
}


@VIEWS.register("text")
def as_text(explanation: Explanation, width: int = 100) -> str:
    """The table of the command as plain text without colours, of `width` columns at most."""
    stream = StringIO()
    print_table(
        explanation, Console(file=stream, width=width, force_terminal=False, force_jupyter=False, highlight=False)
    )
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def print_table(explanation: Explanation, console: Console) -> None:
    """Prints an explanation, readable from 80 columns on.

    Text of the prompt and the model is printed as text: it is no markup, and invisible characters are written out.
    """
    _Printer(explanation, console).print()


class _Printer:
    def __init__(self, explanation: Explanation, console: Console) -> None:
        self.e = explanation
        self.noun = one_line(explanation.noun, 40)
        self.console = console
        self.unicode = console.encoding.lower().startswith("utf")

    def print(self) -> None:
        if not self.e.exact:
            self._warning()
        self._answer()
        self._conclusion()
        self._demonstrations()
        self._pieces()
        self._statements()
        self._pairs()
        self._patch()
        self._others()
        self._agreement()
        self._checks()

    def text(self, text: str, style: str = "") -> Text:
        if not self.unicode:
            text = text.translate(_WITHOUT_UNICODE)
            text = text.encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)
        return Text(text, style)

    def line(self, *parts: str | Text) -> None:
        self.console.print(Text.assemble(*map(self._cell, parts)), soft_wrap=False, highlight=False)

    def heading(self, title: str, remark: str = "") -> None:
        self.console.print()
        self.line(self.text(title, "bold"), self.text(f"  {remark}" if remark else "", _FAINT))

    def faint(self, text: str) -> Text:
        return self.text(text, _FAINT)

    def bar(self, value: float, largest: float) -> Text:
        if not (largest > 0.0) or value != value:
            return Text("")
        eighths = min(8 * _BAR, int(abs(value) / largest * 8 * _BAR + 0.5))
        drawn = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        return self.text(drawn, _FOR if value > 0 else _AGAINST)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print a table of named columns: numbers below a name that begins with `>`, bars below `|`."""
        table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=any(name.lstrip(">|") for name in columns))
        for name in columns:
            table.add_column(
                self.faint(name.lstrip(">|")),
                justify="right" if name.startswith(">") else "left",
                no_wrap=name.startswith(">"),
                overflow="fold",
                min_width=_BAR if name == "|" else None,
            )
        for row in rows:
            table.add_row(*map(self._cell, row))
        self.console.print(Padding(table, (0, 0, 0, 1)), highlight=False)

    def _cell(self, part: str | Text) -> Text:
        return self.text(part) if isinstance(part, str) else part

    def name(self, index: int) -> str:
        """What a source is called; by its number where the explanation lacks it."""
        called = {effect.index: effect.shown for effect in self.e.sources}
        return one_line(called.get(index, f"#{index}"), 40)

    def _warning(self) -> None:
        self.line(self.text("Do not trust these numbers: ", _ALARM), "they differ from the model's own.")
        for residual in self.e.residuals:
            if not residual.holds:
                value, most = self.text(scientific(residual.value), _ALARM), scientific(residual.tolerance)
                self.line(f"  {one_line(residual.name)}: ", value, f", at most {most} is accepted")
        self.console.print()

    def _answer(self) -> None:
        response = self.e.response
        title = "Answer" if response is None else "Response" if response.statement is None else "Statement"
        most = 200 if response is None else 1000
        size = max(18, len(self.e.quantity) + 2)
        self.line(title.ljust(size), self.text(one_line(self.e.answer.strip(), most), "bold"))
        if response is not None and response.statement is not None:
            self.line("Response".ljust(size), one_line(response.text.strip(), most))
        if response is not None and response.foil is not None:
            self.line("Foil".ljust(size), one_line(response.foil.strip(), most))
        margin = self.text(f"{signed(self.e.margin)} nats", "bold")
        noun = self.e.quantity[:1].upper() + self.e.quantity[1:]
        self.line(noun.ljust(size), margin, self.faint(f"  {one_line(self.e.margin_definition)}"))
        rows = []
        for entry in self.e.candidates:
            name = self.text(one_line(entry.text, 60), "bold" if entry.chosen else "")
            bar, log = self.bar(entry.probability, 1.0), self.faint(f"log {plain(entry.log_probability)}")
            rows.append((name, percent(entry.probability), bar, log))
        if rows:
            self.heading("Candidate answers")
            self.table(("", ">", "", ">"), rows)
        self.heading("Most likely next tokens")
        likely = [f"{one_line(token.text, 24)!r} {percent(token.probability)}" for token in self.e.next_tokens[:5]]
        self.line(" " + " · ".join(likely))

    def _conclusion(self) -> None:
        if self.e.conclusion:
            self.heading("In words")
        for sentence in self.e.conclusion:
            self.line(f" {one_line(sentence)}")

    def _demonstrations(self) -> None:
        names = self.e.scores
        # Other methods have units of their own, such as attention weights.
        unit = f"nats of {self.e.quantity}" if set(names) <= set(METHODS) else "each score in its own unit"
        noun = self.noun
        self.heading(f"{noun[:1].upper()}{noun[1:]}s", f"{unit}; + supports the answer, − opposes it")
        numbered = noun == DEMONSTRATION
        columns = [">#" if numbered else "", noun if numbered else "text"]
        for name in names:
            columns.append(">" + _COLUMNS.get(name, one_line(name.replace("_", "\n"), 24)))
            columns += ["|"] if name == names[0] else []
            columns += [">(log p)"] if name == "knock_out" else []
        removed = "rerun" not in names and any(one.rerun_margin_change is not None for one in self.e.sources)
        columns += [">" + _COLUMNS["rerun"]] if removed else []
        taken = 12 + 11 * len(columns[2:])
        most = min(160, max(40, 2 * (self.console.width - taken)))
        sizes = (abs(effect.score(names[0]) or 0.0) for effect in self.e.sources)
        largest = max((size for size in sizes if size < math.inf), default=0.0)
        rows = []
        for effect in self.e.ranked():
            row: list[str | Text] = [
                self.faint(str(effect.index) if numbered else one_line(effect.shown, 40)),
                one_line(effect.text, most),
            ]
            for name in names:
                row.append(signed(effect.score(name)))
                row += [self.bar(effect.score(name) or 0.0, largest)] if name == names[0] else []
                if name == "knock_out" and effect.knock_out is not None:
                    row.append(self.faint(signed(effect.knock_out.log_probability_change)))
            row += [self._removed(effect.rerun_margin_change)] if removed else []
            rows.append(row)
        totals: list[str | Text] = ["", self.faint("all together")]
        for name in names:
            total = sum(effect.score(name) or 0.0 for effect in self.e.sources)
            totals.append(signed(total) if name in ADDITIVE else "")
            totals += [""] * ((name == names[0]) + (name == "knock_out"))
        self.table(columns, [*rows, totals] if set(ADDITIVE) & set(names) else rows)
        if "knock_out" in names:
            self.line(self.faint(" (log p): the knock-out's effect on the answer's log-probability"))
        if self.e.group_knock_outs:
            self.heading("Knocked out together")
            groups = []
            for group in self.e.group_knock_outs:
                left_out = [self.name(i).removeprefix("#") for i in group.demonstrations]
                without, log = ", ".join(left_out), signed(group.log_probability_change)
                groups.append((without, signed(group.margin), signed(group.margin_change), self.faint(log)))
            self.table(("without", f">{self.e.quantity}", ">knock-out", ">(log p)"), groups)

    def _removed(self, change: float | None) -> str:
        """A change by deletion; nothing where the budget did not reach it."""
        return "" if change is None else signed(change)

    def _pieces(self) -> None:
        """What is within the strongest sources."""
        score = next((name for name in self.e.scores if name in ADDITIVE), "")
        every = [effect for effect in self.e.sources if len(effect.pieces) > 1]
        shown = sorted(every, key=lambda effect: -abs(effect.score(score) or 0.0))[:_MOST_OPENED]
        if not shown:
            return
        removed = any(one.rerun_margin_change is not None for effect in shown for one in effect.pieces)
        rows = []
        for effect in shown:
            for one in effect.pieces:
                name = f"{one_line(effect.shown, 40)}, {one_line(one.kind, 20)} {one.index}"
                row: list[str | Text] = [self.faint(name), one_line(one.text, 100), signed(one.scores.get(score))]
                rows.append([*row, *([self._removed(one.rerun_margin_change)] if removed else [])])
        self.heading("Within the strongest", METHODS[score])
        columns = ["", "text", ">" + _COLUMNS.get(score, score), *([">" + _COLUMNS["rerun"]] if removed else [])]
        self.table(columns, rows)

    def _statements(self) -> None:
        """What each statement of a response rests on."""
        if self.e.response is None or not self.e.response.statements:
            return
        self.heading("Statements", "log-probability of each, and what it rests on, by influence")
        rows = []
        for one in self.e.citations("influence"):
            names = (f"{self._shown(source)} {signed(source['score'])}" for source in one["sources"][:_MOST_CITED])
            more = ", …" if one["sources"][_MOST_CITED:] else ""
            rows.append((one_line(one["statement"], 60), signed(one["log_probability"]), ", ".join(names) + more))
        self.table(("", ">", ""), rows)

    def _shown(self, source: Mapping[str, Any]) -> str:
        called = {effect.name: effect.shown for effect in self.e.sources}
        return one_line(called[source["name"]], 40)

    def _pairs(self) -> None:
        pairs = self.e.pairs
        if pairs is None:
            return
        n = len(pairs.matrix)
        every = sorted(((i, j) for i in range(n) for j in range(i)), key=lambda at: -abs(pairs.matrix[at[0]][at[1]]))
        self.heading("Pairs", "change of one influence by the full weight of the other, in nats")
        rows = [
            (
                f"{self.name(j)} and {self.name(i)}",
                signed(pairs.matrix[i][j]),
                self.faint(f"± {plain(2 * pairs.noise[i][j])}"),
            )
            for i, j in every[:_MOST_PAIRS]
        ]
        self.table(("", ">", ">"), rows)
        error = f"error {plain(pairs.error)} nats where the {self.e.quantity} varies by {plain(pairs.spread)}"
        self.line(self.faint(f" subsets predicted with pairs: {error} (random halves)"))
        if pairs.error >= pairs.spread:
            self.line(self.faint(" no better than their mean: for one subset, knock out the others (--knock-out)"))

    def _patch(self) -> None:
        patch = self.e.patch
        if patch is None:
            return
        n = len(patch.by_layer)
        self.heading("Weight updates", f"ΔW of rank 1 in {n} MLPs, where the answer begins; means over layers")
        order = sorted(range(len(patch.sources)), key=lambda i: -patch.sources[i].size)
        rows: list[Sequence[str | Text]] = []
        for i in order[:_MOST_UPDATES]:
            one = patch.sources[i]
            alike = "" if one.alike is None else f"{self.name(one.alike)} ({_known(one.cosine)})"
            parts = (_of_update(one.share), _of_update(one.displaced))
            rows.append((self.name(i), f"{1e3 * one.size:.2f} ‰", *parts, str(one.largest_in), alike))
        left = [patch.sources[i] for i in order[_MOST_UPDATES:]]
        if left:
            sums = (_of_update(sum(one.share for one in left)), _of_update(sum(one.displaced for one in left)))
            rows.append((self.faint(f"{len(left)} others"), "", *sums, "", ""))
        # What is zero but for rounding is left out.
        others = {UPDATES[name]: share for name, share in patch.shares.items() if abs(share) >= 5e-4}
        rows += [(self.faint(name), "", _of_update(share), "", "", "") for name, share in others.items()]
        columns = ("", ">size, of |W|", ">part of ΔW", ">it displaces", ">largest in layer", "most alike (cosine)")
        self.table(columns, rows)
        self.line(self.faint(f" {patch.n_kept} tokens stay without the {self.noun}s, and run alone with these weights"))

    def _others(self) -> None:
        known = [name for name in ("gradient_step", "path") if name in self.e.scores]
        if not known:
            return
        self.heading("The rest of the prompt")
        rows = [
            (one_line(PARTS.get(other.name, other.name), 60), *(signed(getattr(other, name)) for name in known))
            for other in self.e.others
        ]
        self.table(("", *(">" + _COLUMNS[name].replace("\n", " ") for name in known)), rows)

    def _agreement(self) -> None:
        if self.e.agreement:
            self.heading("Agreement")
            rows = [
                (
                    f"{_method(one.first)} and {_method(one.second)}",
                    _known(one.spearman),
                    f"{percent(one.top_k)} of {one.k}",
                )
                for one in self.e.agreement
            ]
            self.table(("", ">rank correlation", ">shared at the top"), rows)
        if self.e.faithfulness:
            self.heading("Faithfulness", f"over {self.e.faithfulness[0].n_subsets} random subsets")
            rows = [
                (_method(test.method), _known(test.lds), f"{signed(test.margin_drop)} (top {test.k})")
                for test in self.e.faithfulness
            ]
            self.table(("", ">LDS", f">{self.e.quantity} lost without the top"), rows)

    def _checks(self) -> None:
        self.heading("Checks", "relative differences")
        rows = []
        for residual in self.e.residuals:
            verdict = self.text("✓ holds") if residual.holds else self.text("✗ exceeded", _ALARM)
            most = self.faint(f"at most {scientific(residual.tolerance)}")
            rows.append((one_line(residual.name), scientific(residual.value), most, verdict))
        shares = self.e.completeness
        if shares is not None:
            verdict = self.text("✓ complete" if shares.holds else "✗ incomplete")
            name = f"shares against what the {self.noun}s change, at {len(shares.weights)} weights"
            rows.append((name, scientific(shares.gap), self.faint(f"at most {scientific(shares.tolerance)}"), verdict))
        self.table(("", ">", "", ""), rows)
        cost = self.e.cost
        passes = f"{cost.forward_passes:.1f} forward and {cost.backward_passes:.1f} backward passes"
        self.line(self.faint(f" {passes}"))
        if self.e.notes:
            self.heading("Notes")
        for note in self.e.notes:
            self.line(f" {one_line(note)}")


def _known(correlation: float | None) -> str:
    return "undefined" if correlation is None else plain(correlation)


def _method(name: str) -> str:
    return METHODS.get(name, one_line(name, 40))


def _of_update(share: float) -> str:
    return f"{100.0 * share:+.1f} %".replace("-", "−")
