"""An explanation as rows: one for every source, with its prompt's numbers beside it. The schema of every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iclens.lens.explanation import Explanation
from iclens.lens.facts import ADDITIVE, RESIDUALS, ResponseEffects, SourceEffect, total
from iclens.lens.prompt.tokens import FIRST
from iclens.lens.views import VIEWS, WRITERS

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 5
"""Raised by a change that could break a reader."""

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("line", "int32", "line of the prompts' file, from 1; null outside a batch"),
    ("id", "string", "the prompt's own id, or the number of its line; null outside a batch"),
    ("error", "string", "why the line could not be explained; then all that follows is null"),
    ("n_tokens", "int32", "tokens of the prompt"),
    ("n_demonstrations", "int32", "demonstrations of the prompt"),
    ("answer", "string", "the explained answer"),
    ("answer_log_probability", "float64", "its log-probability, the sum over all its tokens, in nats"),
    ("predicted", "string", "the likeliest candidate; the likeliest next token where there are no candidates"),
    ("next_token", "string", "the likeliest next token"),
    ("next_token_probability", "float64", "its probability"),
    ("candidates", "list<string>", "the candidate answers; empty when none were given"),
    ("candidate_log_probabilities", "list<float64>", "theirs, in nats"),
    ("margin", "float64", "the explained number: the answer's logit over its alternatives, in nats"),
    ("margin_definition", "string", "over which alternatives, and where"),
    ("response", "string", "the response that is explained; null where answers are, and so are the next eight"),
    ("statement", "string", "the part of it that is read; null for all of it"),
    ("foil", "string", "what it is compared with; null without one"),
    ("measure", "string", "what is read of its probability: `log_probability`, or `logit`"),
    ("response_tokens", "list<string>", "its tokens"),
    ("response_log_probabilities", "list<float64>", "theirs, each after those before it, in nats"),
    ("statements", "list<string>", "its statements, where there are several and all of it is read by influence"),
    ("statement_log_probabilities", "list<float64>", "theirs"),
    ("first_token_gradient_step", "float64", "direct contribution of the first token of the text (attention sink)"),
    ("first_token_path", "float64", "its contribution through all layers"),
    ("other_gradient_step", "float64", "direct contribution of the rest of the prompt, in nats"),
    ("other_path", "float64", "its contribution through all layers; all paths of the prompt sum to the margin"),
    *((f"residual_{name}", "float64", f"the check {name!r}: a relative difference") for name in RESIDUALS),
    (
        "influence_weight",
        "float64",
        "weight of all demonstrations where the influence was taken; null when not asked for",
    ),
    ("completeness_gap", "float64", "how far the shares are from their sum, relative; null when not asked for"),
    (
        "context_share",
        "float64",
        "part of the answer's probability that it loses without any source; null when not asked for",
    ),
    ("answer_without_sources", "string", "what the model says without any source; null when not asked for"),
    ("tolerance", "float64", "the largest residual that is accepted"),
    ("exact", "bool", "whether every residual is within it; when not, trust nothing else of the prompt"),
    ("notes", "list<string>", "remarks, such as tokens that lie across two demonstrations"),
    ("demonstration", "int32", "the place of the source (a demonstration, a document) in the prompt, from 0"),
    ("name", "string", "what the source is called, such as `demonstration 2` or `document d3`"),
    ("text", "string", "its text"),
    ("label", "string", "its output; null in plain text, where it is not known"),
    ("demonstration_tokens", "int32", "its number of tokens"),
    ("gradient_step", "float64", "its direct contribution to the margin, over layers and heads, in nats"),
    ("path", "float64", "its contribution through all layers, in nats"),
    ("knock_out", "float64", "full margin minus the margin when it is knocked out exactly, in nats"),
    ("knock_out_log_probability", "float64", "the same for the answer's log-probability"),
    ("rerun", "float64", "full margin minus the margin after deleting its text; null when not asked for"),
    ("token_influence", "list<float64>", "its influence on each of the response's tokens; empty without the matrix"),
    ("statement_influence", "list<float64>", "its influence on each of the response's statements"),
    ("pieces", "list<string>", "what is within it: sentences, lines or paragraphs; empty when not asked for"),
    ("piece_scores", "list<float64>", "theirs, by the first additive score"),
    ("piece_reruns", "list<float64>", "full margin minus the margin after deleting each; null beyond the budget"),
    (
        "scores",
        "map<string, float64>",
        "influence, shares and scores of further methods by name; empty if not asked for",
    ),
)
"""Name, type and meaning of every column. Positive scores support the answer; a score not asked for is null."""


@VIEWS.register("rows")
def rows_of(found: Explanation, about: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One dictionary per source, with every name of `COLUMNS`; `about`: `line` and `id` of the prompt in its file."""
    residuals = {residual.key: residual.value for residual in found.residuals}
    following = found.next_tokens[0]
    whole: dict[str, Any] = dict.fromkeys(name for name, _, _ in COLUMNS) | {
        "id": found.id,
        **(about or {}),
        "n_tokens": sum(token.role != "answer" for token in found.tokens),
        "n_demonstrations": len(found.sources),
        "answer": found.answer,
        "answer_log_probability": found.answer_log_probability,
        "predicted": max(found.candidates, key=lambda one: one.log_probability, default=following).text,
        "next_token": following.text,
        "next_token_probability": following.probability,
        "candidates": [one.text for one in found.candidates],
        "candidate_log_probabilities": [one.log_probability for one in found.candidates],
        "margin": found.margin,
        "margin_definition": found.margin_definition,
        **_of_response(found.response),
        "first_token_gradient_step": total(one.gradient_step for one in found.others if one.name == FIRST),
        "first_token_path": total(one.path for one in found.others if one.name == FIRST),
        "other_gradient_step": total(one.gradient_step for one in found.others if one.name != FIRST),
        "other_path": total(one.path for one in found.others if one.name != FIRST),
        **{f"residual_{name}": residuals.get(name) for name in RESIDUALS},
        "influence_weight": None if found.influence_at is None else found.influence_at.weight,
        "completeness_gap": None if found.completeness is None else found.completeness.gap,
        "context_share": None if found.grounding is None else found.grounding.share,
        "answer_without_sources": None if found.grounding is None else found.grounding.answer,
        "tolerance": max(residual.tolerance for residual in found.residuals),
        "exact": found.exact,
        "notes": list(found.notes),
    }
    return [
        whole
        | {
            "demonstration": effect.index,
            "name": effect.name,
            "text": effect.text,
            "label": effect.label,
            "demonstration_tokens": effect.n_tokens,
            "gradient_step": effect.gradient_step,
            "path": effect.path,
            "knock_out": effect.score("knock_out"),
            "knock_out_log_probability": None if effect.knock_out is None else effect.knock_out.log_probability_change,
            "rerun": effect.rerun_margin_change,
            **_on_response(found.response, effect.index),
            **_pieces(found, effect),
            "scores": dict(effect.scores),
        }
        for effect in found.sources
    ]


