"""The page of one explanation: the explorer's, saved, with that explanation's numbers."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import Any

from iclens.explorer import page, recreate
from iclens.explorer.ask import Ask
from iclens.explorer.snapshot import snapshot
from iclens.explorer.viewed import Viewed
from iclens.lens import VIEWS, WRITERS, Explanation
from iclens.lens.prompt.pieces import PIECES
from iclens.lens.prompt.tokens import FIRST

_NO_PYTHON = "# The explanation was saved without its prompt's parts: repeat the command, where there is one."


def explained_page(found: Explanation) -> str:
    """Write one HTML file that opens from a disk and loads nothing: what `iclens explain --html` writes.

    Besides the explanation it shows the layers and the heads that move the margin most, from the same passes; an
    explanation without its lens, read from a file or one of many, is shown without them.

    Args:
        found: the explanation.
    """
    return page.saved(page_data(found))


def page_data(found: Explanation) -> dict[str, Any]:
    """Return what the page of an explanation holds, which `iclens.explorer.page.saved` turns into a file.

    Args:
        found: the explanation.
    """
    if found.lens is None:
        return snapshot(found, _blocks(found), _NO_PYTHON)
    told: dict[str, Any] = _response(found) | _inside(found)
    answers, answer = _answers(found)
    ask = Ask(found.lens.prompt, answers=answers, answer=answer, **told)
    options = recreate.options_of(found)
    if not found.command:
        found = replace(found, command=recreate.command(ask, found.lens.model, **options))
    python = recreate.python(ask, found.lens.model, **options)
    return snapshot(found, ask.to_document(), python, viewed=Viewed(found.lens))


WRITERS.register("html")(explained_page)


@VIEWS.register("show")
def show(found: Explanation, height: int = 720) -> Any:
    """Show the page inside a notebook cell.

    Args:
        found: the explanation.
        height: of the frame, in pixels.
    """
    return Framed(explained_page(found), height)


@VIEWS.register("cell")
def cell(found: Explanation) -> str:
    """Write a small table for notebooks: the answer, the conclusion, and the sources from the strongest support."""
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in found.scores)
    rows = ""
    for effect in found.ranked():
        values = [effect.score(name) for name in found.scores]
        scores = "".join("<td>–</td>" if value is None else f"<td>{value:+.3f}</td>" for value in values)
        text = f"<td style='text-align:left'><bdi>{escape(effect.text)}</bdi></td>"
        rows += f"<tr><th>{escape(effect.shown)}</th>{text}{scores}</tr>"
    failed = ", ".join(residual.name for residual in found.residuals if not residual.holds)
    verdict = f"not exact: {failed}" if failed else "exact to rounding"
    return (
        f"<p><b><bdi>{escape(found.answer)}</bdi></b>, {found.quantity} {found.margin:+.3f} nats "
        f"({escape(verdict)}). {escape(found.margin_definition)}</p>"
        f"<p><bdi>{escape(' '.join(found.conclusion))}</bdi></p><table><thead><tr><th></th>"
        f"<th>{escape(found.quantity)}</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


class Framed:
    """A page in a frame of its own, which notebooks show.

    Args:
        content: the page.
        height: of the frame, in pixels.
    """

    def __init__(self, content: str, height: int) -> None:
        self.content = content
        self.height = height

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.content, quote=True)}" sandbox="allow-scripts" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def _answers(found: Explanation) -> tuple[tuple[str, ...], str | None]:
    """The candidates, and the answer that was asked for where it is not the one that is explained anyway."""
    candidates = found.candidates
    if len(candidates) < 2:
        return (), candidates[0].text if candidates else None
    likeliest = max(candidates, key=lambda one: one.log_probability)
    return tuple(one.text for one in candidates), None if likeliest.chosen else found.answer


def _response(found: Explanation) -> dict[str, Any]:
    """The response that was explained, by the attributes of a question."""
    said = found.response
    if said is None:
        return {}
    return {"response": said.text, "statement": said.statement, "foil": said.foil, "measure": said.measure}


def _inside(found: Explanation) -> dict[str, Any]:
    """What was looked at within the sources, and how many texts were deleted for it."""
    within = next((way for way, kind in PIECES.items() for one in found.sources[0].pieces if one.kind == kind), None)
    wholes = [] if "rerun" in found.scores else [one.rerun_margin_change for one in found.sources]
    parts = [one.rerun_margin_change for effect in found.sources if effect.pieces[1:] for one in effect.pieces]
    return {"within": within, "budget": sum(change is not None for change in (*wholes, *parts))}


def _blocks(found: Explanation) -> dict[str, Any]:
    """The question as the page shows it, from what is stored of its prompt."""
    texts = {
        role: "".join(token.text for token in found.tokens if token.role == role) for role in ("instruction", "query")
    }
    begun = found.tokens[0].text + texts["instruction"]
    if found.tokens[0].role == FIRST and texts["instruction"] and found.prompt.startswith(begun):
        texts["instruction"] = begun
    texts = {role: text.strip() for role, text in texts.items()}
    answers, answer = _answers(found)
    given = {"answers": list(answers), "answer": answer, **_response(found), "off": [], "layer": None, "head": None}
    named = [{"name": effect.name, "kind": effect.kind} for effect in found.sources]
    numbered = all(effect.shown.startswith("#") for effect in found.sources)
    blocks = {**texts, "demonstrations": [effect.text for effect in found.sources]}
    return {**blocks, **({} if numbered else {"sources": named}), **given}
