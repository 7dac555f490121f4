"""Chat messages: their order, their rendering, and where each of them lies in the rendered text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iclens.display_text import one_line
from iclens.errors import UserError
from iclens.lens.prompt.blocks import check_unicode

Chat = list[dict[str, Any]]

_OURS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "padding", "truncation",
         "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs")  # fmt: skip
"""Arguments of `apply_chat_template` that the reading of a prompt decides."""

_PYTHONS = ("chat_template", "tools", "documents")
"""Arguments that `apply_chat_template` takes itself, whatever the template's variables are."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message, beside its content, under which chats hold what a model thought."""

_MARKS = re.compile(r"<[^<>\s]*>|\[/?[A-Z_]+\]")
"""Marks of templates, such as `<|im_start|>` and `[INST]`."""

_FEW_WORDS = 4
"""Fewer words than these before the first message are a header, such as a role."""

_RIGHT = "give an optional system message, then user and assistant in turn, and the user's last"


@dataclass(frozen=True)
class Written:
    """A chat as a template wrote it.

    Attributes:
        text: up to where the assistant is to speak.
        places: where each message's content lies, the folded system message's too.
        before: the white space that the template puts between `text` and a reply.
        follow: what it writes after a reply; None where that is not known.
        notes: what it left out.
    """

    text: str
    places: tuple[tuple[int, int], ...]
    before: str
    follow: str | None
    notes: tuple[str, ...]


def is_system(message: Mapping[str, Any]) -> bool:
    """Return whether a message is the instruction of a chat."""
    return message["role"] in ("system", "developer")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> Chat:
    """Check that messages are turns with a query at the end, and return them as plain dictionaries."""
    chat: Chat = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(f'message {i} has no role: write {{"role": "user", "content": "..."}}.')
        content = content_of(message.get("content"), f"message {i} ({message['role']})")
        if not content.strip():
            raise UserError(f"message {i} ({message['role']}) is empty: it needs at least one visible character.")
        check_unicode(content)
        chat.append({**message, "content": content})
    first = 1 if chat and is_system(chat[0]) else 0
    for i, message in enumerate(chat[first:], start=first):
        expected = ("user", "assistant")[(i - first) % 2]
        if message["role"] != expected:
            raise UserError(f"message {i} has the role {message['role']!r} where {expected!r} is due: {_RIGHT}.")
    if (len(chat) - first) % 2 == 0:
        raise UserError(f"the chat has no query, since its last message is not the user's: {_RIGHT}.")
    return chat


