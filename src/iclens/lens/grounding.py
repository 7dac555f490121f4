"""Whether an answer rests on its sources at all: what the model says when their text is deleted."""

from __future__ import annotations

from iclens.lens.facts import Grounding
from iclens.lens.model.placed import doubled
from iclens.lens.passes import Passes
from iclens.lens.prompt.sources import DOCUMENT


def grounding(passes: Passes, prompt: int, wanted: bool | None = None) -> Grounding | None:
    """Read the explained answer, and the model's own, in one of the prompts without the text of any source.

    The read-out is that of the whole prompt, so that the two margins can be compared. One pass over a short text.

    Args:
        passes: the passes over the prompts.
        prompt: which of them.
        wanted: whether to; when None, where the sources are documents.
    """
    noun = passes.questions[prompt].tokenized.prompt.noun
    if not (noun == DOCUMENT if wanted is None else wanted):
        return None
    without, response = passes.without_sources(prompt), passes.questions[prompt].response
    whole, (answer,) = passes.answers[prompt], without.answers
    likeliest = answer.next_tokens[0]
    said, probability = likeliest.text, likeliest.probability
    if len(answer.candidates) > 1:
        best = max(answer.candidates, key=lambda one: one.log_probability)
        said, probability = best.text, best.probability
    gain = whole.log_probability - answer.log_probability
    log_ps: list[float] = []
    if response is not None:
        readouts = without.traced.readouts
        log_ps = doubled(readouts.token_log_probabilities(without.traced.logits)[0]).tolist()[: len(response.tokens)]
    return Grounding(said, probability, answer.log_probability, answer.margin, gain, tuple(log_ps))
