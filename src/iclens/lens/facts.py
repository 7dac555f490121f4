"""The parts of an explanation, plain data: the model, tokens, sources, checks and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from iclens.lens.prompt.sources import DEMONSTRATION


@dataclass(frozen=True)
class ModelFacts:
    """Which model answered, with how many attention layers of how many query heads.

    Attributes:
        name: the folder, hub name or `"bundled"` that was asked for.
        family: the `model_type` of its configuration, e.g. `"gpt2"`.
        dtype: e.g. `"float32"`.
        context_length: most tokens that fit, or None when the model has no limit.
    """

    name: str
    family: str
    n_layers: int
    n_heads: int
    n_parameters: int
    dtype: str
    context_length: int | None


@dataclass(frozen=True)
class Token:
    """One token of the prompt (and of the answer, when it was read out token by token).

    Attributes:
        text: the characters of the prompt that it covers; a special token's own name when it covers none.
        part: index of its source, or None when it belongs to the initialisation or the query.
        role: `"first"` for the first token of the text, else `"demonstration"`, `"source"` (of another kind),
            `"instruction"`, `"separator"`, `"special"`, `"query"` or `"answer"`.
        gradient_step: its direct contribution to the margin, over all layers and heads; None when not asked for.
        path: its contribution to the margin through all layers; None when not asked for.
        scores: its part of `influence` and of `shares`, where asked for.
    """

    text: str
    part: int | None
    role: str
    gradient_step: float | None
    path: float | None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NextToken:
    """A token that the model holds likely after the prompt."""

    text: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True)
class Candidate:
    """A candidate answer: log p(answer | prompt) is the sum over its `tokens`; the explained one is `chosen`.

    Where another candidate begins with this one, it is the sum over its tokens and what ends an answer in the prompt.
    """

    text: str
    tokens: tuple[str, ...]
    log_probability: float
    probability: float
    chosen: bool


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
    """A part of the prompt that is no demonstration: it sets the initialisation W_0.

    Its name is the role of its `Token`s; `"first"` is the first token of the text, to which models attend as to a sink.
    Its contributions are the sums of theirs, None where not asked for.
    """

    name: str
    gradient_step: float | None
    path: float | None


METHODS = {
    "influence_deletions": "effect of deleting",
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

RESIDUALS = {
    "capture": "captured attention against the model's own",
    "dual_models": "dual models against the attention output of every layer",
    "gradient_step": "direct contributions and the rest against the margin",
    "path": "path parts against the margin",
    "knock_out": "knock-out of nothing against the full pass",
    "weighted": "weighted attention of the influence against the pass's own",
    "response": "influence on the response's tokens against that on all",
}
"""The checks by their short names."""


@dataclass(frozen=True)
class Residual:
    """How far one of our statements is from the model's own numbers.

    Attributes:
        name: what was compared.
        value: the relative difference found; at most `tolerance` is accepted.
        key: its short name, one of `RESIDUALS`.
    """

    name: str
    value: float
    tolerance: float
    key: str = ""

    @property
    def holds(self) -> bool:
        """True when the value is a number within the tolerance."""
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Completeness:
    """How far the shares are from summing to what the demonstrations change.

    Attributes:
        without: the margin when no dual model is trained on any demonstration.
        gap: |sum of the shares − (margin − without)|, over the change or the largest share, whichever is larger.
        tolerance: the gap up to which they count as complete.
        weights: the weights of all demonstrations that the influence was integrated over, ascending.
    """

    without: float
    gap: float
    tolerance: float
    weights: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the shares are complete."""
        return self.gap <= self.tolerance


@dataclass(frozen=True)
class Taken:
    """Where the influence was taken.

    Attributes:
        weight: of all demonstrations: ½, or less where the answer is certain at ½.
        margin: the margin when all of them have this weight.
    """

    weight: float
    margin: float


