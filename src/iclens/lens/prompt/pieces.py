"""The paragraphs, the lines and the sentences of a text: where each begins and ends."""

from __future__ import annotations

from importlib.util import find_spec

from iclens.errors import UserError, did_you_mean
from iclens.lens.prompt.blocks import blocks

PIECES = {"paragraphs": "paragraph", "lines": "line", "sentences": "sentence"}
"""Ways to split a text, and what one piece is called."""

MESSAGES = "messages"
"""The way to split a chat into its messages."""

_LANGUAGE = "en"
"""Of the abbreviations after which a full stop ends no sentence; other scripts keep their own marks."""


def check_split(split: str) -> None:
    """Refuse a way to split that is none."""
    known = (*PIECES, MESSAGES)
    if split not in known:
        raise UserError(f"split is {split!r}: give one of {', '.join(known)}.{did_you_mean(split, known)}")


def pieces(text: str, split: str, separator: str | None = None) -> list[tuple[int, int]]:
    """Find the pieces of a text: the first character of each, and the one after its last; none is blank.

    Args:
        text: the text.
        split: `"paragraphs"` (between blank lines, or separators), `"lines"`, or `"sentences"`, none of which is in two
            paragraphs.
        separator: what stands between paragraphs instead of blank lines.

    Raises:
        UserError: there is no such split, the separator is empty, or the package of sentences is not installed.
    """
    check_split(split)
    paragraphs = blocks(text, separator)
    if split == "paragraphs":
        return paragraphs
    if split == MESSAGES:
        raise UserError(f"a text has no messages: it is split into {', '.join(PIECES)}.")
    finer = _sentences if split == "sentences" else _lines
    return [(start + a, start + b) for start, end in paragraphs for a, b in finer(text[start:end])]


def has_sentences() -> bool:
    """Return whether the package that finds sentences is installed."""
    return find_spec("sentencex") is not None


def sentences_or_lines(text: str) -> list[tuple[int, int]]:
    """Find the sentences of a text; its lines where the package of sentences is not installed."""
    return pieces(text, "sentences" if has_sentences() else "lines")


def query_of(text: str, split: str, separator: str | None = None) -> int:
    """Find where the query begins in a text that is split: its last paragraph or its last line.

    In a text that is split into sentences it is the last paragraph; where there is one, the last line; where there is
    one line, the last sentence.
    """
    for way in ("paragraphs", "lines", "sentences") if split == "sentences" else (split,):
        found = pieces(text, way, separator)
        if len(found) > 1:
            break
    return found[-1][0] if found else len(text)


def _lines(text: str) -> list[tuple[int, int]]:
    return blocks(text, "\n")


def _sentences(text: str) -> list[tuple[int, int]]:
    try:
        from sentencex import get_sentence_boundaries
    except ImportError:
        raise UserError(
            "sentences need the package sentencex: `pip install 'iclens[sentences]'` brings it; lines and paragraphs "
            "need none."
        ) from None
    found = []
    for one in get_sentence_boundaries(_LANGUAGE, text):
        start, end = one["start_index"], one["end_index"]
        sentence = text[start:end]
        if sentence.strip():
            found.append((start + len(sentence) - len(sentence.lstrip()), start + len(sentence.rstrip())))
    return found