def content_of(content: Any, name: str) -> str:
    """Give the text of a message's content: a string, or text parts, which templates write one after the other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise UserError(f"the content of {name} is no string: iclens reads chats of plain text.")
    for k, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = f"of the type {part.get('type')!r}" if isinstance(part, Mapping) else repr(part)
            raise UserError(
                f"part {k} of the content of {name} is {one_line(kind, 40)}: iclens reads chats of plain text, whose "
                'parts are {"type": "text", "text": "..."}.'
            )
    return "".join(part["text"] for part in content)


def write(
    chat: Chat, tokenizer: Any, template_args: Mapping[str, Any] | None = None, system_in_user: bool = False
) -> Written:
    """Write a chat by the tokenizer's template, and find its messages in the text.

    Args:
        chat: from `check_messages`.
        tokenizer: the tokenizer.
        template_args: further arguments of `apply_chat_template`, which the template reads as variables.
        system_in_user: put the system message before the first user message, a blank line between them.

    Raises:
        UserError: no chat template, arguments that it does not know, or a message that it refuses, drops or repeats.
    """
    check_template(tokenizer, template_args or {})

    def rendered(messages: Chat, **other: Any) -> str:
        asked = {"tokenize": False, "add_generation_prompt": True, **other, **(template_args or {})}
        return tokenizer.apply_chat_template(messages, **asked)

    folded = system_in_user and is_system(chat[0])
    sent = [{**chat[1], "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]] if folded else chat

    def render(messages: Chat) -> str:
        try:
            return rendered(messages)
        except Exception as error:  # templates raise what they like
            advice = _SYSTEM if is_system(messages[0]) and _takes(rendered, messages[1:]) else ""
            said = f"{str(error).rstrip('.')}.{advice}" if advice else error
            raise UserError(f"the tokenizer's chat template refuses this chat: {said}") from error

    text = render(sent)
    places = locate(sent, text, render)
    notes = dropped(sent, text, places)
    if folded:
        whole, (start, end), system = sent[0]["content"], places[0], len(chat[0]["content"])
        cut = [(0, system), (system + 2, len(whole))]
        places = [*within(whole, text, (start, end), cut, 0), *places[1:]]
    before, follow = _around_a_reply(sent, text, places, rendered)
    notes += _own_words(text, places, follow)
    return Written(text, tuple(places), before, follow, tuple(notes))


_SYSTEM = " It takes the chat without its system message: system_in_user puts that before the first user message."


def _takes(rendered: Callable[..., str], messages: Chat) -> bool:
    try:
        return bool(rendered(messages))
    except Exception:  # templates raise what they like
        return False


def check_template(tokenizer: Any, template_args: Mapping[str, Any]) -> None:
    """Refuse arguments that have no effect, since a misspelt one would go unseen."""
    if not getattr(tokenizer, "chat_template", None) and "chat_template" not in template_args:
        raise UserError("the tokenizer has no chat template: give the prompt as text or as pairs of input and output.")
    templates = template_args.get("chat_template") or tokenizer.chat_template
    source = "\n".join(map(str, templates.values())) if isinstance(templates, Mapping) else str(templates)
    for name in template_args:
        if name in _OURS:
            raise UserError(f"the template argument {name!r} is decided by how prompts are read: leave it out.")
        if name not in _PYTHONS and not re.search(rf"\b{re.escape(name)}\b", source):
            raise UserError(f"the chat template has no variable {name!r}, so that it would have no effect.")


def locate(chat: Chat, text: str, render: Callable[[Chat], str]) -> list[tuple[int, int]]:
    """Find every message in the rendered text, by a rendering with markers in place of messages: start and end.

    One is enough where the template writes every message as it stands, or every one without the spaces around it;
    elsewhere there is one for each message, which the template must write once, and others alike.
    """
    marker = marker_for(text + "".join(message["content"] for message in chat))
    markers = [f"{marker}{i}ZXQ" for i in range(len(chat))]
    rendered = render([{**message, "content": m} for message, m in zip(chat, markers, strict=True)])
    # Pieces between the messages and, at odd places, the messages.
    pieces = re.split(f"({marker}[0-9]+ZXQ)", rendered)
    if pieces[1::2] == markers:
        contents = [message["content"] for message in chat]
        for written in (contents, [content.strip() for content in contents]):
            pieces[1::2] = written
            if "".join(pieces) == text:
                ends = list(itertools.accumulate(map(len, pieces)))
                return list(zip(ends[0:-1:2], ends[1::2], strict=True))
    return [_locate(i, chat, text, render, markers[i]) for i in range(len(chat))]


def marker_for(everything: str) -> str:
    """Make a mark that does not stand in a text."""
    return next(m for m in (f"QXZ{i}N" for i in itertools.count(10**8)) if m not in everything)


def _locate(index: int, chat: Chat, text: str, render: Callable[[Chat], str], marker: str) -> tuple[int, int]:
    """Find one message by a rendering in which a marker stands in its place."""
    name = f"message {index} ({chat[index]['role']})"
    lost = f"{name} cannot be found in the rendered chat: the chat template writes"
    rendered = render([*chat[:index], {**chat[index], "content": marker}, *chat[index + 1 :]])
    head, *tails = rendered.split(marker)
    if len(tails) != 1:
        advice = _SYSTEM if is_system(chat[index]) and not tails else " Give the prompt as text instead."
        raise UserError(f"{lost} it {len(tails)} times instead of once.{advice}")
    start, end = len(head), len(text) - len(tails[0])
    if end < start or (text[:start], text[end:]) != (head, tails[0]):
        raise UserError(f"{lost} other messages differently depending on this one. Give the prompt as text instead.")
    if not text[start:end].strip():
        raise UserError(f"{name} is empty after the chat template has rendered it: it needs a visible character.")
    return start, end


def within(
    content: str, text: str, place: tuple[int, int], cut: Sequence[tuple[int, int]], index: int
) -> list[tuple[int, int]]:
    """Find parts of a message's content in the rendered text, where the message lies at `place`.

    Raises:
        UserError: the template writes the message otherwise than as it stands, apart from what it leaves out at its
            ends, or leaves out a whole part.
    """
    start, end = place
    written = text[start:end]
    offset = len(content) - len(content.lstrip()) if written == content.strip() else content.rfind(written)
    found = [(max(a - offset, 0), min(b - offset, len(written))) for a, b in cut]
    if offset < 0 or any(not written[a:b].strip() for a, b in found):
        raise UserError(
            f"the blocks of message {index} cannot be found in the rendered chat, since the chat template rewrites "
            "it. Give the prompt as text instead."
        )
    return [(start + a, start + b) for a, b in found]


def dropped(chat: Chat, text: str, places: Sequence[tuple[int, int]], first: int = 0) -> list[str]:
    """Say what the template left out of messages, or wrote in its place; the chat begins with message `first`."""
    notes = []
    for i, (message, (start, end)) in enumerate(zip(chat, places, strict=True), start=first):
        content, written = message["content"].strip(), text[start:end].strip()
        name = f"message {i} ({message['role']})"
        if written != content:
            most = min(len(content), len(written))
            tail = next((n for n in range(most) if content[-1 - n] != written[-1 - n]), most)
            most -= tail
            head = next((n for n in range(most) if content[n] != written[n]), most)
            left_out, put = content[head : len(content) - tail], written[head : len(written) - tail]
            said = f"writes {one_line(put, 80)!r} in place of" if put.strip() else "leaves out"
            notes.append(f"The chat template {said} {one_line(left_out, 80)!r} in {name}: the model does not read it.")
        for key in THOUGHTS:
            thought = message.get(key)
            if isinstance(thought, str) and thought.strip() and thought.strip() not in text:
                notes.append(f"The chat template leaves out the {key!r} of {name}: the model does not read it.")
    return notes


def _own_words(text: str, places: Sequence[tuple[int, int]], follow: str | None) -> list[str]:
    """Say what the template writes before the first message besides its marks, such as a separate system message."""
    start, end = places[-1]
    header = "" if follow is None else follow.partition(text[start:end])[0]
    head = text[: min(first for first, _ in places)]
    n = next((n for n in range(min(len(head), len(header))) if head[-1 - n] != header[-1 - n]), 0)
    words = _MARKS.sub(" ", head[: len(head) - n]).split()
    if len(words) < _FEW_WORDS:
        return []
    return [f"The chat template writes text of its own before the first message: {one_line(' '.join(words), 100)!r}."]


def _around_a_reply(
    chat: Chat, text: str, places: Sequence[tuple[int, int]], rendered: Callable[..., str]
) -> tuple[str, str | None]:
    """What the template puts between the text and a reply, white space alone, and what it writes after a reply."""
    header = text[places[-1][1] :]
    if len(places) > 2 and chat[-2]["role"] == "assistant":
        between = text[places[-3][1] : places[-2][0]]
        before = between.removeprefix(header) if between.startswith(header) else ""
        return ("" if before.strip() else before), text[places[-2][1] :]
    return around_a_next_reply(chat, text, rendered)


def around_a_next_reply(chat: Chat, text: str, rendered: Callable[..., str]) -> tuple[str, str | None]:
    """Return what stands around a reply that the model might give, before another question, as in `Written`."""
    marker = marker_for(text)
    try:
        head, tail = rendered([*chat, {"role": "assistant", "content": marker}, chat[-1]]).split(marker)
    except Exception:  # the template refuses it, or writes it otherwise than once
        return "", None
    before = head.removeprefix(text) if head.startswith(text) else ""
    return ("" if before.strip() else before), tail
