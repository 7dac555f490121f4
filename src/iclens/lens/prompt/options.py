"""How a prompt is written and what of it is scored, where its document does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from iclens.errors import UserError
from iclens.lens.prompt.pieces import check_split

_KINDS = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}


def kind(value: Any) -> str:
    """Name the kind of a value as JSON does."""
    return _KINDS.get(type(value), "null")


def check_string(value: Any, name: str) -> None:
    """Refuse a value of JSON that is not a string."""
    if not isinstance(value, str):
        raise UserError(f"{name} is a JSON {kind(value)}, not a string. Put it in quotes.")


@dataclass(frozen=True)
class PromptOptions:
    r"""What holds where a document does not say otherwise.

    Attributes:
        template: how to write pairs of input and output, see `Prompt.from_examples`, or documents and their question,
            see `Prompt.from_documents`.
        query: the query's input, or, for plain text, its whole block; it comes after everything in the document. For
            documents, the question about them.
        instruction: a text before the demonstrations.
        instruction_blocks: for plain text and the only message of a chat, how many of the first blocks are an
            instruction; None leaves that to the text, see `Prompt.from_text`.
        separator: what stands between demonstrations; blank lines when None. In a chat, those inside the last message.
        template_args: for chats, further arguments of the tokenizer's `apply_chat_template`, which its template reads
            as variables, e.g. `{"enable_thinking": False}`.
        system_in_user: for chats, put the system message before the first user message.
        split: what is scored in place of demonstrations: `"paragraphs"`, `"lines"` or `"sentences"` of the text, of
            each document or message, or the `"messages"` of a chat of any turns.
        score_instruction: score the instruction too, as the first source.
        as_chat: for documents, write them as the user's message of a chat.
    """

    template: str | None = None
    query: str | None = None
    instruction: str | None = None
    instruction_blocks: int | None = None
    separator: str | None = None
    template_args: Mapping[str, Any] | None = None
    system_in_user: bool = False
    split: str | None = None
    score_instruction: bool = False
    as_chat: bool = False

    def settled(self, own: Mapping[str, Any], *, binding: bool, form: str) -> PromptOptions:
        """Put what a document says itself, by the names of the options, in the place of these.

        `binding` as in `read_document`; `form` is "pairs", "text", "message" (a chat of one), "turns" or "documents":
        options of another form count only where they are binding.

        Raises:
            UserError: a value of the wrong kind, or, when these are binding, one that is given twice.
        """
        for key, value in own.items():
            if key == "instruction_blocks":
                if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                    raise UserError(f'"instruction_blocks" is {value!r}: give a whole number.')
            elif key in ("system_in_user", "score_instruction", "as_chat"):
                if not isinstance(value, bool):
                    raise UserError(f'"{key}" is {value!r}: give true or false.')
            elif key == "template_args":
                if not isinstance(value, dict):
                    raise UserError(
                        f'"template_args" is a JSON {kind(value)}: write e.g. {{"enable_thinking": false}}.'
                    )
            elif value is not None:
                check_string(value, f'"{key}"')
            if binding and value is not None and getattr(self, key) != getattr(PromptOptions, key):
                raise UserError(f'"{key}" stands in the file, but another one was given. Drop one of them.')
        idle: dict[str, Any] = {} if binding or form in ("pairs", "documents") else {"template": None}
        idle |= {} if binding or form == "documents" else {"as_chat": False}
        is_chat = form in ("message", "turns") or (
            form == "documents" and bool({"as_chat": self.as_chat, **own}["as_chat"])
        )
        idle |= {} if binding or is_chat else {"template_args": None, "system_in_user": False}
        idle |= {} if binding or form != "turns" else {"instruction_blocks": None}
        settled = replace(self, **idle | dict(own))
        if form not in ("pairs", "documents") and settled.template is not None:
            other = "plain text" if form == "text" else "a chat, which the tokenizer's own template writes"
            raise UserError(f"a template is for pairs of input and output, not for {other}.")
        if settled.as_chat and form != "documents":
            raise UserError("as_chat is for documents; give the messages of a chat as messages.")
        if settled.split is not None:
            check_split(settled.split)
        if not is_chat and (settled.template_args or settled.system_in_user):
            name = "template_args" if settled.template_args else "system_in_user"
            raise UserError(f"{name} is for chats, which a chat template writes; this prompt is none.")
        return settled


class Written(TypedDict, total=False):
    """How a prompt is written, as keywords: the attributes of `PromptOptions`."""

    template: str | None
    query: str | None
    instruction: str | None
    instruction_blocks: int | None
    separator: str | None
    template_args: Mapping[str, Any] | None
    system_in_user: bool
    split: str | None
    score_instruction: bool
    as_chat: bool
