"""Whether an answer rests on its sources at all: what the model says when their text is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iclens.lens.facts import Grounding

if TYPE_CHECKING:
    from iclens.lens.lens import Lens


def grounding(lens: Lens) -> Grounding:
    """Read the explained answer, and the model's own, in the prompt without the text of any source: one pass more.

    The read-out is that of the whole prompt, so that the two margins can be compared.
    """
    without = lens.passes.without_sources(0)
    answer = without.answers[0]
    likeliest = answer.next_tokens[0]
    said, probability = likeliest.text, likeliest.probability
    if len(answer.candidates) > 1:
        best = max(answer.candidates, key=lambda one: one.log_probability)
        said, probability = best.text, best.probability
    gain = lens.answer.log_probability - answer.log_probability
    return Grounding(said, probability, answer.log_probability, answer.margin, gain)
