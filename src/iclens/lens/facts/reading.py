"""What was read: the model, its tokens, the candidates, and what it would say."""

from __future__ import annotations

from dataclasses import dataclass, field


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
