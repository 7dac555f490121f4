"""An explanation as one HTML page: formatted, nothing computed, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from iclens.lens.explanation import DemonstrationEffect, Explanation, Token
from iclens.report import display_text
from iclens.report.head_map import (
    N_SHADES,
    ShadePath,
    largest_magnitude,
    shade,
    shade_class,
    shade_paths,
)

_MOST_TITLED_CELLS = 256
_MOST_SMALL_CELLS = 20_000
_TEMPLATES = files("iclens.report") / "templates"

METHODS = {
    "gradient_step": "gradient step",
    "path": "path",
    "knock_out": "knock-out",
    "rerun": "rerun",
}
OTHER_PARTS = {
    "instruction": "Instruction before the demonstrations",
    "separator": "Separators between the parts",
    "special": "Special tokens, such as the beginning of the text",
    "query": "The query itself",
    "answer": "Tokens of the answer before the one that is read",
    "biases": "What the model adds whatever the prompt",
}


@dataclass(frozen=True)
class _Piece:
    """A stretch of the prompt: plain text, a coloured token, or the label of a part."""

    kind: str
    text: str
    css: str = ""
    title: str = ""


@dataclass(frozen=True)
class _Measure:
    """One number of a demonstration with its bar, in hundredths of the column's largest."""

    name: str
    text: str
    left: float
    width: float
    css: str


@dataclass(frozen=True)
class _Row:
    index: int
    text: str
    n_tokens: int
    measures: tuple[_Measure, ...]


@dataclass(frozen=True)
class _Cell:
    x: int
    y: int
    title: str


def render(explanation: Explanation) -> str:
    """The page: one self-contained HTML document.

    It loads nothing and runs no script; a strict Content-Security-Policy says so to the browser. Every string of
    the prompt or the model is escaped, and invisible characters in it are written out.
    """
    style = "\n".join((_read("explain.css").strip(), _shade_rules()))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    total = explanation.total_by_layer_and_head()
    n_cells = len(total) * len(total[0]) if total else 0
    per_head = [v for effect in explanation.demonstrations for row in effect.by_layer_and_head for v in row]
    return _template().render(
        e=explanation,
        style=Markup(style),
        style_digest=digest,
        rows=_rows(explanation),
        pieces=_pieces(explanation),
        token_scales={name: display_text.plain(_scale(explanation.tokens, name)) for name in ("gradient_step", "path")},
        others=_others(explanation),
        other_parts=OTHER_PARTS,
        total_paths=shade_paths(total, _largest(total)),
        total_cells=_titled_cells(total),
        total_largest=display_text.plain(_largest(total)),
        n_rows=len(total),
        n_columns=len(total[0]) if total else 0,
        small_maps=_small_maps(explanation, largest_magnitude(per_head))
        if n_cells * len(explanation.demonstrations) <= _MOST_SMALL_CELLS
        else (),
        small_largest=display_text.plain(largest_magnitude(per_head)),
        shades=range(-N_SHADES, N_SHADES + 1),
        shade_class=shade_class,
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        visible=display_text.visible,
        one_line=display_text.one_line,
        signed=display_text.signed,
        plain=display_text.plain,
        percent=display_text.percent,
        scientific=display_text.scientific,
        method=lambda name: METHODS.get(name, name),
        number=lambda value: "–" if value is None else f"{value:,.0f}",
    )
    return environment.from_string(_read("explain.html"))


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _shade_rules() -> str:
    """The colours of shades: fills of tokens for the chosen method, strokes of map cells."""
    rules = []
    for sign, colour in (("p", "--for"), ("n", "--against")):
        for step in range(1, N_SHADES + 1):
            strength = f"calc({step}*var(--step))"
            mixed = f"rgb(var({colour})/{strength})"
            rules.append(
                f"#by-gradient:checked~.prompt .g{sign}{step},#by-path:checked~.prompt .w{sign}{step}"
                f"{{background:{mixed}}}"
                f".h{sign}{step}{{stroke:{mixed};fill:{mixed}}}"
            )
    return "\n".join(rules)


