"""What sources and the other parts of a prompt do: scores of them, of their pieces, and of groups together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from iclens.lens.prompt.sources import DEMONSTRATION

METHODS = {
    "influence_deletions": "effect of deleting",
    "influence_knock_out": "influence and knock-out",
    "gradient_step": "direct effect (gradient step)",
    "path": "total effect (path)",
    "knock_out": "knock-out",
    "influence": "influence",
    "shares": "shares",
    "rerun": "text removed",
}
"""What the scores in nats are called."""


ADDITIVE = ("gradient_step", "path", "influence", "shares")
"""Scores of which a sum is that of these demonstrations together; each is known for every token."""


EDGES = ("later", "query")
"""Which attention edges carry weights or are cut: those from all later tokens, or from the query's alone."""


@dataclass(frozen=True)
class KnockOut:
    """The exact change when every dual model of the query's tokens is trained without some demonstrations.

    Attributes:
        demonstrations: indices of what was left out.
        margin: the margin without them.
        margin_change: full minus knocked out; positive when they supported the answer.
        log_probability_change: the same for the answer's log-probability.
    """

    demonstrations: tuple[int, ...]
    margin: float
    margin_change: float
    log_probability_change: float


@dataclass(frozen=True)
class Piece:
    """A sentence, a line or a paragraph of a source, and what its tokens did.

    Attributes:
        index: its place in the source, from 0.
        kind: `"sentence"`, `"line"` or `"paragraph"`.
        text: its text.
        scores: the parts of its tokens in the additive scores that were asked for.
        rerun_margin_change: the margin minus the margin after its text alone was deleted; None where the budget of
            passes did not reach it.
    """

    index: int
    kind: str
    text: str
    scores: dict[str, float]
    rerun_margin_change: float | None = None


@dataclass(frozen=True)
class SourceEffect:
    """What one source did to the margin of the answer; None where a score was not asked for.

    Attributes:
        index: its position in the prompt, from 0.
        text: its text.
        label: its output, or None where it is not known, as in plain text, or there is none.
        n_tokens: how many tokens it has; the first of the text counts for none.
        gradient_step: direct contribution to the margin, summed over layers and heads.
        path: contribution to the margin through all layers.
        knock_out: the exact knock-out of it alone.
        rerun_margin_change: full margin minus the margin after deleting its text.
        by_layer_and_head: gradient_step split, n_layers rows of n_heads numbers; empty when it was not asked for.
        scores: what further methods gave, by their names in `ATTRIBUTIONS`.
        maps: `influence` and `shares` split like `by_layer_and_head`, where asked for.
        of_output: which part of `gradient_step`, `path`, `influence` and `shares` comes from the tokens of its output
            (its label) and of what closes it, the rest from its input; empty where the text does not show which is
            which.
        name: what it is called, e.g. `"document d3"`; empty in files of older versions.
        kind: `"demonstration"`, `"document"`, `"sentence"`, `"message"` and so on.
        id: its number from 0 or its own name, such as that of a document.
        pieces: its sentences, lines or paragraphs, where they were asked for.
    """

    index: int
    text: str
    label: str | None
    n_tokens: int
    gradient_step: float | None = None
    path: float | None = None
    knock_out: KnockOut | None = None
    rerun_margin_change: float | None = None
    by_layer_and_head: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    scores: dict[str, float] = field(default_factory=dict)
    maps: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict, repr=False)
    of_output: dict[str, float] = field(default_factory=dict)
    name: str = ""
    kind: str = DEMONSTRATION
    id: str = ""
    pieces: tuple[Piece, ...] = ()

    @property
    def shown(self) -> str:
        """What it is called where sources are listed: a demonstration by its number, `#4`, any other by its name."""
        numbered = self.kind == DEMONSTRATION and self.id in ("", str(self.index))
        return f"#{self.index}" if numbered else self.name

    def score(self, name: str) -> float | None:
        """The score of that name, e.g. `"gradient_step"` or `"lasso"`; None when it was not asked for."""
        if name == "knock_out":
            return None if self.knock_out is None else self.knock_out.margin_change
        if name == "rerun":
            return self.rerun_margin_change
        return getattr(self, name) if name in ("gradient_step", "path") else self.scores.get(name)


@dataclass(frozen=True)
class OtherPart:
    """A part of the prompt that is not a demonstration: it sets the initialisation W_0.

    Its name is the role of its `Token`s; `"first"` is the first token of the text, to which models attend as to a sink.
    Its contributions are the sums of theirs, None where not asked for.
    """

    name: str
    gradient_step: float | None
    path: float | None


@dataclass(frozen=True)
class Taken:
    """Where the influence was taken.

    Attributes:
        weight: of all demonstrations: ½, or less where the answer is certain at ½.
        margin: the margin when all of them have this weight.
    """

    weight: float
    margin: float


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
