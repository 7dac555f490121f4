"""The attribution benchmark as a recipe: a small run, and verdicts that follow planted scores."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.papers.attribution.measures import MEASURES, TRUTH, run
from iclens.papers.attribution.verdicts import (
    AGAINST,
    ALONE,
    BLIND,
    CLAIMS,
    CONFLICTING,
    CONTRADICTED,
    CONTRADICTING,
    DEEP,
    DELETES,
    DEPTH,
    FINDS,
    FIRST_HOP,
    FORETELLS,
    HOPS,
    LEFT_OUT,
    MAIN,
    MANY,
    MANY_DELETED,
    ONE_PASS,
    REDUNDANT,
    RIVALS,
    STEP,
    TWO_HOPS,
    measured_of,
)
from iclens.papers.attribution.word_cases import word_cases
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["attribution"]
TINY = dataclasses.replace(
    ENTRY.quick.settings,
    n_prompts=3,
    n_alone=1,
    n_redundant=1,
    n_conflicting=1,
    n_two_hops=1,
    n_subsets=4,
    chunk=2,
    methods=(STEP, *RIVALS, "random"),
)
RIVAL = {"auc": 0.9, "removed": 0.5, "kept": 1.0, "lds": 0.4, CONTRADICTING: 0.02, FIRST_HOP: 1.0}
RANDOM = {"auc": 0.5, "removed": 0.99, "kept": 0.5, "lds": 0.2, CONTRADICTING: 0.5, FIRST_HOP: 0.5}
PERFECT = {"auc": 1.0, "removed": 0.05, "kept": 1.0, "lds": 0.5, CONTRADICTING: 0.02, FIRST_HOP: 1.0}
LOST = {"auc": 0.55}


def planted(at=None) -> Table:
    """A gradient step that is perfect everywhere, rivals that are worse, and leaving out that needs it alone.

    Args:
        at: by study and method, numbers that replace the planted ones; `forward_passes` too.
    """
    draws = np.random.default_rng(0)
    rows = []
    for study in (MAIN, ALONE, REDUNDANT, CONFLICTING, TWO_HOPS, DEEP):
        for method in (STEP, *RIVALS, "random", TRUTH):
            numbers = RANDOM if method == "random" else PERFECT if method in (STEP, TRUTH) else RIVAL
            if study == REDUNDANT and method not in (STEP, TRUTH):
                numbers = numbers | LOST
            if method in LEFT_OUT:
                numbers = numbers | (PERFECT if study == ALONE else LOST)
            cost = {"forward_passes": 64.0 if method in RIVALS else 1.0, "backward_passes": 0.0}
            numbers = numbers | cost | (at or {}).get((study, method), {})
            for prompt in range(20):
                noisy = {
                    name: value + (0 if name in cost else 0.001 * draws.standard_normal())
                    for name, value in numbers.items()
                }
                rows.append({"study": study, "method": method, "prompt": prompt} | noisy)
    return Table(rows)


def outcome(claim, table):
    (found,) = [verdict for verdict in ENTRY.check(table, TINY) if verdict.claim == claim.statement]
    return found.outcome


def test_every_claim_holds_where_the_step_is_best_everywhere():
    verdicts = ENTRY.check(planted(), TINY)
    assert [(verdict.claim, verdict.outcome) for verdict in verdicts] == [
        (claim.statement, "holds") for claim in CLAIMS
    ]


TURNS = [
    (FINDS, {(MAIN, "lasso"): {"auc": 1.0}, (MAIN, STEP): {"auc": 0.98}}),
    (FINDS, {(MAIN, "attention_rollout"): {"auc": 0.99}, (MAIN, STEP): {"auc": 0.975}}),
    (FINDS, {(MAIN, method): {"auc": 0.5} for method in (STEP, *RIVALS)}),
    (DELETES, {(MAIN, "shapley_sampling"): {"removed": 0.02}}),
    (DELETES, {(MAIN, method): {"removed": 0.99} for method in (STEP, *RIVALS)}),
    (ONE_PASS, {(MAIN, STEP): {"forward_passes": 2.0}}),
    (ONE_PASS, {(MAIN, STEP): {"backward_passes": 1.0}}),
    (FORETELLS, {(MAIN, "lasso_margin"): {"lds": 0.6}}),
    (FORETELLS, {(MAIN, method): {"lds": 0.2} for method in (STEP, *RIVALS)}),
    (BLIND, {(MAIN, "rerun"): {"auc": 0.9}}),
    (BLIND, {(ALONE, "knock_out"): {"auc": 0.6}}),
    (MANY, {(REDUNDANT, STEP): {"auc": 0.6}}),
    (MANY, {(REDUNDANT, "lasso"): {"auc": 0.99}}),
    (MANY_DELETED, {(REDUNDANT, STEP): {"removed": 0.15}}),
    (MANY_DELETED, {(REDUNDANT, method): {"removed": 0.5} for method in (STEP, *RIVALS, "random", TRUTH)}),
    (CONTRADICTED, {(CONFLICTING, STEP): {"auc": 0.97}, (CONFLICTING, "lasso"): {"auc": 0.99}}),
    (CONTRADICTED, {(CONFLICTING, method): {"auc": 0.5} for method in (STEP, *RIVALS, "random")}),
    (AGAINST, {(CONFLICTING, STEP): {CONTRADICTING: 0.5}}),
    (HOPS, {(TWO_HOPS, STEP): {"auc": 0.75, FIRST_HOP: 0.5}}),
    (DEPTH, {(DEEP, "lasso"): {"auc": 0.99}, (DEEP, STEP): {"auc": 0.97}}),
    (DEPTH, {(DEEP, method): {"auc": 0.6} for method in (STEP, "lasso", "lasso_margin")}),
]


def test_too_few_prompts_do_not_show_that_two_methods_are_level():
    """Equal on average, but prompts scatter: the interval of the difference reaches beyond the margin."""
    draws = np.random.default_rng(1)
    rows = [row for row in planted() if row["prompt"] < 10]
    for row in rows:
        if row["study"] == MAIN and row["method"] in (STEP, "lasso"):
            row["lds"] = 0.5 + 0.3 * draws.standard_normal()
    assert outcome(FORETELLS, Table(rows)) == "does not hold"


def test_without_a_deep_learner_its_claim_is_not_tested():
    rest = Table(row for row in planted() if row["study"] != DEEP)
    assert outcome(DEPTH, rest) == "cannot be tested here"


def test_parts_are_chunks_and_the_deep_learner_is_trained_once():
    parts = ENTRY.parts(dataclasses.replace(TINY, n_prompts=60, chunk=25, n_deep=80))
    assert [part["prompts"] for part in parts if part["study"] == MAIN] == [25, 25, 10]
    assert [part["first"] for part in parts if part["study"] == MAIN] == [0, 25, 50]
    assert [part["prompts"] for part in parts if part["study"] == DEEP] == [80]
    assert not [part for part in ENTRY.parts(TINY) if part["study"] == DEEP]


def test_a_part_holds_the_benchmark_s_numbers():
    """The same prompts and seeds, asked of the benchmark itself, and read back from the table."""
    from iclens.lens.model.loading import load

    part = ENTRY.parts(TINY)[1]
    table = ENTRY.measure_part(part, TINY)
    torch.set_default_dtype(torch.float32)
    learner = load("bundled")
    cases = word_cases(learner.tokenizer, torch.Generator().manual_seed(2), 1, 12)
    found = run(learner, cases, methods=TINY.methods, n_subsets=4, seed=50_002)
    back = measured_of(table, MAIN)
    assert list(back) == list(found.methods)
    for method, measured in found.methods.items():
        for measure in MEASURES:
            torch.testing.assert_close(
                back[method].measures[measure], measured.measures[measure].double(), equal_nan=True
            )
        if method != TRUTH:
            assert back[method].forward_passes == pytest.approx(measured.forward_passes)


def test_the_deep_learner_is_trained_in_its_part(monkeypatch):
    """With the bundled learner in its place."""
    from iclens.lens.model.loading import load
    from iclens.papers.attribution import studies as attribution_studies

    asked = []

    def trained(n_layers, folder, progress):
        asked.append((n_layers, folder.is_dir()))
        progress(3, None)
        return load("bundled")

    monkeypatch.setattr(attribution_studies, "deep_learner", trained)
    heard = []
    part = {"study": DEEP, "first": 0, "prompts": 1}
    table = ENTRY.measure_part(part, dataclasses.replace(TINY, methods=(STEP,)), lambda *told: heard.append(told[2]))
    assert asked == [(8, True)]
    assert heard[0].startswith("training 8 layers, step 3")
    assert measured_of(table, DEEP)[STEP].of("auc").mean > 0.9


def test_a_tiny_run_is_checked_and_drawn():
    table = ENTRY.run(TINY)
    back = Table.from_json_columns(table.to_columns())
    verdicts = ENTRY.check(back, TINY)
    assert [verdict.claim for verdict in verdicts] == [claim.statement for claim in ENTRY.claims]
    assert verdicts == ENTRY.check(table, TINY)
    for axes in ENTRY.plot(back, TINY).axes:
        assert axes.get_xlabel()
    assert ENTRY.measure_part(ENTRY.parts(TINY)[0], TINY) == Table(list(table)[: 2 * (len(TINY.methods) + 1)])


PLANTED = {"attribution": [Planted(claim, planted, partial(planted, at)) for claim, at in TURNS]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
