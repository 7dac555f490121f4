"""A lens as the page looks at it: what several views of one prompt share is computed once."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import cached_property

from torch import Tensor

from iclens.explorer.ask import Ask
from iclens.lens import Lens, LensModel
from iclens.lens.read.answers import likeliest
from iclens.lens.read.sums import by_source
from iclens.lens.scores.gradient_step import gradient_step

_N_LIKELY = 4
_MOST_KEPT = 4
"""Questions whose lenses are kept: those of the last few edits."""


class Viewed:
    """A lens, and what its views share.

    Args:
        lens: the lens.
    """

    def __init__(self, lens: Lens) -> None:
        self.lens = lens

    @cached_property
    def pulls(self) -> Tensor:
        """What each demonstration adds to the margin through each head, directly; last the rest of the prompt.

        (n_layers, n_heads, n_demonstrations + 1), float64.
        """
        direct = self.lens.gradient_step.contributions.double().cpu()
        return by_source(direct, self.lens.groups, self.lens.n_demonstrations)

    def read_answers(self, most: int) -> dict[str, int]:
        """The first `most` candidates, the explained one always among them, each with its first token's id.

        Where these begin with fewer than two tokens, so that nothing could be told apart by them, the likeliest next
        tokens come after them.
        """
        lens = self.lens
        candidates = list(zip(lens.passes.questions[0].answers.candidates, lens.answered.candidates, strict=True))
        room = most - sum(scored.chosen for _, scored in candidates[most:])
        found = {
            entry.text: entry.token_ids[0] for i, (entry, scored) in enumerate(candidates) if i < room or scored.chosen
        }
        if len(set(found.values())) > 1:
            return found
        known = set(found.values())
        for token in likeliest(lens.model.tokenizer, lens.answered.next_logits, _N_LIKELY):
            if token.token_id not in known:
                found.setdefault(token.text, token.token_id)
        return found

    def readings(self, most: int) -> dict[str, Tensor]:
        """For each answer that is read, each token's part of the logit of its first token: (n_layers, n_heads, n)."""
        if most not in self._readings:
            traced = self.lens.traced
            self._readings[most] = {
                text: gradient_step(traced, traced.readouts.one_logit(0, index))[0].contributions.double().cpu()
                for text, index in self.read_answers(most).items()
            }
        return self._readings[most]

    @cached_property
    def _readings(self) -> dict[int, dict[str, Tensor]]:
        return {}


class Kept:
    """The lenses of the last few questions, so that the views of one edit share its passes.

    What a lens says depends on its question alone: the same question gets the same numbers, whoever asks.

    Args:
        lens_model: the model.
        most: questions that are kept.
    """

    def __init__(self, lens_model: LensModel, most: int = _MOST_KEPT) -> None:
        self.lens_model = lens_model
        self.most = most
        self._kept: OrderedDict[str, Viewed] = OrderedDict()

    def of(self, ask: Ask) -> Viewed:
        """The lens of a question, with every demonstration."""
        prompt = ask.prompt
        key = json.dumps([prompt.text, str(prompt), ask.answers, ask.answer])
        viewed = self._kept.pop(key, None)
        if viewed is None:
            answers = ask.answers or None
            viewed = Viewed(Lens(self.lens_model, prompt, answers=answers, answer=ask.answer))
        self._kept[key] = viewed
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return viewed
