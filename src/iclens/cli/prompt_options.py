"""Options of the command line that say which prompt is read and how it is written, as `PromptOptions`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.lens.prompt import PromptOptions

_ESCAPES = {"\\n": "\n", "\\t": "\t"}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True)
class OnePrompt:
    r"""A model, a prompt and its answers.

    Attributes:
        model: "bundled", "smollm2", a local folder, a .gguf file, or a hub name.
        prompt: the prompt file; the bundled example when the model is "bundled" and nothing else is given.
        demonstrations: a .jsonl file of {"input", "output"} lines, to be used with --query.
        query: the new input to complete.
        template: how to write a pair, with {input} and {output}; \n is a line break. With --documents, how to write
            these.
        instruction: text to put before the demonstrations.
        instruction_blocks: how many of the first blocks of a plain-text prompt are an instruction; found when left out.
        separator: what stands between demonstrations, instead of blank lines; \n is a line break.
        template_args: arguments of the chat template, each key=value, e.g. enable_thinking=false.
        system_in_user: put a chat's system message before the first user message, where the template has no such role.
        answers: candidate answers; the likeliest is explained against the mean of the others.
        answer: the answer to explain.
    """

    model: str = "bundled"
    prompt: Path | None = None
    demonstrations: Path | None = None
    query: str | None = None
    template: str | None = None
    instruction: str | None = None
    instruction_blocks: int | None = None
    separator: str | None = None
    template_args: tuple[str, ...] = ()
    system_in_user: bool = False
    answers: tuple[str, ...] = ()
    answer: str | None = None

    def file(self, documents: Path | None) -> Path | None:
        """Give the file that holds the prompt, or its demonstrations; None where documents do, or nothing is given.

        Raises:
            UserError: two are given, or demonstrations without a query.
        """
        if documents is not None:
            for name in ("prompt", "demonstrations"):
                if getattr(self, name) is not None:
                    raise UserError(f"--{name} and --documents are both given: give one of them.")
        if self.prompt is not None and self.demonstrations is not None:
            raise UserError("--prompt and --demonstrations are both given: give one of them.")
        if self.demonstrations is not None and self.query is None:
            raise UserError("--demonstrations needs --query, the input whose output the model is to say.")
        return self.prompt or self.demonstrations


def prompt_options(command: Any) -> PromptOptions:
    r"""Read them from the fields of a command; `\n` and `\t` in a template and a separator are a line end and a tab.

    Raises:
        UserError: a template argument that is not `key=value`, or is given twice.
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
