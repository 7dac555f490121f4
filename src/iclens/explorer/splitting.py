"""The same prompt with other sources: its text, its documents or its messages split in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.explorer.reading import text
from iclens.lens.prompt import read_document
from iclens.lens.prompt.pieces import MESSAGES, PIECES
from iclens.lens.prompt.prompt import Prompt


def ways(prompt: Prompt) -> list[str]:
    """The ways in which a prompt may be split; none where its parts were set in Python, or marked."""
    document = prompt.to_document()
    if document is None or "spans" in document:
        return []
    return [*PIECES, *([MESSAGES] if "messages" in document else [])]


def split_anew(document: Any, tokenizer: Any = None) -> Ask:
    """Read a question and split its prompt as `"split"` says: a way of `Prompt.split`, or null for as it stands.

    Everything is on then, since the sources are others.

    Raises:
        UserError: the question cannot be read, or its prompt cannot be split so.
    """
    own = dict(document) if isinstance(document, dict) else {}
    way = text(own, "split")
    ask = Ask.read({key: value for key, value in own.items() if key != "split"} if own else document, tokenizer)
    if not ways(ask.prompt):
        raise UserError("the sources of this prompt were marked one by one: it cannot be split in another way.")
    whole = dict(ask.prompt.to_document() or {})
    whole.pop("split", None)
    if "prompt" in whole and "query" in whole:
        # Of a text that is not split, the query is the end.
        del whole["query"]
        whole["prompt"] = ask.prompt.text + ("" if ask.prompt.lead == " " else ask.prompt.lead)
    prompt = read_document(whole | ({} if way is None else {"split": way}), tokenizer)
    return replace(ask, prompt=prompt, off=())
