"""Pages from templates: text is escaped, style and script stand inside, and nothing else may be loaded or run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from iclens import display_text
from iclens.work.progress import duration

_TEMPLATES = files("iclens.report") / "templates"


def render(template: str, styles: Sequence[str], *, script: str = "", pictures: str = "", **values: Any) -> str:
    """Write a page whose Content-Security-Policy allows its own style and script by their digests, and nothing else.

    Args:
        template: its name; it extends `page_base.html`.
        styles: the names of its style sheets, in order.
        script: the name of its script; empty for none.
        pictures: from where pictures may come, in the words of a policy; empty for nowhere.
        values: what the template shows; every text is escaped.
    """
    style, code = "\n".join(read(name).strip() for name in styles), read(script).strip() if script else ""
    rules = ["default-src 'none'", f"style-src '{digest(style)}'"]
    rules += [f"script-src '{digest(code)}'"] if code else []
    rules += [f"img-src {pictures}"] if pictures else []
    policy = Markup("; ".join([*rules, "base-uri 'none'", "form-action 'none'"]))
    page = _environment().get_template(template)
    return page.render(style=Markup(style), script=Markup(code), policy=policy, **values)


def digest(text: str) -> str:
    """What a Content-Security-Policy calls a style or a script that stands inside a page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def read(name: str) -> str:
    """A template, a style sheet or a script of a page."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read),
    )
    environment.filters.update(
        visible=display_text.visible,
        one_line=display_text.one_line,
        signed=display_text.signed,
        duration=duration,
        value=_value,
        paragraphs=lambda text: [part for part in text.split("\n\n") if part.strip()],
    )
    return environment


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return str(value)
