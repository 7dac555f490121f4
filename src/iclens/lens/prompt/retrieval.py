"""Documents and a question as one text: which documents there are, and the template that writes them."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iclens.errors import UserError
from iclens.lens.prompt.blocks import blocks, check_unicode

DEFAULT_DOCUMENTS = "Documents:\n\n{text}\n\nQuestion: {question}\nAnswer:"
"""A word before the first document takes the place of the text's first token, which is in no document's cut."""

DEFAULT_CHAT_DOCUMENTS = "{text}\n\n{question}"
"""The default where a chat template writes the prompt, which ends with the header of the reply."""

_DOCUMENT = '{"id": "d1", "text": "..."}'
_RIGHT = r'e.g. "{text}\n\nQuestion: {question}\nAnswer:" (write a brace itself as {{ or }})'


@dataclass(frozen=True)
class Document:
    """One document: its name, which is not written unless the template has a place for it, and its text."""

    id: str
    text: str


def check_documents(documents: Any, where: Sequence[str] | None = None) -> tuple[Document, ...]:
    """Check that documents are named and hold text.

    Args:
        documents: `{"id", "text"}` each, or texts alone, which are named by their numbers from 0; or a mapping of lists
            `{"id": [...], "text": [...]}`, as columns are kept.
        where: what errors call each of them, such as `"line 3"`.

    Raises:
        UserError: there are none, one lacks its text or has a key that is not known, or two have the same id.
    """
    if isinstance(documents, Mapping) and documents and all(isinstance(one, list) for one in documents.values()):
        sizes = {key: len(one) for key, one in documents.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(f"the documents' lists are of different lengths: {sizes}.")
        documents = [dict(zip(documents, row, strict=True)) for row in zip(*documents.values(), strict=True)]
    if isinstance(documents, str | Mapping) or not isinstance(documents, Sequence):
        raise UserError(f"the documents are a {type(documents).__name__}: give a list, e.g. [{_DOCUMENT}].")
    if not documents:
        raise UserError(f"there are no documents: give at least one, e.g. {_DOCUMENT}.")
    found: list[Document] = []
    seen: dict[str, str] = {}
    for i, row in enumerate(documents):
        place = where[i] if where is not None else f"document {i}"
        one = _document(row, str(i), place)
        if one.id in seen:
            raise UserError(f"{place}: the id {one.id!r} is that of {seen[one.id]} too: give each document its own.")
        seen[one.id] = place
        found.append(one)
    return tuple(found)


def _document(row: Any, number: str, place: str) -> Document:
    if isinstance(row, str):
        row = {"text": row}
    if not isinstance(row, Mapping):
        raise UserError(f"{place}: a {type(row).__name__}, not a document. Write e.g. {_DOCUMENT}.")
    unknown = sorted(map(str, set(row) - {"id", "text"}))
    if unknown:
        raise UserError(f'{place}: the field "{unknown[0]}" is not known. Write e.g. {_DOCUMENT}.')
    name, text = row.get("id"), row.get("text")
    if name is None:
        name = number
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise UserError(f'{place}: the field "id" is {name!r}: give a string that is not empty, or a whole number.')
    if not isinstance(text, str):
        said = 'no field "text"' if text is None else f'the field "text" is {text!r}, not a string'
        raise UserError(f"{place}: {said}. Write e.g. {_DOCUMENT}.")
    if not text.strip():
        raise UserError(f'{place}: the field "text" is empty: a document needs at least one visible character.')
    check_unicode(text)
    check_unicode(str(name))
    return Document(str(name).strip(), text.replace("\r\n", "\n"))


def write_documents(documents: Sequence[Document], question: str, template: str) -> tuple[str, list[tuple[int, int]]]:
    r"""Write documents and a question through a template: the text, and where each document lies in it.

    The block of the template that holds `{text}`, up to the blank lines around it, is written once for each document;
    it may hold `{id}` as well. `{question}` stands once in another block; braces in the data mean themselves.

    Raises:
        UserError: an empty question, or a template without its slots or with others.
    """
    if not isinstance(question, str) or not question.strip():
        raise UserError("the documents come without a question: give what the model is to answer from them.")
    check_unicode(question)
    template = template.replace("\r\n", "\n")
    start, end = _repeated(template)
    head, item, tail = template[:start], template[start:end], template[end:]
    after = re.match(r"\s*", tail)
    before = re.search(r"\s*$", head)
    assert after is not None
    assert before is not None
    gap = max(after[0] if after.end() < len(tail) else "", before[0] if before.start() else "", "\n\n", key=len)
    text, spans = head.format(question=question), []
    for i, document in enumerate(documents):
        text += gap if i else ""
        written = item.format(text=document.text.strip("\n"), id=document.id)
        spans.append((len(text), len(text) + len(written)))
        text += written
    return text + tail.format(question=question), spans


def _repeated(template: str) -> tuple[int, int]:
    """Find the block that is written for each document, in a template with all its slots."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"the template {template!r} is no format string ({error}): write it like {_RIGHT}.") from None
    named = [(slot, any(form)) for _, slot, *form in parsed if slot is not None]
    slots = [slot for slot, _ in named]
    unknown = [slot for slot, formed in named if formed or slot not in ("text", "id", "question")]
    if unknown:
        raise UserError(
            f"the template {template!r} has the slot {{{unknown[0]}}}, which is not known: write it like {_RIGHT}."
        )
    for slot in ("text", "question"):
        if slots.count(slot) != 1:
            said = f"lacks {{{slot}}}" if slot not in slots else f"has the slot {{{slot}}} twice"
            raise UserError(f"the template {template!r} {said}: write it like {_RIGHT}.")
    found = [(a, b) for a, b in blocks(template) if "text" in _slots(template[a:b])]
    (start, end), inside = found[0], _slots(template[found[0][0] : found[0][1]])
    if "question" in inside or slots.count("id") > inside.count("id"):
        slot = "question" if "question" in inside else "id"
        apart = "apart from" if slot == "question" else "in"
        raise UserError(
            f"{{{slot}}} must stand {apart} the block of {{text}}, which is written once for each document, with blank "
            f"lines around it: write the template like {_RIGHT}."
        )
    return start, end


def _slots(text: str) -> list[str]:
    return [slot for _, slot, _, _ in string.Formatter().parse(text) if slot is not None]
