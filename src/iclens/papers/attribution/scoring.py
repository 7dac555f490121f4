"""One prompt scored by many methods: each pays for its own passes, and no shortened prompt runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import index
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from iclens.errors import UserError
from iclens.lens import Lens, LensModel, Readout
from iclens.lens.model.files import find
from iclens.lens.model.loading import load
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.scores.deletions import Outcome, shortened_ids
from iclens.lens.scores.method import ATTRIBUTIONS, Scores

NODES = 6
"""Weights that adaptive shares are integrated over, at most."""

MOST_TOKENS = 1 << 11

Left = tuple[int, ...]


@dataclass
class Shortened:
    """What the model says of a prompt without some demonstrations, by their numbers, and the time that it took."""

    outcomes: dict[Left, tuple[float, float, bool]] = field(default_factory=dict)
    seconds: float = 0.0
    passes: float = 0.0


class SharingLens(Lens):
    """A lens whose shortened prompts are shared with others of the same prompt.

    They count for each method that asks for them as if they had run for it alone; `spared` are the seconds that
    they would have taken more than they took, by the time that a pass over shortened prompts took so far.
    """

    def __init__(self, *args: Any, shortened: Shortened, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept, self.clock, self.spared = shortened, clock, 0.0

    def rerun(self, sets: Sequence[Iterable[int]]) -> Outcome:
        """Run the prompts that have not run yet."""
        kept, start = self.kept, self.clock()
        before = self.passes.forward_passes
        wanted: list[Left] = [tuple(sorted(index(i) for i in one)) for one in sets]
        new = [one for one in dict.fromkeys(wanted) if one not in kept.outcomes]
        if new:
            outcome = super().rerun(new)
            kept.outcomes.update(zip(new, zip(*(part.tolist() for part in outcome), strict=True), strict=True))
        seconds = self.clock() - start
        kept.seconds, kept.passes = kept.seconds + seconds, kept.passes + self.passes.forward_passes - before
        texts = shortened_ids(self.model, self.prompt, wanted)
        alone = self.passes.share_of(0, texts)
        self.passes.forward_passes = before + alone
        self.spared += alone * kept.seconds / max(kept.passes, 1e-12) - seconds
        margins, log_ps, answered = zip(*(kept.outcomes[one] for one in wanted), strict=True)
        wide = torch.float64
        return Outcome(torch.tensor(margins, dtype=wide), torch.tensor(log_ps, dtype=wide), torch.tensor(answered))


@dataclass(frozen=True)
class Scored:
    """A method's scores of one prompt.

    Attributes:
        scores: the scores and their passes.
        seconds: what it would have taken alone.
    """

    scores: Scores
    seconds: float

    @property
    def passes(self) -> float:
        """Forward and backward passes."""
        return self.scores.forward_passes + self.scores.backward_passes


class Subject:
    """A prompt, what is explained of it, and what ran of it so far.

    What fixes the read-out is nobody's cost.
    """

    def __init__(
        self, lens_model: LensModel, prompt: Prompt, readout: Readout, clock: Callable[[], float] = time.process_time
    ) -> None:
        self.lens_model, self.prompt, self.readout, self.clock = lens_model, prompt, readout, clock
        self.shortened = Shortened()

    def lens(self, *, held: bool = False, prompt: Prompt | None = None) -> SharingLens:
        """A lens that has run nothing yet but the shared shortened prompts, or one of another order of the prompt."""
        shortened = self.shortened if prompt is None else Shortened()
        return SharingLens(
            self.lens_model,
            self.prompt if prompt is None else prompt,
            readout=self.readout,
            held=held,
            nodes=NODES,
            most_tokens=MOST_TOKENS,
            shortened=shortened,
            clock=self.clock,
        )

    def scored(self, methods: Sequence[str], seed: int, prompt: Prompt | None = None) -> dict[str, Scored]:
        """Score by every method, each on its own lens and with the same seed, so that ablations are the same."""
        found = {}
        for name in methods:
            lens = self.lens(held=name == "path", prompt=prompt)
            start = self.clock()
            scores = ATTRIBUTIONS[name](lens, torch.Generator().manual_seed(seed))
            found[name] = Scored(scores, self.clock() - start + lens.spared)
        return found

    def deletions(self, keep: Bool[Tensor, "n_prompts n_demonstrations"]) -> Outcome:
        """Return the shortened prompts, one per keep-mask."""
        return self.lens().deletions(keep)


@cache
def loaded(name: str, dtype: str = "float32") -> LensModel:
    """Return the model, once a process: parts of one run share it."""
    return load(name, dtype=dtype)


def no_model(name: str) -> str:
    """Why there is no such model here, in one sentence; empty where there is."""
    try:
        find(name)
    except UserError as error:
        return f"The model cannot be had here: {error}"
    return ""