def _of_response(response: ResponseEffects | None) -> dict[str, Any]:
    """Return the columns of a prompt's response."""
    if response is None:
        return {}
    return {
        "response": response.text,
        "statement": response.statement,
        "foil": response.foil,
        "measure": response.measure,
        "response_tokens": list(response.tokens),
        "response_log_probabilities": list(response.log_probabilities),
        "statements": [response.text[one.start : one.end] for one in response.statements],
        "statement_log_probabilities": [one.log_probability for one in response.statements],
    }


def _on_response(response: ResponseEffects | None, source: int) -> dict[str, Any]:
    """Return what one source does to each token and statement of it."""
    if response is None:
        return {}
    return {
        "token_influence": [row[source] for row in response.influence],
        "statement_influence": [one.influence[source] for one in response.statements],
    }


def _pieces(found: Explanation, effect: SourceEffect) -> dict[str, Any]:
    name = next((name for name in found.scores if name in ADDITIVE), "")
    return {
        "pieces": [one.text for one in effect.pieces],
        "piece_scores": [one.scores.get(name) for one in effect.pieces],
        "piece_reruns": [one.rerun_margin_change for one in effect.pieces],
    }


def schema(facts: Mapping[str, str] | None = None) -> pyarrow.Schema:
    """The columns with their meaning; `facts` are entries of the file's metadata besides the version of the schema."""
    import pyarrow as pa

    fields = [pa.field(name, _type(kind), metadata={"meaning": meaning}) for name, kind, meaning in COLUMNS]
    metadata = {"iclens.schema": "explain-batch", "iclens.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata=metadata | dict(facts or {}))


def table(rows: Sequence[Mapping[str, Any]]) -> pyarrow.Table:
    """Rows as an Arrow table with all columns; what a row lacks is null."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name, _, _ in COLUMNS}
    columns["scores"] = [None if scores is None else list(scores.items()) for scores in columns["scores"]]
    return pa.table(columns, schema=schema())


def as_parquet(rows: pyarrow.Table, row_group: int = 1 << 16) -> bytes:
    """Return a table as the content of a Parquet file, with checksums of its pages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=row_group, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


@WRITERS.register("parquet")
def _parquet(found: Explanation) -> bytes:
    return as_parquet(table(rows_of(found)))


def _type(kind: str) -> pyarrow.DataType:
    import pyarrow as pa

    if kind.startswith("list<"):
        return pa.list_(_type(kind.removeprefix("list<").removesuffix(">")))
    if kind.startswith("map<"):
        return pa.map_(pa.string(), pa.float64())
    return {"int32": pa.int32(), "string": pa.string(), "float64": pa.float64(), "bool": pa.bool_()}[kind]
