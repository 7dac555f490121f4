"""Which parts of a context a response rests on, in one call: for those who know ContextCite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from iclens.attribution.lasso import N_ABLATIONS, contextcite
from iclens.errors import UserError
from iclens.lens.calls import reading_model
from iclens.lens.lens import Lens
from iclens.lens.prompt.pieces import pieces
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.scores.method import Scores

TEMPLATE = "Context: {context}\n\nQuery: {query}"
"""How a context and a query are written; a model without a chat template reads `Answer:` after it."""

_EMPTY = "the context is empty: give at least one source."


def attribute(
    model: Any,
    context: str | Sequence[str],
    query: str,
    response: str | None = None,
    top_k: int | None = None,
    *,
    tokenizer: Any = None,
    method: str = "influence",
    n_masks: int = N_ABLATIONS,
    statement: str | None = None,
    split: str | Callable[[str], Sequence[str]] = "lines",
    template: str | None = None,
    generate: int = 128,
    seed: int | None = None,
) -> Any:
    """Score the parts of a context by what they did for a model's response to a query.

    A chat model reads the text as a user's message, in its own chat template.

    Args:
        model: what `explain` takes.
        context: the sources as a list, or one text that is split.
        query: the question.
        response: the text to explain; the model writes one when None.
        top_k: how many sources to return; all when None.
        tokenizer: the tokenizer of a Hugging Face model.
        method: `"influence"`: ∂ log p(response) / ∂w_i where all sources weigh half, in nats, for two passes;
            `"lasso"`: ContextCite's, with the logit of p(response) as its target, for `n_masks` passes; or another
            method of `ATTRIBUTIONS`.
        n_masks: random subsets of the sources that the Lasso is fitted to, 32 or 64 say.
        statement: a part of the response, word for word: its tokens alone are read.
        split: `"lines"`, `"paragraphs"`, `"sentences"` (needs the extra of this name), or a function from the text to
            its parts, in their order.
        template: a text with `{context}` and `{query}` in this order.
        generate: how many tokens the model writes at most.
        seed: of the masks, 0 when None; with one the response is drawn, without it the model writes the likeliest.

    Returns:
        A pandas data frame with `source` (from 0), `text` and `score`, the best first; a list of such rows without
        pandas. Positive scores support the response.

    Raises:
        UserError: something that cannot be read, or numbers that differ from the model's own.

    Source: Cohen-Wang, Shah, Georgiev & Madry 2024, "ContextCite: attributing model generation to context"; the Lasso
    is that of section 3 (keep-probability ½, α = 0.01 on standardised masks, target log p − log(1 − p)).
    """
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}: ask for at least 1 source.")
    if n_masks < 2:
        raise UserError(f"n_masks is {n_masks}: take at least 2, such as 32 or 64.")
    lens_model = reading_model(model, tokenizer)
    prompt = context_prompt(context, query, lens_model.tokenizer, split=split, template=template)
    read: dict[str, Any] = {"response": response, "statement": statement, "seed": seed}
    lens = Lens(lens_model, prompt, generate=None if response is not None else generate, held=False, **read)
    scores = _scored(lens, method, n_masks, seed or 0).values.tolist()
    _check(lens, method)
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k]
    rows = [{"source": i, "text": prompt.demonstrations[i].of(prompt.text), "score": scores[i]} for i in ranked]
    try:
        import pandas as pd
    except ImportError:
        return rows
    return pd.DataFrame(rows, columns=["source", "text", "score"])


def context_prompt(
    context: str | Sequence[str],
    query: str,
    tokenizer: Any,
    *,
    split: str | Callable[[str], Sequence[str]] = "lines",
    template: str | None = None,
) -> Prompt:
    """Write a context and a query as a prompt whose sources are the parts of the context.

    Raises:
        UserError: no source, an empty query, an unknown split or its parts not in the text, or a template without its
            slots.
    """
    if not isinstance(query, str) or not query.strip():
        raise UserError(f"the query is {query!r}: give the question as text.")
    chat = bool(getattr(tokenizer, "chat_template", None))
    written = (TEMPLATE if chat else TEMPLATE + "\n\nAnswer:") if template is None else template
    before, slot, after = written.partition("{context}")
    if not slot or "{query}" not in after:
        raise UserError("the template has no {context} with {query} after it: write both, in this order.")
    text, spans = _sources(context, split)
    marked = [(len(before) + start, len(before) + end) for start, end in spans]
    body = before + text + after.replace("{query}", query)
    return Prompt.from_spans(body, marked, tokenizer=tokenizer if chat else None)


def _sources(
    context: str | Sequence[str], split: str | Callable[[str], Sequence[str]]
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of a context, and where its sources lie in it."""
    if isinstance(context, str) and isinstance(split, str):
        spans = pieces(context, split)
        if not spans:
            raise UserError(_EMPTY)
        return context, spans
    parts = list(split(context) if isinstance(context, str) and callable(split) else context)
    text = context if isinstance(context, str) else "\n".join(map(str, parts))
    if not parts:
        raise UserError(_EMPTY)
    spans, at = [], 0
    for i, part in enumerate(parts):
        if not isinstance(part, str) or not part.strip():
            raise UserError(f"source {i} is {part!r}: every source is a text with a visible character.")
        place = text.find(part, at)
        if place < 0:
            raise UserError(f"source {i} ({part!r}) does not stand in the context after the source before it.")
        at = place + len(part)
        spans.append((place, at))
    return text, spans


def _scored(lens: Lens, method: str, n_masks: int, seed: int) -> Scores:
    if method == "lasso":
        return contextcite(lens, torch.Generator().manual_seed(seed), n_masks)
    return lens.score(method, seed=seed)


def _check(lens: Lens, method: str) -> None:
    """Refuse numbers that differ from the model's own."""
    residuals = {"capture": lens.passes.own_pass}
    if method == "influence":
        residuals["weighted"] = lens.passes.by_weight.influence().residual
    limits = lens.passes.tolerances(residuals)
    for key, residual in residuals.items():
        if not float(residual[0]) <= limits[key][0]:
            raise UserError(
                f"these scores are not the model's: the check {key!r} is off by {float(residual[0]):.1e}, where "
                f"{limits[key][0]:.1e} is accepted. explain(model, prompt, response=...) shows all checks."
            )