def _rows(explanation: Explanation) -> tuple[_Row, ...]:
    ranked = explanation.ranked()
    columns = {
        "gradient step": [effect.gradient_step for effect in ranked],
        "path": [effect.path for effect in ranked],
        "knock-out, margin": [effect.knock_out.margin_change for effect in ranked],
        "knock-out, log-prob.": [effect.knock_out.log_probability_change for effect in ranked],
    }
    if any(effect.rerun_margin_change is not None for effect in ranked):
        columns["rerun, margin"] = [effect.rerun_margin_change for effect in ranked]  # type: ignore[misc]
    return tuple(
        _Row(effect.index, effect.text, effect.n_tokens, _measures(columns, at)) for at, effect in enumerate(ranked)
    )


def _measures(columns: dict[str, list[float]], at: int) -> tuple[_Measure, ...]:
    return tuple(_measure(name, values[at], values) for name, values in columns.items())


def _measure(name: str, value: float | None, column: Sequence[float | None]) -> _Measure:
    largest = largest_magnitude([other for other in column if other is not None])
    part = 0.0
    if value is not None and largest > 0.0 and value == value:
        part = max(-1.0, min(1.0, value / largest)) * 50.0
    return _Measure(
        name=name,
        text=display_text.signed(value),
        left=round(50.0 + min(part, 0.0), 1),
        width=round(abs(part), 1),
        css="for" if part >= 0.0 else "against",
    )


def _others(explanation: Explanation) -> tuple[tuple[str, _Measure, _Measure], ...]:
    steps = [other.gradient_step for other in explanation.others]
    paths = [other.path for other in explanation.others]
    return tuple(
        (
            other.name,
            _measure("gradient step", other.gradient_step, steps),
            _measure("path", other.path, paths),
        )
        for other in explanation.others
    )


def _scale(tokens: Sequence[Token], name: str) -> float:
    """What has full colour: the largest among the demonstrations' tokens, so that they can be told apart."""
    within = largest_magnitude([getattr(token, name) for token in tokens if token.role == "demonstration"])
    return within or largest_magnitude([getattr(token, name) for token in tokens])


def _pieces(explanation: Explanation) -> tuple[_Piece, ...]:
    scales = {name: _scale(explanation.tokens, name) for name in ("gradient_step", "path")}
    pieces: list[_Piece] = []
    before: tuple[str, int | None] | None = None
    for token in explanation.tokens:
        part = (token.role, token.part)
        text = token.text
        body = text.strip()
        leading = text[: len(text) - len(text.lstrip())] if body else ""
        if leading:
            pieces.append(_Piece("plain", display_text.visible(leading)))
        if part != before and token.role not in ("separator", "special"):
            label = f"#{token.part}" if token.part is not None else token.role
            pieces.append(_Piece("label", label))
        if token.role not in ("separator", "special"):
            before = part
        # A mark stands for a token without characters of its own, such as the rest of a character.
        shown = display_text.visible(text[len(leading) :]) if text else "▫"
        classes = [
            shade_class("g", shade(token.gradient_step, scales["gradient_step"])),
            shade_class("w", shade(token.path, scales["path"])),
            "special" if token.role == "special" else "",
        ]
        where = f"demonstration {token.part}" if token.part is not None else token.role
        title = (
            f"{where}: gradient step {display_text.signed(token.gradient_step)}, path {display_text.signed(token.path)}"
        )
        line_ends = Markup(escape(shown).replace("\n", Markup("<i>↵</i>\n")))
        pieces.append(_Piece("token", line_ends, " ".join(filter(None, classes)), title))
    return tuple(pieces)


def _largest(rows: Sequence[Sequence[float]]) -> float:
    return largest_magnitude([value for row in rows for value in row])


def _titled_cells(rows: Sequence[Sequence[float]]) -> tuple[_Cell, ...]:
    """The strongest cells, each with its number to read when pointed at."""
    cells = [(value, x, y) for y, row in enumerate(rows) for x, value in enumerate(row)]
    strongest = sorted(cells, key=lambda cell: -abs(cell[0]))[:_MOST_TITLED_CELLS]
    return tuple(_Cell(x, y, f"layer {y}, head {x}: {display_text.signed(value)}") for value, x, y in strongest)


def _small_maps(
    explanation: Explanation, largest: float
) -> tuple[tuple[DemonstrationEffect, tuple[ShadePath, ...]], ...]:
    return tuple((effect, shade_paths(effect.by_layer_and_head, largest)) for effect in explanation.ranked())
