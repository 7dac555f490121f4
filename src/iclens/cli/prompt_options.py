"""Options of the command line that say how a prompt is written, as `PromptOptions`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.lens.prompt import PromptOptions

_ESCAPES = {"\\n": "\n", "\\t": "\t"}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


def prompt_options(command: Any) -> PromptOptions:
    r"""Read them from the fields of a command; `\n` and `\t` in a template and a separator are a line end and a tab.

    Raises:
        UserError: a template argument that is no `key=value`, or is given twice.
    """
    from iclens.lens.prompt import PromptOptions

    told = vars(command) | vars(getattr(command, "sources", command))
    given = {name: told[name] for name in PromptOptions.__dataclass_fields__ if name in told}
    read = {name: unescaped(given[name]) for name in ("template", "separator")}
    return PromptOptions(**{**given, **read, "template_args": arguments(command.template_args) or None})


def unescaped(text: str | None) -> str | None:
    r"""Write line ends and tabs for `\n` and `\t`, which a shell does not."""
    for written, meant in _ESCAPES.items():
        text = None if text is None else text.replace(written, meant)
    return text


def arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` pairs: a value is JSON where it can be read as such (`false`, `3`, `"3"`), else its own text.

    Raises:
        UserError: a pair without `=` or a key, or a key that is given twice.
    """
    read: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--template-args {pair!r}: write key=value, e.g. enable_thinking=false.")
        if key in read:
            raise UserError(f"--template-args gives {key!r} twice: give it once.")
        if value.lower() in _WORDS:
            read[key] = _WORDS[value.lower()]
            continue
        try:
            read[key] = json.loads(value)
        except ValueError:
            read[key] = value
    return read
