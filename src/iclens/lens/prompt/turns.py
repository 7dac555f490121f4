"""A chat of any turns: its messages and their parts, each found in what the chat template writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.blocks import check_unicode
from iclens.lens.prompt.chat import THOUGHTS, Chat, around_a_next_reply, check_template, content_of, dropped, marker_for
from iclens.lens.prompt.sources import SourceName


class _Template:
    """A tokenizer's chat template, with its arguments."""

    def __init__(self, tokenizer: Any, template_args: Mapping[str, Any]) -> None:
        check_template(tokenizer, template_args)
        self.tokenizer, self.arguments = tokenizer, dict(template_args)

    def __call__(self, messages: Chat, **other: Any) -> str:
        asked = {"tokenize": False, "add_generation_prompt": True, **self.arguments, **other}
        try:
            return self.tokenizer.apply_chat_template(messages, **asked)
        except Exception as error:  # templates raise what they like
            raise UserError(f"the tokenizer's chat template refuses this chat: {error}") from error


def write_turns(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, template_args: Mapping[str, Any] | None = None
) -> tuple[str, list[tuple[SourceName, tuple[int, int]]], str, str | None, list[str]]:
    """Write a chat by the tokenizer's template, and find its messages and their parts.

    A message has a content; it may have thoughts and calls of tools beside it, which are parts of their own, and the
    descriptions of tools are one. Contents and thoughts are found by a marker in their place, the others by what
    changes when they are left out.

    Returns:
        the text up to where the assistant is to speak; the parts in the order of the text with their places; the white
        space before a reply; what follows a reply, or None; and what the template leaves out, as notes.

    Raises:
        UserError: messages without a role or a content, or a template that writes one otherwise than once.
    """
    render, chat = _Template(tokenizer, template_args or {}), _checked(messages)
    text = render(chat)
    marker = marker_for(text + str(chat))
    found: list[tuple[SourceName, tuple[int, int]]] = []
    notes = []
    for i, message in enumerate(chat):
        name = SourceName("message", str(i), message["role"])
        if message["content"].strip():
            place = _replaced(render, text, chat, i, "content", marker)
            if place is None:
                raise UserError(
                    f"{name} cannot be found in the rendered chat: the chat template writes it otherwise than once. "
                    "Give the prompt as text instead."
                )
            found.append((name, place))
            notes += dropped([{key: message[key] for key in ("role", "content")}], text, [place], first=i)
        for key in THOUGHTS:
            if isinstance(message.get(key), str) and message[key].strip():
                place = _replaced(render, text, chat, i, key, marker)
                if place is None:
                    notes.append(f"The chat template leaves out the {key!r} of {name}: the model does not read it.")
                else:
                    found.append((SourceName("thinking", of=str(name)), place))
        if message.get("tool_calls"):
            less = [*chat[:i], {k: v for k, v in message.items() if k != "tool_calls"}, *chat[i + 1 :]]
            found += _left_out(SourceName("tool calls", of=str(name)), text, render(less), notes)
    if render.arguments.get("tools"):
        found += _left_out(SourceName("tools"), text, render(chat, tools=None), notes)
    found = _apart(text, found)
    before, follow = around_a_next_reply(chat, text, render)
    return text, found, before, follow, notes


def _checked(messages: Sequence[Mapping[str, Any]]) -> Chat:
    chat: Chat = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(f'message {i} has no role: write {{"role": "user", "content": "..."}}.')
        name = f"message {i} ({message['role']})"
        beside = [key for key in ("tool_calls", *THOUGHTS) if message.get(key)]
        content = "" if message.get("content") is None and beside else content_of(message.get("content"), name)
        if not content.strip() and not beside:
            raise UserError(f"{name} is empty: it needs at least one visible character.")
        check_unicode(content)
        chat.append({**message, "content": content})
    if not chat:
        raise UserError("the chat has no message: give at least the user's.")
    if chat[-1]["role"] == "assistant":
        raise UserError(
            f"message {len(chat) - 1} (assistant) ends the chat, but the model is to speak there: leave it out, and "
            "give it as the answer to explain."
        )
    return chat


def _replaced(render: _Template, text: str, chat: Chat, index: int, key: str, marker: str) -> tuple[int, int] | None:
    """Where one entry of a message lies, by a rendering with a marker in its place; None where it is not found once."""
    rendered = render([*chat[:index], {**chat[index], key: marker}, *chat[index + 1 :]])
    head, *tails = rendered.split(marker)
    if len(tails) != 1:
        return None
    start, end = len(head), len(text) - len(tails[0])
    if end <= start or (text[:start], text[end:]) != (head, tails[0]) or not text[start:end].strip():
        return None
    return start, end


def _left_out(name: SourceName, text: str, less: str, notes: list[str]) -> list[tuple[SourceName, tuple[int, int]]]:
    """Return the part of a text that another rendering lacks, from the first difference to the last."""
    most = min(len(text), len(less))
    head = next((n for n in range(most) if text[n] != less[n]), most)
    tail = next((n for n in range(most - head) if text[-1 - n] != less[-1 - n]), most - head)
    start, end = head, len(text) - tail
    if not text[start:end].strip():
        notes.append(f"The chat template leaves out the {name}: the model does not read it.")
        return []
    return [(name, (start, end))]


def _apart(text: str, found: list[tuple[SourceName, tuple[int, int]]]) -> list[tuple[SourceName, tuple[int, int]]]:
    """Return the parts in order; one that reaches into contents, which lie where they lie, gives way."""
    fixed = [place for name, place in found if name.kind in ("message", "thinking")]
    kept = []
    for name, (start, end) in sorted(found, key=lambda one: one[1]):
        if name.kind not in ("message", "thinking"):
            start = max([start, *(b for a, b in fixed if a < start < b)])
            end = min([end, *(a for a, b in fixed if start < b and a < end and a >= start)])
        span = text[start:end]
        if span.strip():
            kept.append((name, (start + len(span) - len(span.lstrip()), start + len(span.rstrip()))))
    return kept
