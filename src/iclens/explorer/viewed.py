"""A lens as the page looks at it: what several views of one prompt share is computed once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from iclens.explorer.ask import Ask
from iclens.lens import Lens, LensModel
from iclens.lens.building import SCORES
from iclens.lens.prompt.tokens import FIRST, by_source
from iclens.lens.scores.gradient_step import gradient_step

_N_LIKELY = 4
_MOST_TOKENS = 512
"""Tokens of the questions whose lenses are kept: a few edits of a short prompt, one of a long prompt."""


class Viewed:
    """A lens, and what its views share.

    Args:
        lens: the lens.
    """

    def __init__(self, lens: Lens) -> None:
        self.lens = lens

    @cached_property
    def pulls(self) -> Tensor:
        """Each part's direct effect on the margin through each head, float64, in nats.

        (n_layers, n_heads, n_demonstrations + 2): the demonstrations', then that of the first token of the text, then
        that of the rest of the prompt.
        """
        direct = self.lens.gradient_step.contributions.cpu().double()
        n, groups = self.lens.n_demonstrations, self.lens.groups.clone()
        if self.lens.tokenized.roles[0] == FIRST:
            groups[0] = n
        return by_source(direct, groups, n + 1)

    def read_answers(self, most: int) -> dict[str, int]:
        """The first `most` candidates, the explained one always among them, each with its first token's id.

        Where these begin with fewer than two tokens, which would distinguish nothing, the likeliest next
        tokens come after them.
        """
        lens = self.lens
        candidates = list(zip(lens.passes.questions[0].answers.candidates, lens.answer.candidates, strict=True))
        room = most - sum(scored.chosen for _, scored in candidates[most:])
        found = {
            entry.text: entry.token_ids[0] for i, (entry, scored) in enumerate(candidates) if i < room or scored.chosen
        }
        if len(set(found.values())) > 1:
            return found
        known = set(found.values())
        for token in lens.answer.next_tokens[:_N_LIKELY]:
            if token.token_id not in known:
                found.setdefault(token.text, token.token_id)
        return found

    def readings(self, most: int) -> dict[str, Tensor]:
        """For each answer that is read, each token's part of the logit of its first token: (n_layers, n_heads, n)."""
        if most not in self._readings:
            traced = self.lens.traced
            self._readings[most] = {
                text: gradient_step(traced, traced.readouts.one_logit(0, index))[0].contributions.cpu().double()
                for text, index in self.read_answers(most).items()
            }
        return self._readings[most]

    @cached_property
    def _readings(self) -> dict[int, dict[str, Tensor]]:
        return {}


class Kept:
    """The lenses of the last few questions, so that the views of one edit share its passes.

    A lens holds the keys, values and, until the path is read, the graph of its prompt's pass: the more tokens a prompt
    has, the fewer lenses are kept. What a lens says depends on its question alone: the same question gets the same
    numbers in every view.

    Args:
        lens_model: the model.
        most_tokens: tokens of all kept prompts together; the newest is kept however long it is.
    """

    def __init__(self, lens_model: LensModel, most_tokens: int = _MOST_TOKENS) -> None:
        self.lens_model = lens_model
        self.most_tokens = most_tokens
        self._kept: OrderedDict[Ask, Viewed] = OrderedDict()

    def of(self, ask: Ask) -> Viewed:
        """Give the lens of a question, with every demonstration.

        Raises:
            UserError: the prompt or the answers cannot be handled.
        """
        # What is off or looked at, and every score, is read from the same lens.
        asked = replace(ask, off=(), layer=None, head=None, scores=SCORES, within=None, budget=0)
        viewed = self._kept.pop(asked, None)
        if viewed is None:
            told: dict[str, Any] = {"answers": ask.answers or None, "answer": ask.answer, **ask.said}
            viewed = Viewed(Lens(self.lens_model, ask.prompt, **told))
        self._kept[asked] = viewed
        while len(self._kept) > 1 and self._n_tokens() > self.most_tokens:
            self._kept.popitem(last=False)
        return viewed

    def _n_tokens(self) -> int:
        return sum(viewed.lens.tokenized.n_tokens for viewed in self._kept.values())
