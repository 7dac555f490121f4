"""Numbers of `iclens bench` that the documentation says in words are those of the published files."""

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def results(case):
    return json.loads((DOCS / "bench" / f"{case}.json").read_text(encoding="utf-8"))["results"]


def times(case, what, other=""):
    """How many times as fast each comparison is that holds these words, in their order in the file."""
    return [
        one["speed_up"]["median"]
        for one in results(case)
        if one["kind"] == "comparison" and what in one["what"] and other in one["other"]
    ]


def only(values):
    (value,) = values
    return value


def peak(case, what, other):
    return only([r["peak_mib"]["share"] for r in results(case) if r.get("what") == what and r["other"] == other])


def seconds(what):
    return only([r["speed_up"]["seconds_ours"] for r in results("start-up") if r.get("what", "").startswith(what)])


def row(case, name):
    """The numbers of the row of a table, by the words in its first cell."""
    rows = [list(row.values()) for one in results(case) if one["kind"] == "table" for row in one["rows"]]
    return only([found[1:] for found in rows if found[0] == name])


REAL = "with all checks: smollm2"
ABLATION = "Captum FeatureAblation"
LASSO = "64 ablations and a Lasso"
SMALL = "64 prompts of the bundled learner"
HEADS = "capture of all heads, 512 tokens"
CACHE = "TransformerLens run_with_cache"


def sentences():
    """Yield pages with the sentences that hold numbers, and the numbers."""
    measured = "measured.md"
    for scores, words in (("influence", "by influence takes"), ("its default scores", "by its default scores")):
        taken = 1 / only(times("influence", f"explain by {scores}, {REAL}"))
        yield measured, words + " {:.1f} forward passes", [taken]
    weights = 100 * only(row("explain", "share"))
    yield measured, "at most {:.0f} % of the weights' memory", [weights]
    captum = [only(times("demonstrations", f"scores of {n} demonstrations, 512", ABLATION)) for n in (16, 64)]
    yield measured, "takes {:.0f} times as long for 16 examples of 512 tokens, and {:.0f} times for 64", captum
    yield measured, "{:.0f} times as long for 64 prompts", times("demonstrations", SMALL, LASSO)
    cache = [r["speed_up"]["median"] for r in results("lens") if r.get("what") == HEADS and r["other"] == CACHE]
    yield measured, "({:.2f} times as fast) and {:.0f} % of its memory", [*cache, 100 * peak("lens", HEADS, CACHE)]
    loops = times("estimators", "64 prompts of 41 points", "loop over prompts and prefixes")
    yield measured, "are {:.0f} to {:.0f} times as fast as a loop over prompts and prefixes", [min(loops), max(loops)]
    judged = times("select", "judged on 32 queries")
    yield measured, "{:.0f} times as fast as every query after the whole prompt", [min(judged)]
    yield measured, "{:.1f} times as fast as only reading the queries", [min(times("absorb", "as a LoRA"))]
    slowest = max(1 / value for value in times("attention", "negative", "fused attention"))
    yield measured, "negative samples take up to {:.1f} times as long", [slowest]
    yield measured, "takes {:.2f} s to `iclens --help`", [seconds("iclens --help")]
    yield measured, "and {:.1f} s to a first explanation", [seconds("iclens explain")]

    lasso = only([r["speed_up"] for r in results("demonstrations") if SMALL in r.get("what", "") and "other" in r])
    yield "explain-batch.md", "{:.0f} [{:.0f}, {:.0f}] times as fast", [lasso[key] for key in ("median", "low", "high")]

    for name, cell in (
        ("a task that does nothing, all its cost on this machine, ms", "all its cost on both cores | {:.1f} ms,"),
        ("the same, share of a task of 10 s, %", ", {:.2f} % of 10 s |"),
        ("processor time of the driver for it, ms", "for it | {:.1f} ms |"),
        ("share of the slots' time that tasks of 10 s left idle, %", "left idle | {:.2f} % "),
        ("4 of 10 s, asleep", "| {:.1f} s and {:.1f} s, ratio {:.2f} |"),
        ("4 of 10 s, at work", "the same | {:.1f} s and {:.1f} s, ratio {:.2f} "),
        ("4 of 10 s, at work in processes, without Ray", "without Ray | {:.1f} s and {:.1f} s, ratio {:.2f} |"),
        ("runs that the driver adds to the store a second", "(9 kB each) | {:.0f} a second |"),
        ("runs that the driver plans a second", "grouped | {:.0f} a second |"),
    ):
        yield "scale-out.md", cell, row("scale-out", name)
    for length in (1.0, 10.0, 100.0):
        yield "scale-out.md", "| {:.0f} s |" + " {:.1f} |" * 4, [length, *row("scale-out", length)]


@pytest.mark.parametrize(("page", "sentence", "values"), list(sentences()))
def test_a_number_in_words_is_the_one_that_was_measured(page, sentence, values):
    text = re.sub(r"\s+", " ", (DOCS / page).read_text(encoding="utf-8"))
    # Not the end of a longer number.
    assert re.search(r"(?<![\d.])" + re.escape(sentence.format(*values)), text)