@dataclass(frozen=True)
class StatementEffects:
    """A statement of a response, and what every source did to it: sums over its tokens.

    Attributes:
        start, end: its characters in the response's text, `end` not included.
        first, last: its tokens, `last` not included.
        log_probability: of these, each after those before it.
        influence: ∂ Σ_t log p_t / ∂w_i of each source; over all statements they sum to the response's influence.
        pieces: the same of what is within each source, where that was asked for.
    """

    start: int
    end: int
    first: int
    last: int
    log_probability: float
    influence: tuple[float, ...] = field(repr=False)
    pieces: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ResponseEffects:
    """A response that is explained as a whole or in part, and what every source did to each of its tokens.

    Attributes:
        text: the response.
        tokens: the text of each of its tokens.
        log_probabilities: of each token, after those before it.
        measure: what is read: `"log_probability"`, or `"logit"`, log p − log(1 − p).
        first, last: the tokens that are read, `last` not included: those of the statement, or all.
        statement: the part of the response that is read, or None for all of it.
        foil: the response that it is compared with, whose log-probability is subtracted, or None.
        influence: ∂ log p_t / ∂w_i by token and source, where the influence was taken; empty where it was not, or
            where the matrix was left out.
        statements: its sentences, or its lines, where there are several and the influence on the log-probability of
            all of it was taken.
    """

    text: str
    tokens: tuple[str, ...]
    log_probabilities: tuple[float, ...]
    measure: str
    first: int
    last: int
    statement: str | None = None
    foil: str | None = None
    influence: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    statements: tuple[StatementEffects, ...] = ()

    @property
    def quantity(self) -> str:
        """What the explained number is called."""
        if self.foil is not None:
            return "log-probability difference"
        return "log-probability" if self.measure == "log_probability" else "logit of the probability"


@dataclass(frozen=True)
class Grounding:
    """What the model says when the text of every source is deleted.

    Attributes:
        answer: what it says then: its likeliest candidate, or, without candidates, its likeliest next token.
        probability: of that.
        log_probability: of the explained answer then, over all its tokens: what the rest of the prompt, and what the
            model knows, give it.
        margin: the explained margin then.
        gain: the answer's log-probability in the whole prompt minus that: what the sources give it.
        log_probabilities: of each token of a response then; empty for answers.
    """

    answer: str
    probability: float
    log_probability: float
    margin: float
    gain: float
    log_probabilities: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """The part of the answer's probability that it loses without the sources, 1 − exp(−gain); 0 where it gains."""
        return lost(self.gain)


@dataclass(frozen=True)
class PairEffects:
    """How the influence of one demonstration changes with the weight of another, near the weights of the influence.

    Attributes:
        matrix: ∂²M/∂w_i∂w_j, symmetric, shrunk towards zero where few gradients tell of it.
        noise: standard error of each entry.
        redundant: groups of demonstrations that say the same: another one takes at least half of each one's effect.
        dependent: pairs of which either adds at least half of the smaller effect to the other.
        error: root mean square error with which subsets are predicted, on random halves of the demonstrations, in nats.
        spread: standard deviation of the margin over these halves.
        n_vectors: weight vectors at which the gradient was taken.
    """

    matrix: tuple[tuple[float, ...], ...] = field(repr=False)
    noise: tuple[tuple[float, ...], ...] = field(repr=False)
    redundant: tuple[tuple[int, ...], ...]
    dependent: tuple[tuple[int, int], ...]
    error: float
    spread: float
    n_vectors: int


@dataclass(frozen=True)
class Agreement:
    """How far two ways to score the demonstrations agree, e.g. `"gradient_step"` and `"knock_out"`.

    Attributes:
        spearman: rank correlation in [-1, 1], or None when it is undefined (one demonstration, or all tied).
        top_k: share of common demonstrations among the k largest of either.
    """

    first: str
    second: str
    spearman: float | None
    top_k: float
    k: int


@dataclass(frozen=True)
class Faithfulness:
    """How well one method's scores predict what the model does on other prompts.

    Attributes:
        method: e.g. `"gradient_step"`.
        lds: linear datamodeling score: Spearman correlation of the sum of scores with the margin, over `n_subsets`
            random subsets of the demonstrations whose text was really deleted; None when undefined.
        margin_drop: full margin minus the margin after deleting the text of the top k demonstrations.
    """

    method: str
    lds: float | None
    margin_drop: float
    k: int
    n_subsets: int


@dataclass(frozen=True)
class Cost:
    """What the explanation cost: full forward passes, backward passes, and seconds of each stage."""

    forward_passes: float
    backward_passes: float
    seconds: dict[str, float]


def lost(gain: float) -> float:
    """The part of a probability that is lost with a gain of log-probability, 1 − exp(−gain); 0 where that is a loss."""
    return -math.expm1(-max(gain, 0.0))


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
