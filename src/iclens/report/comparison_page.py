"""The page of `iclens compare`: what changed in words, the answers, every source, and the prompts side by side."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from iclens.display_text import one_line, percent, signed
from iclens.lens import Comparison, Explanation
from iclens.lens.differences import VIEWS, AnswerPair, ScorePair
from iclens.lens.facts import METHODS
from iclens.lens.score_names import ScoreName
from iclens.report.pages import render
from iclens.report.scale import Scale, around_zero

_STYLES = ("page.css", "verdicts.css", "controls.css", "charts.css", "comparison.css")
_MOST_TEXT = 240
"""Characters of a source that its row of a table shows; the prompts below show all of them."""


@dataclass(frozen=True)
class Cell:
    """A number as text and as a bar from the middle of its column."""

    value: float | None
    scale: Scale

    @property
    def text(self) -> str:
        """The number with its sign; a dash where it is not known."""
        return signed(self.value)


@dataclass(frozen=True)
class Row:
    """A source, or a sum, in a table: its score in A, in B, and the change."""

    name: str
    mark: str
    text: str
    cells: tuple[Cell, Cell, Cell]
    is_sum: bool = False


@dataclass(frozen=True)
class Scored:
    """One score of all sources.

    Attributes:
        name: what it is called.
        unit: its unit, with how to read its sign.
        rows: the sources, from the largest change; then sums, where there are any.
    """

    name: str
    unit: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Block:
    """A source where it stands in one of the prompts.

    Attributes:
        name, text, fate: of the source; beside it its fate as it is written.
        other: what it is called in the other prompt; empty where it is not there, or is called the same.
        cell: its score there; None where scores are not compared.
    """

    name: str
    text: str
    fate: str
    mark: str
    other: str
    cell: Cell | None


@dataclass(frozen=True)
class Side:
    """One of the two explanations.

    Attributes:
        name: `"A"` or `"B"`.
        found: the explanation.
        margin: the explained number, as it is compared.
        likeliest: the answer that is likeliest.
        probability: of it, where it is known.
        instruction, query: what stands before and after the sources.
        blocks: the sources, in the order of the prompt.
    """

    name: str
    found: Explanation
    margin: float
    likeliest: str
    probability: float | None
    instruction: str
    query: str
    blocks: tuple[Block, ...]


@VIEWS.register("page")
def comparison_page(found: Comparison) -> str:
    """Write one HTML file that opens from a disk and loads nothing: what `iclens compare --html` writes.

    It shows the numbers of the comparison and computes none.

    Args:
        found: the comparison.
    """
    tables = tuple(_scored(found, name) for name in found.scores)
    return render(
        "comparison.html",
        _STYLES,
        found=found,
        sides=(_side(found, "A"), _side(found, "B")),
        first=tables[0] if tables else None,
        others=tables[1:],
        percent=_percent,
        points=_points,
    )


@VIEWS.register("cell")
def cell(found: Comparison) -> str:
    """Write a small table for notebooks: what changed in words, and the sources by the first score."""
    words = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.conclusion)
    if not found.scores:
        return f"<ul>{words}</ul>"
    score = found.scores[0]
    rows = ""
    for one in found.ranked():
        pair = one.scores[score]
        numbers = "".join(f"<td>{signed(value)}</td>" for value in (pair.a, pair.b, pair.change))
        text = f"<td style='text-align:left'><bdi>{escape(one_line(one.text, _MOST_TEXT))}</bdi></td>"
        rows += f"<tr><th>{escape(one_line(one.shown, 60))}</th><td>{one.mark}</td>{text}{numbers}</tr>"
    head = f"<th></th><th></th><th>{escape(ScoreName.of(score).long)}</th><th>A</th><th>B</th><th>change</th>"
    return f"<ul>{words}</ul><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _scored(found: Comparison, name: str) -> Scored:
    pairs = [one.scores[name] for one in found.sources]
    level = around_zero([value for pair in pairs for value in (pair.a, pair.b)])
    change = around_zero([pair.change for pair in pairs])

    def cells(pair: ScorePair) -> tuple[Cell, Cell, Cell]:
        return Cell(pair.a, level), Cell(pair.b, level), Cell(pair.change, change)

    rows = [
        Row(one_line(one.shown, 80), one.mark, one_line(one.text, _MOST_TEXT), cells(one.scores[name]))
        for one in found.ranked(name)
    ]
    sums = (("all together", found.total(name)), ("everything else", found.rest.get(name)))
    rows += [Row(what, "", "", cells(pair), is_sum=True) for what, pair in sums if pair is not None]
    unit = f"In nats of the {found.a.quantity}" if name in METHODS else "In its own unit"
    return Scored(ScoreName.of(name).long, unit, tuple(rows))


def _side(found: Comparison, name: str) -> Side:
    one, margin = (found.a, found.margin_a) if name == "A" else (found.b, found.margin_b)
    likeliest = max(one.candidates, key=lambda each: each.log_probability, default=one.next_tokens[0])
    is_answer = one.response is None
    return Side(
        name,
        one,
        margin,
        likeliest.text.strip() if is_answer else one.answer.strip(),
        likeliest.probability if is_answer else None,
        _of_role(one, "instruction"),
        _of_role(one, "query"),
        tuple(_blocks(found, name)),
    )


def _blocks(found: Comparison, name: str) -> list[Block]:
    """The sources of one prompt in its order."""
    key, effects = ("a", found.a.sources) if name == "A" else ("b", found.b.sources)
    score = found.scores[0] if found.scores else None
    scale = around_zero(
        [v for one in found.sources for v in (one.scores[score].a, one.scores[score].b)] if score else []
    )
    those = {getattr(one, key): one for one in found.sources if getattr(one, key) is not None}
    blocks = []
    for i, effect in enumerate(effects):
        one = those[i]
        other = (one.name if one.b is not None else None) if name == "A" else one.was
        number = None if score is None else Cell(getattr(one.scores[score], key), scale)
        shown = "" if other in (None, effect.shown) else str(other)
        blocks.append(Block(effect.shown, effect.text, one.fate, one.mark, shown, number))
    return blocks


def _of_role(found: Explanation, role: str) -> str:
    """What stands in a part of the prompt."""
    return "".join(token.text for token in found.tokens if token.role == role).strip()


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _points(one: AnswerPair) -> str:
    """The change of a probability in percentage points."""
    if one.change is None:
        return "–"
    return f"{100 * one.change:+.1f} points".replace("-", "−")
