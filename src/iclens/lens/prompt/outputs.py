"""Where the output of each demonstration stands in a prompt, to tell the effect of its input from that of its label."""

from __future__ import annotations

from iclens.lens.prompt.blocks import after_cue, without_pattern
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.sources import DEMONSTRATION, Span


def outputs_of(prompt: Prompt) -> tuple[Span | None, ...]:
    """Find the output of every demonstration, with what follows it there: None where the text does not show it.

    Other sources have none.

    A causal model has read an output whole only at its last token and after it, so that what closes a demonstration
    counts to its output. Where outputs are known (pairs, chats), each begins at the last place of its text. In plain
    text it is what follows the words that stand before the answer in the query and in most demonstrations, e.g.
    `Label:`.
    """
    shots = [span.of(prompt.text) for span in prompt.demonstrations]
    begins: dict[int, int] = {}
    for i, (text, label) in enumerate(zip(shots, prompt.labels, strict=True)):
        if label is not None and label.strip():
            begins[i] = text.rfind(label.strip())
    query = prompt.query.of(prompt.text)
    shown = {i for i, name in enumerate(prompt.source_names) if name.kind == DEMONSTRATION}
    unknown = [i for i, label in enumerate(prompt.labels) if label is None and i in shown]
    unlike = without_pattern([shots[i] for i in unknown], query)[1]
    alike = [i for place, i in enumerate(unknown) if place not in unlike]
    after = after_cue([shots[i] for i in alike], query) if alike else None
    if after is not None:
        begins |= {i: len(shots[i]) - len(answer) for i, answer in zip(alike, after[1], strict=True)}
    return tuple(
        Span(span.start + begins[i], span.end) if begins.get(i, -1) >= 0 else None
        for i, span in enumerate(prompt.demonstrations)
    )
