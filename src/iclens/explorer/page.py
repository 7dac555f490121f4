"""The page: served with its style and script beside it, or saved as one file with everything inside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from iclens.report.pages import digest, read

_STATIC = files("iclens.explorer") / "static"
_REPORT_STYLES = ("page.css", "verdicts.css", "controls.css", "charts.css")
_STYLES = [_STATIC / name for name in ("explorer.css", "sources.css", "response.css", "updates.css", "lab.css")]
_SCRIPTS = (
    *("elements", "numbers", "names", "address", "state", "scores", "server", "views", "chart"),
    *("grid", "heat", "tables", "fitting"),
    *("pieces", "sources", "editor", "chips", "ready", "asking", "sentences", "response", "citations", "linked"),
    *("answer", "tokens", "bound", "heads", "layers", "details", "updates", "share"),
    *("panels", "recipes", "runs"),
    *("labstate", "labplot", "labpoints", "labcontrols", "labskeleton", "lab"),
    "main",
)
"""The modules of the script, each after those that it imports from."""

_LINKED_STYLE = '<link rel="stylesheet" href="explorer.css">'
_LINKED_SCRIPT = '<script type="module" src="explorer.js"></script>'
_DATA = '<script type="application/json" id="data">{}</script>'
_SIGNIFICANT = 6


@cache
def style() -> str:
    """The style sheet: that of every page of ours, and what the explorer adds to it."""
    return "\n".join([*map(read, _REPORT_STYLES), *(file.read_text(encoding="utf-8") for file in _STYLES)])


@cache
def script() -> str:
    """The script as one module: each of its files in a function of its own, after those that it imports from."""
    texts = [(name, (_STATIC / f"{name}.js").read_text(encoding="utf-8")) for name in _SCRIPTS]
    return "\n".join(["const modules = {};", *(_scoped(name, text) for name, text in texts)])


def _scoped(name: str, text: str) -> str:
    exported = re.findall(r"^export (?:async )?(?:function|const) (\w+)", text, re.MULTILINE)
    text = re.sub(
        r'^import \{([^}]*)\} from "\./(\w+)\.js";$',
        lambda found: f"const {{{found[1].replace(' as ', ': ')}}} = modules.{found[2]};",
        text,
        flags=re.MULTILINE,
    )
    # A saved page carries the script: without its comments and indents there is more room for numbers.
    text = re.sub(r"^[ \t]*(?:export |//.*\n|/\*\*[\s\S]*?\*/\n)?", "", text, flags=re.MULTILINE)
    return f"modules.{name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();"


def served(data: Mapping[str, Any]) -> str:
    """The page of the server, which asks for the rest."""
    return _skeleton().replace("<!--data-->", _DATA.format(_safe(data)))


def saved(data: Mapping[str, Any]) -> str:
    """The page as one file that opens from a disk: style, script and data inside, numbers to 6 digits.

    Its Content-Security-Policy allows this style and this script by their hashes, and nothing else.
    """
    policy = (
        f"default-src 'none'; style-src '{digest(style())}'; script-src '{digest(script())}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    page = _skeleton().replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}')
    page = page.replace(_LINKED_STYLE, f"<style>{style()}</style>")
    page = page.replace(_LINKED_SCRIPT, f'<script type="module">{script()}</script>')
    return page.replace("<!--data-->", _DATA.format(_safe(rounded(data))))


def rounded(value: Any) -> Any:
    """Every float to 6 significant digits; what is not finite has no number."""
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return value


@cache
def _skeleton() -> str:
    return (_STATIC / "explorer.html").read_text(encoding="utf-8")


def _safe(data: Mapping[str, Any]) -> str:
    """JSON in which nothing can end the element that holds it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
