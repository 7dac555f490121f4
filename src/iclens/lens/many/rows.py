"""The rows of an explained batch: one for every demonstration of every prompt, with its prompt's numbers beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iclens.lens.many.explain import RESIDUALS, Explained
from iclens.lens.many.lines import Line

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
"""Raised by a change that could break a reader."""

COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("line", "int32", "line of the prompts' file, from 1"),
    ("id", "string", "the prompt's own id, or the number of its line"),
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
    ("other_gradient_step", "float64", "direct contribution of all tokens of no demonstration, in nats"),
    ("other_path", "float64", "their contribution through all layers; with the demonstrations' it sums to the margin"),
    *((f"residual_{name}", "float64", f"the check {name!r}: a relative difference") for name in RESIDUALS),
    ("tolerance", "float64", "the largest residual that is accepted"),
    ("exact", "bool", "whether every residual is within it; when not, trust nothing else of the prompt"),
    ("notes", "list<string>", "remarks, such as tokens that lie across two demonstrations"),
    ("demonstration", "int32", "the demonstration's place in the prompt, from 0"),
    ("text", "string", "its text"),
    ("label", "string", "its output; null in plain text, where it is not known"),
    ("demonstration_tokens", "int32", "its number of tokens"),
    ("gradient_step", "float64", "its direct contribution to the margin, over layers and heads, in nats"),
    ("path", "float64", "its contribution through all layers, in nats"),
    ("knock_out", "float64", "full margin minus the margin when it is knocked out exactly, in nats"),
    ("knock_out_log_probability", "float64", "the same for the answer's log-probability"),
    ("rerun", "float64", "full margin minus the margin after deleting its text; null when not asked for"),
)
"""Name, type and meaning of every column."""


def schema(facts: dict[str, str] | None = None) -> pyarrow.Schema:
    """The columns with their meaning, and what is true of the whole file.

    Args:
        facts: entries of the metadata besides the version of the schema.
    """
    import pyarrow as pa

    fields = [pa.field(name, _type(kind), metadata={"meaning": meaning}) for name, kind, meaning in COLUMNS]
    metadata = {"iclens.schema": "explain-batch", "iclens.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(fields, metadata=metadata | (facts or {}))


def table(lines: Sequence[Line], explained: Sequence[Explained | None]) -> pyarrow.Table:
    """The rows of some lines; a bad line has one, with its error.

    Args:
        lines: the lines.
        explained: what was found of each; None for a bad line.
    """
    import pyarrow as pa

    names = [name for name, _, _ in COLUMNS]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for line, found in zip(lines, explained, strict=True):
        whole = {"line": line.number, "id": line.id, "error": line.error}
        rows = [whole] if found is None else [whole | _of_prompt(found) | row for row in _of_demonstrations(found)]
        for row in rows:
            for name in names:
                columns[name].append(row.get(name))
    return pa.table(columns, schema=schema())


def _of_prompt(found: Explained) -> dict[str, Any]:
    said = found.said
    return {
        "n_tokens": found.asked.tokenized.n_tokens,
        "n_demonstrations": len(found.path),
        "answer": said.margin.answer,
        "answer_log_probability": found.answer_log_probability,
        "predicted": max(said.candidates, key=lambda one: one.log_probability).text
        if said.candidates
        else said.next_token,
        "next_token": said.next_token,
        "next_token_probability": said.next_probability,
        "candidates": [one.text for one in said.candidates],
        "candidate_log_probabilities": [one.log_probability for one in said.candidates],
        "margin": found.margin,
        "margin_definition": said.margin.definition,
        "other_gradient_step": found.other_gradient_step,
        "other_path": found.other_path,
        **{f"residual_{name}": value for name, value in zip(RESIDUALS, found.residuals, strict=True)},
        "tolerance": found.tolerance,
        "exact": found.exact,
        "notes": list(found.asked.tokenized.notes + found.asked.answers.notes),
    }


def _of_demonstrations(found: Explained) -> list[dict[str, Any]]:
    tokenized = found.asked.tokenized
    prompt = tokenized.prompt
    counts = Counter(tokenized.groups.tolist())
    return [
        {
            "demonstration": i,
            "text": span.of(prompt.text),
            "label": prompt.labels[i],
            "demonstration_tokens": counts[i],
            "gradient_step": found.gradient_step[i],
            "path": found.path[i],
            "knock_out": found.knock_out[i],
            "knock_out_log_probability": found.knock_out_log_probability[i],
            "rerun": None if found.rerun is None else found.rerun[i],
        }
        for i, span in enumerate(prompt.demonstrations)
    ]


def _type(kind: str) -> pyarrow.DataType:
    import pyarrow as pa

    if kind.startswith("list<"):
        return pa.list_(_type(kind.removeprefix("list<").removesuffix(">")))
    return {"int32": pa.int32(), "string": pa.string(), "float64": pa.float64(), "bool": pa.bool_()}[kind]
