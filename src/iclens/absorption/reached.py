"""What a model reaches on queries that took no part in a fit, beside what it reaches with the real prompt."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from iclens.absorption.queries import Answered
from iclens.intervals import Estimate, estimate
from iclens.selection.comparing import Measured, measured

ZERO, PROMPT, ABSORBED = "zero-shot", "prompt", "absorbed"
LORA, DISTILLED = "LoRA on the demonstrations", "LoRA on the prompt's answers"


@dataclass(frozen=True)
class Reached:
    """One way to answer the held-out queries.

    Attributes:
        name: `"zero-shot"`, `"prompt"`, `"absorbed"`, or a LoRA that was trained.
        demonstrations: how many stand in the prompt that it is held against.
        rank: of the change of weights; None without one.
        tokens: that the model reads for a query, in the mean.
        divergence: KL(prompt ‖ this) of the token behind the query, over the whole vocabulary, nats.
        difference: |log p − log p with the prompt| of the right answer, nats.
        reached: the metric and the log-loss.
        change: the same less the prompt's, query by query.
        divergences, log_p, values: the divergence, log p of the right answer and the metric of every query.
    """

    name: str
    demonstrations: int
    rank: int | None
    tokens: float
    divergence: Estimate
    difference: Estimate
    reached: Measured
    change: Measured
    divergences: tuple[float, ...] = field(default=(), repr=False)
    log_p: tuple[float, ...] = field(default=(), repr=False)
    values: tuple[float, ...] = field(default=(), repr=False)

    def to_row(self) -> dict[str, Any]:
        """Its numbers; an interval becomes `x`, `x_low` and `x_high`."""
        row: dict[str, Any] = {
            "name": self.name,
            "demonstrations": self.demonstrations,
            "rank": self.rank,
            "tokens": self.tokens,
        }
        for name, one in (
            ("divergence", self.divergence),
            ("difference", self.difference),
            ("metric", self.reached.metric),
            ("log_loss", self.reached.log_loss),
            ("metric_change", self.change.metric),
            ("log_loss_change", self.change.log_loss),
        ):
            told = asdict(one)
            row |= {name: told["mean"], f"{name}_low": told["low"], f"{name}_high": told["high"]}
        return row


def reached(
    name: str, own: Answered, prompt: Answered, *, demonstrations: int, rank: int | None, tokens: float
) -> Reached:
    """Hold answers against those that the prompt gives to the same queries."""
    values, log_p = own.said.values[0], own.said.log_p[0]
    of_prompt, divergences = prompt.said.log_p[0], prompt.divergence(own)
    return Reached(
        name,
        demonstrations,
        rank,
        tokens,
        estimate(divergences),
        estimate((log_p - of_prompt).abs()),
        measured(values, log_p),
        measured(values - prompt.said.values[0], log_p - of_prompt),
        *(tuple(one.tolist()) for one in (divergences, log_p, values)),
    )
