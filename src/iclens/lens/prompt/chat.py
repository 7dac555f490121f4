"""Chat messages: their order, their rendering, and where each of them lies in the rendered text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.blocks import check_unicode


def check_messages(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Check that messages are demonstrations and a query, and return them as plain dictionaries."""
    right = "give an optional system message, then user and assistant in turn, and the user's last"
    chat: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(f'message {i} has no role: write {{"role": "user", "content": "..."}}.')
        if not isinstance(message.get("content"), str):
            raise UserError(f"the content of message {i} is no string: iclens reads chats of plain text.")
        if not message["content"].strip():
            raise UserError(f"message {i} ({message['role']}) is empty: it needs at least one visible character.")
        check_unicode(message["content"])
        chat.append({"role": message["role"], "content": message["content"]})
    first = 1 if chat and chat[0]["role"] == "system" else 0
    for i, message in enumerate(chat[first:], start=first):
        expected = ("user", "assistant")[(i - first) % 2]
        if message["role"] != expected:
            raise UserError(f"message {i} has the role {message['role']!r} where {expected!r} is due: {right}.")
    if (len(chat) - first) % 2 == 0:
        raise UserError(f"the chat has no query, since its last message is not the user's: {right}.")
    if len(chat) - first < 3:
        raise UserError(f"the chat has no demonstration: {right}.")
    return chat


def render(chat: list[dict[str, str]], tokenizer: Any) -> str:
    """Write the chat as text, up to where the assistant is to speak."""
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates raise what they like
        raise UserError(f"the tokenizer's chat template refuses this chat: {error}") from error


def locate(chat: list[dict[str, str]], text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Find every message in the rendered text, by a rendering with markers in place of messages: start and end.

    One is enough where the template writes every message as it stands, or every one without the spaces around it;
    elsewhere there is one for each message, which the template must write once, and others alike.
    """
    everything = text + "".join(message["content"] for message in chat)
    marker = next(m for m in (f"QXZ{i}N" for i in itertools.count(10**8)) if m not in everything)
    markers = [f"{marker}{i}ZXQ" for i in range(len(chat))]
    rendered = render([{**message, "content": m} for message, m in zip(chat, markers, strict=True)], tokenizer)
    # Pieces between the messages and, at odd places, the messages.
    pieces = re.split(f"({marker}[0-9]+ZXQ)", rendered)
    if pieces[1::2] == markers:
        contents = [message["content"] for message in chat]
        for written in (contents, [content.strip() for content in contents]):
            pieces[1::2] = written
            if "".join(pieces) == text:
                ends = list(itertools.accumulate(map(len, pieces)))
                return list(zip(ends[0:-1:2], ends[1::2], strict=True))
    return [_locate(i, chat, text, tokenizer, markers[i]) for i in range(len(chat))]


def _locate(index: int, chat: list[dict[str, str]], text: str, tokenizer: Any, marker: str) -> tuple[int, int]:
    """Find one message by a rendering in which a marker stands in its place."""
    name = f"message {index} ({chat[index]['role']})"
    lost = f"{name} cannot be found in the rendered chat: the chat template writes"
    rendered = render([*chat[:index], {**chat[index], "content": marker}, *chat[index + 1 :]], tokenizer)
    head, *tails = rendered.split(marker)
    if len(tails) != 1:
        raise UserError(f"{lost} it {len(tails)} times instead of once. Give the prompt as text instead.")
    start, end = len(head), len(text) - len(tails[0])
    if end < start or (text[:start], text[end:]) != (head, tails[0]):
        raise UserError(f"{lost} other messages differently depending on this one. Give the prompt as text instead.")
    if not text[start:end].strip():
        raise UserError(f"{name} is empty after the chat template has rendered it: it needs a visible character.")
    return start, end
