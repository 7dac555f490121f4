"""The report of `iclens select` as a page: the conclusion, the pool, what was kept, and the prompts side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from iclens.display_text import one_line, signed
from iclens.intervals import Estimate
from iclens.report import kept_chart
from iclens.report.pages import render
from iclens.report.prompts_beside import beside
from iclens.report.scale import Scale, around_zero, holding, is_finite
from iclens.selection import Selection
from iclens.selection.comparing import Compared, Measured, is_clear
from iclens.selection.conclusion import conclusion
from iclens.selection.judging import HELPS, HURTS, Judged
from iclens.selection.views import VIEWS

MOST_SENTENCES = 6
"""Sentences of the conclusion that are shown at once; the others unfold."""

_MOST_INPUT, _MOST_OUTPUT = 160, 60
"""Characters of a demonstration that its row shows; the rest unfolds."""

_STYLES = ("page.css", "verdicts.css", "controls.css", "charts.css", "selection.css")
_TONES = {HELPS: "for", HURTS: "against"}


@dataclass(frozen=True)
class Interval:
    """An estimate as a number and as a bar.

    Attributes:
        value: the estimate.
        scale: of the bar.
        signed: whether it is a change, which is written with its sign.
    """

    value: Estimate
    scale: Scale
    signed: bool = True

    @property
    def is_drawn(self) -> bool:
        """Whether there are numbers: a metric of the caller may give none."""
        return is_finite(self.value)

    @property
    def mean(self) -> str:
        """The mean as text."""
        return self._text(self.value.mean)

    @property
    def ends(self) -> str:
        """The interval as text."""
        return f"[{self._text(self.value.low)}, {self._text(self.value.high)}]"

    def _text(self, value: float) -> str:
        return signed(value) if self.signed or not isfinite(value) else f"{value:.3f}".replace("-", "−")


@dataclass(frozen=True)
class Worth:
    """A row of what prompts are worth: one prompt or a difference, on some examples.

    Attributes:
        what: the prompt, or which less which.
        metric, log_loss: what it reaches.
        is_change: whether it is a difference.
    """

    what: str
    metric: Interval
    log_loss: Interval
    is_change: bool = False


@dataclass(frozen=True)
class Hurt:
    """An example that a demonstration hurts: its number in the development set, its text, and by how many nats."""

    number: int
    input: str
    output: str
    nats: float


@dataclass(frozen=True)
class Row:
    """A demonstration of the pool as its row shows it.

    Attributes:
        one: what was found of it.
        input, output: its text on one line.
        is_cut: whether there is more of it.
        text_rank, output_rank, verdict_rank: places in the alphabet.
        tone: the colour of its verdict.
        partner: the demonstration of the prompt that it is said with: itself, where others repeat it; or None.
        repeated_by: those that say the same as it.
        effect, without: the bars.
        hurts: the examples that it hurts.
        kinds: what the rows are filtered by.
    """

    one: Judged
    input: str
    output: str
    is_cut: bool
    text_rank: int
    output_rank: int
    verdict_rank: int
    tone: str
    partner: int | None
    repeated_by: tuple[int, ...]
    effect: Interval | None
    without: Interval | None
    hurts: tuple[Hurt, ...]
    kinds: tuple[str, ...]


@VIEWS.register("page")
def selection_page(found: Selection) -> str:
    """Write one HTML file that opens from a disk and loads nothing: what `iclens select --html` writes.

    It shows the numbers of the choice and computes none.

    Args:
        found: the choice.
    """
    rows = _rows(found)
    before, after = beside(found)
    sentences = conclusion(found)
    return render(
        "selection.html",
        _STYLES,
        script="selection.js",
        found=found,
        sentences=(sentences[:MOST_SENTENCES], sentences[MOST_SENTENCES:]),
        tones=_tones(found),
        worth=_worth(found),
        rows=sorted(rows, key=lambda row: (row.one.place is None, row.one.place, row.one.index)),
        kinds=_kinds(rows),
        repeated=[row for row in rows if row.repeated_by],
        charts=kept_chart.charts(found),
        area=kept_chart,
        before=before,
        after=after,
    )


def _tones(found: Selection) -> dict[str, str]:
    """How the differences are coloured: better, worse, or neither where it may be chance."""
    change = found.held_out.change
    return {"metric": _tone(change.metric, 1), "log_loss": _tone(change.log_loss, -1)}


def _tone(change: Estimate, good: int) -> str:
    return "" if not is_clear(change) else "holds" if change.mean * good > 0 else "fails"


def _worth(found: Selection) -> list[tuple[str, int, list[Worth]]]:
    """For the examples that took no part and those that chose: who they are, how many, and the rows."""
    groups = [("took no part", found.held_out), ("chose", found.dev)]
    rivals = [] if found.rival is None else [found.rival]
    every = [one for _, both in groups for one in (both.before, both.after)]
    every += [rival.held_out.before for rival in rivals]
    changes = [both.change for _, both in groups] + [rival.held_out.change for rival in rivals]
    level = tuple(holding(_ends(own), 3, 97) for own in _columns(every))
    change = tuple(around_zero(_ends(own)) for own in _columns(changes))

    def row(what: str, one: Measured, scales: Sequence[Scale], is_change: bool = False) -> Worth:
        metric, log_loss = (Interval(*both, is_change) for both in zip(_both(one), scales, strict=True))
        return Worth(what, metric, log_loss, is_change)

    def rows(both: Compared) -> Iterator[Worth]:
        yield row("start", both.before, level)
        yield row("chosen", both.after, level)
        yield row("chosen less start", both.change, change, True)
        for rival in rivals if both is found.held_out else ():
            yield row(f"by {rival.method}", rival.held_out.before, level)
            yield row(f"chosen less {rival.method}", rival.held_out.change, change, True)

    return [(who, both.after.metric.n, list(rows(both))) for who, both in groups]


def _columns(every: Sequence[Measured]) -> tuple[list[Estimate], list[Estimate]]:
    return [one.metric for one in every], [one.log_loss for one in every]


def _both(one: Measured) -> tuple[Estimate, Estimate]:
    return one.metric, one.log_loss


def _ends(every: Sequence[Estimate]) -> list[float]:
    return [end for one in every for end in (one.mean, one.low, one.high)]


def _rows(found: Selection) -> list[Row]:
    pool = found.demonstrations
    effects = around_zero(_ends([one.effect for one in pool if one.effect is not None]))
    left_out = around_zero(_ends([one.left_out for one in pool if one.left_out is not None]))
    texts = _ranks([one.input for one in pool])
    outputs = _ranks([one.output for one in pool])
    verdicts = _ranks([one.verdict for one in pool])
    repeated_by: dict[int, list[int]] = {}
    for one in pool:
        if one.redundant_with is not None:
            repeated_by.setdefault(one.redundant_with, []).append(one.index)
    rows = []
    for i, one in enumerate(pool):
        shown = one_line(one.input, _MOST_INPUT), one_line(one.output, _MOST_OUTPUT)
        others = tuple(repeated_by.get(one.index, ()))
        rows.append(
            Row(
                one=one,
                input=shown[0],
                output=shown[1],
                is_cut=shown != (one_line(one.input), one_line(one.output)),
                text_rank=texts[i],
                output_rank=outputs[i],
                verdict_rank=verdicts[i],
                tone=_TONES.get(one.verdict, ""),
                partner=one.index if others else one.redundant_with,
                repeated_by=others,
                effect=None if one.effect is None else Interval(one.effect, effects),
                without=None if one.left_out is None else Interval(_without(one.left_out), left_out),
                hurts=tuple(_hurts(found, one)),
                kinds=tuple(_kinds_of(one)),
            )
        )
    return rows


def _ranks(texts: Sequence[str]) -> list[int]:
    """The place of each text in the alphabet; texts that are alike share one."""
    places = {text: place for place, text in enumerate(sorted(set(texts), key=lambda one: (one.casefold(), one)))}
    return [places[text] for text in texts]


def _without(left_out: Estimate) -> Estimate:
    """What changes when a demonstration goes: the table of the command shows it with this sign too."""
    return Estimate(-left_out.mean, -left_out.high, -left_out.low, left_out.n)


def _hurts(found: Selection, one: Judged) -> Iterator[Hurt]:
    for q, nats in zip(one.hurts_on, one.hurts_by, strict=True):
        example = found.examples[q]
        yield Hurt(found.development[q], example.input, str(example.output), nats)


def _kinds_of(one: Judged) -> Iterator[str]:
    yield "chosen" if one.place is not None else "left out"
    yield "redundant" if one.redundant_with is not None else one.verdict
    if one.suspected is not None:
        yield "label in doubt"


def _kinds(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """What rows can be filtered by, and how many there are of each."""
    names = ("chosen", "left out", HELPS, HURTS, "redundant", "unclear", "label in doubt")
    counts = [(name, sum(name in row.kinds for row in rows)) for name in names]
    return [("all", len(rows)), *((name, count) for name, count in counts if count)]
