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


def prompt_options(
    *,
    template: str | None,
    query: str | None,
    instruction: str | None,
    instruction_blocks: int,
    separator: str | None,
    template_args: Sequence[str],
    system_in_user: bool,
) -> PromptOptions:
    r"""Read the options; `\n` and `\t` in a template and a separator are a line end and a tab.

    Raises:
        UserError: a template argument that is no `key=value`, or is given twice.
    """
    from iclens.lens.prompt import PromptOptions

    args = arguments(template_args)
    return PromptOptions(
        unescaped(template), query, instruction, instruction_blocks, unescaped(separator), args or None, system_in_user
    )


def unescaped(text: str | None) -> str | None:
    r"""Write line ends and tabs for `\n` and `\t`, which a shell does not."""
    for written, meant in _ESCAPES.items():
        text = None if text is None else text.replace(written, meant)
    return text


def escaped(text: str) -> str:
    """Write a text as `unescaped` reads it."""
    for written, meant in _ESCAPES.items():
        text = text.replace(meant, written)
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
