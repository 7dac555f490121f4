"""Notebooks as pages: the cells of those that hold their outputs, with these as they were shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def page(path: Path) -> str | None:
    """Return the Markdown of a notebook; None for one without outputs, which is a file to run."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    if not any(cell.get("outputs") for cell in cells):
        return None
    parts = [part for cell in cells for part in _cell(cell)]
    heading, rest = parts[0].split("\n", 1)
    link = f"[This page as a notebook]({path.name}), to run and to change."
    return "\n\n".join([heading, link, rest.strip(), *parts[1:]]) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return [text]
    return [f"```python\n{text}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "error":
        raise ValueError(f"a cell ended in an error: {output['evalue']}")
    data = output.get("data", {})
    if "image/png" in data:
        return f"![Output of the cell above](data:image/png;base64,{''.join(data['image/png']).replace(chr(10), '')})"
    if "text/html" in data:
        return f'<div class="output">\n{"".join(data["text/html"])}\n</div>'
    text = "".join(output["text"]) if "text" in output else "".join(data["text/plain"])
    return f"```text\n{_ESCAPE.sub('', text).rstrip()}\n```"
