"""Where the output of each demonstration stands in a prompt, so that what its input does is told from its label."""

from __future__ import annotations

import re

from iclens.lens.prompt.blocks import without_pattern
from iclens.lens.prompt.prompt import Prompt, Span


def outputs_of(prompt: Prompt) -> tuple[Span | None, ...]:
    """Find the output of every demonstration: None where the text does not show it.

    Where outputs are known (pairs, chats) each is the last place of its text. In plain text it is what follows, to the
    demonstration's end, the words that stand before the answer in the query and in most demonstrations, e.g. `Label:`.
    """
    shots = [span.of(prompt.text) for span in prompt.demonstrations]
    cue, lacking = without_pattern(shots, prompt.query.of(prompt.text))
    found: list[Span | None] = []
    for i, (span, text, label) in enumerate(zip(prompt.demonstrations, shots, prompt.labels, strict=True)):
        if label is not None:
            at, end = text.rfind(label), text.rfind(label) + len(label)
        elif cue and i not in lacking:
            at, end = _after(cue, text), len(text)
        else:
            at, end = -1, -1
        # An output of white space alone, or of none, has no token of its own.
        found.append(Span(at, end).shifted(span.start) if at >= 0 and text[at:end].strip() else None)
    return tuple(found)


def _after(cue: str, text: str) -> int:
    boundary, space = r"(?<!\w)" if cue[0].isalnum() else "", r"\s+" if cue[-1].isalnum() else r"\s*"
    places = [match.end() - 1 for match in re.finditer(boundary + re.escape(cue) + space + r"\S", text)]
    return places[-1] if places else -1
