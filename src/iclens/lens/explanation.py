"""What `iclens explain` found: plain data, the one source of the table, the JSON and the page.

Every number that an explanation holds was computed before it was built; whoever shows it computes nothing.
Units: logits and margins are in nats (log-odds); probabilities lie in [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from html import escape
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ModelFacts:
    """Which model answered.

    Attributes:
        name: the folder, hub name or `"bundled"` that was asked for.
        family: the `model_type` of its configuration, e.g. `"gpt2"`.
        n_layers: number of attention layers.
        n_heads: number of query heads of a layer.
        n_parameters: number of parameters.
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
        part: index of its demonstration, or None when it belongs to the initialisation or the query.
        role: `"demonstration"`, `"instruction"`, `"separator"`, `"special"`, `"query"` or `"answer"`.
        gradient_step: its direct contribution to the margin, over all layers and heads.
        path: its contribution to the margin through all layers.
    """

    text: str
    part: int | None
    role: str
    gradient_step: float
    path: float


@dataclass(frozen=True)
class NextToken:
    """A token that the model holds likely after the prompt."""

    text: str
    token_id: int
    probability: float
    logit: float


@dataclass(frozen=True)
class Candidate:
    """A candidate answer, scored over all its tokens.

    Attributes:
        text: the answer.
        tokens: the text of each of its tokens.
        log_probability: log p(answer | prompt), the sum over its tokens.
        probability: exp(log_probability).
        chosen: True for the answer that is explained.
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
class DemonstrationEffect:
    """What one demonstration did to the margin of the answer.

    Attributes:
        index: its position in the prompt, from 0.
        text: its text.
        n_tokens: how many tokens it has.
        gradient_step: direct contribution to the margin, summed over layers and heads.
        path: contribution to the margin through all layers.
        knock_out: the exact knock-out of it alone.
        rerun_margin_change: full margin minus the margin after deleting its text, or None when not asked for.
        by_layer_and_head: gradient_step split, n_layers rows of n_heads numbers.
    """

    index: int
    text: str
    n_tokens: int
    gradient_step: float
    path: float
    knock_out: KnockOut
    rerun_margin_change: float | None
    by_layer_and_head: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class OtherPart:
    """A part of the prompt that is no demonstration: it sets the initialisation W_0.

    Attributes:
        name: `"instruction"`, `"separator"`, `"special"`, `"query"`, `"answer"`, or for the path also
            `"biases"` (what the model adds whatever the prompt).
        gradient_step: direct contribution, or None where the notion does not apply.
        path: contribution through all layers.
    """

    name: str
    gradient_step: float | None
    path: float


@dataclass(frozen=True)
class Residual:
    """How far one of our statements is from the model's own numbers.

    Attributes:
        name: what was compared.
        value: the relative difference found.
        tolerance: the largest value that is accepted.
    """

    name: str
    value: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """True when the value is a number within the tolerance."""
        return self.value <= self.tolerance


@dataclass(frozen=True)
class Agreement:
    """How far two ways to score the demonstrations agree.

    Attributes:
        first: name of the one, e.g. `"gradient_step"`.
        second: name of the other, e.g. `"knock_out"`.
        spearman: rank correlation in [-1, 1], or None when it is undefined (one demonstration, or all tied).
        top_k: share of common demonstrations among the k largest of either.
        k: the k of top_k.
    """

    first: str
    second: str
    spearman: float | None
    top_k: float
    k: int


@dataclass(frozen=True)
class Faithfulness:
    """How well one method's scores foretell what the model does on other prompts.

    Attributes:
        method: e.g. `"gradient_step"`.
        lds: linear datamodeling score: Spearman correlation of the sum of scores with the margin, over random
            subsets of the demonstrations whose text was really deleted; None when undefined.
        margin_drop: full margin minus the margin after deleting the text of the top k demonstrations.
        k: the k of margin_drop.
        n_subsets: number of random subsets.
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


@dataclass(frozen=True)
class Explanation:
    """Which demonstrations moved this answer.

    Attributes:
        model: which model answered.
        prompt: the whole text.
        tokens: its tokens, in order.
        next_tokens: the likeliest next tokens, most likely first.
        candidates: the candidate answers with their scores; the explained one is marked.
        answer: the text of the explained answer.
        margin: the explained number: the answer's logit over its alternatives.
        margin_definition: one sentence that says over which alternatives.
        demonstrations: the effects, in the order of the prompt.
        others: the parts that are not demonstrations.
        residuals: the checks; the first thing to read.
        agreement: how far the ways to score agree.
        group_knock_outs: knock-outs of groups that were asked for.
        faithfulness: one entry a method, empty when not asked for.
        notes: remarks, such as tokens that straddle two demonstrations.
        cost: what it cost.
        command: the command (or the Python call) that gives the same numbers.
        schema_version: version of this schema.
    """

    model: ModelFacts
    prompt: str
    tokens: tuple[Token, ...]
    next_tokens: tuple[NextToken, ...]
    candidates: tuple[Candidate, ...]
    answer: str
    margin: float
    margin_definition: str
    demonstrations: tuple[DemonstrationEffect, ...]
    others: tuple[OtherPart, ...]
    residuals: tuple[Residual, ...]
    agreement: tuple[Agreement, ...]
    group_knock_outs: tuple[KnockOut, ...] = ()
    faithfulness: tuple[Faithfulness, ...] = ()
    notes: tuple[str, ...] = ()
    cost: Cost = field(default_factory=lambda: Cost(0.0, 0.0, {}))
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def exact(self) -> bool:
        """True when every residual is within its tolerance."""
        return all(residual.holds for residual in self.residuals)

    def ranked(self) -> tuple[DemonstrationEffect, ...]:
        """The demonstrations from the one that supported the answer most, by gradient step."""
        return tuple(sorted(self.demonstrations, key=lambda effect: -effect.gradient_step))

    def total_by_layer_and_head(self) -> tuple[tuple[float, ...], ...]:
        """The gradient steps of all demonstrations together, n_layers rows of n_heads numbers."""
        by_effect = zip(*(effect.by_layer_and_head for effect in self.demonstrations), strict=True)
        return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in by_effect)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, as `--json` writes; a residual that is no number is None."""
        document = dataclasses.asdict(self)
        for residual, plain in zip(self.residuals, document["residuals"], strict=True):
            plain["holds"] = residual.holds
            plain["value"] = residual.value if math.isfinite(residual.value) else None
        document["exact"] = self.exact
        return document

    def _repr_html_(self) -> str:
        """A small table for notebooks: the demonstrations from the strongest support, in nats of the margin."""
        rows = "".join(
            f"<tr><th>#{effect.index}</th><td style='text-align:left'><bdi>{escape(effect.text)}</bdi></td>"
            f"<td>{effect.gradient_step:+.3f}</td><td>{effect.path:+.3f}</td>"
            f"<td>{effect.knock_out.margin_change:+.3f}</td></tr>"
            for effect in self.ranked()
        )
        failed = [residual.name for residual in self.residuals if not residual.holds]
        verdict = f"not exact: {', '.join(failed)}" if failed else "exact to rounding"
        return (
            f"<p><b><bdi>{escape(self.answer)}</bdi></b>, margin {self.margin:+.3f} nats ({escape(verdict)}). "
            f"{escape(self.margin_definition)}</p><table><thead><tr><th></th><th>demonstration</th>"
            f"<th>gradient step</th><th>path</th><th>knock-out</th></tr></thead><tbody>{rows}</tbody></table>"
        )
