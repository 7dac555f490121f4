"""Pairs of input and output that stand in chats, as questions of a user and replies of an assistant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.chat import check_messages, is_system

_LINE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def messages_of(document: Any) -> list[Any] | None:
    """Return the messages of a chat that was read from JSON; None where it is none."""
    found = document.get("messages") if isinstance(document, Mapping) else document
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        return None
    return list(found) if all(isinstance(one, Mapping) and "role" in one for one in found) else None


def turns(messages: Sequence[Any]) -> tuple[str | None, list[tuple[str, str | None]]]:
    """Return the system message of a chat, and its questions with their replies; None for that of a last question.

    Raises:
        UserError: messages out of order, or one that is not plain text.
    """
    last = messages[-1] if messages else None
    replied = isinstance(last, Mapping) and last.get("role") == "assistant"
    chat = check_messages([*messages, {"role": "user", "content": "?"}] if replied else messages)
    system = chat[0]["content"] if is_system(chat[0]) else None
    said = [one["content"] for one in chat[0 if system is None else 1 :]]
    pairs: list[tuple[str, str | None]] = list(zip(said[:-1:2], said[1::2], strict=True))
    return system, pairs if replied else [*pairs, (said[-1], None)]


def one_turn(place: str, row: Mapping[str, Any]) -> tuple[str | None, str, str | None]:
    """Return the system message, the question and the reply of a line that holds one pair as a chat.

    Raises:
        UserError: it holds none, or several.
    """
    messages = messages_of(row)
    if messages is None:
        raise UserError(f'{place}: "messages" is no list of messages. Write e.g. {_LINE}.')
    try:
        system, pairs = turns(messages)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if len(pairs) > 1:
        raise UserError(
            f"{place}: the chat has {len(pairs)} questions. An example is one question with its reply; a whole chat "
            "is a pool as a .json file."
        )
    return system, *pairs[0]
