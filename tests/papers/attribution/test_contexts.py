"""Sources of whole responses as a recipe: contexts whose answer is known, small made data, and planted scores."""

from __future__ import annotations

import dataclasses
from functools import cache, partial

import numpy as np
import pytest
import torch
from tests.papers.attribution.context_data import RELATION, write_context_data
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.lens import Lens
from iclens.lens.model.loading import load
from iclens.lens.read.margin import logit_of
from iclens.lens.scores.faithfulness import lds, random_subsets
from iclens.papers.attribution.contexts.cases import MOST_WORDS, PASSAGES, case, missing, read_rows
from iclens.papers.attribution.contexts.claims import (
    CLAIMS,
    DROP_10,
    DROP_30,
    DROP_100,
    FIRST_10,
    FIRST_30,
    LDS_10,
    LDS_30,
    LDS_100,
    MORE_100,
    chosen_score,
)
from iclens.papers.attribution.contexts.facts import RELATIONS
from iclens.papers.attribution.contexts.subjects import answered
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["context-real"]
SETTINGS = ENTRY.paper.settings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_context_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    chosen = {
        "model": "bundled", "data": folder, "tuning": ("rte-train",), "reporting": ("rte-dev",), "sizes": (5, 8),
        "tuned": (1, 0), "prompts": (1, 1), "ranked": (0, 0), "n_subsets": (8, 8), "long": 8,
    }  # fmt: skip
    return dataclasses.replace(SETTINGS, **chosen | changes)


@pytest.fixture(scope="module")
def tiny_run(folder):
    return ENTRY.run(tiny(folder))


@pytest.mark.parametrize("size", [10, 30, 100])
@pytest.mark.parametrize("task", RELATIONS)
def test_one_document_holds_the_answer_and_no_other_mentions_it(task, size):
    relation = RELATIONS[task]
    for seed in range(3):
        drawn = case("", task, size, seeded(seed))
        documents = [span.of(drawn.prompt.text) for span in drawn.prompt.sources]
        assert len(set(documents)) == size
        holds = documents[drawn.holder]
        subject = next(one for one in relation.truth if relation.said(one, drawn.answer) == holds)
        assert relation.truth[subject] != drawn.answer
        assert drawn.prompt.text.startswith("Documents:")
        assert drawn.prompt.text.endswith(f"{relation.asked(subject)}\nAnswer: {relation.stem(subject)}")
        for i, one in enumerate(documents):
            if i != drawn.holder:
                assert drawn.answer.lower() not in one.lower()
                assert subject.lower() not in one.lower()


def test_no_document_says_what_is_true():
    true = {one.said(*pair) for one in RELATIONS.values() for pair in one.truth.items()}
    for seed in range(20):
        drawn = case("", "capital", 60, seeded(seed))
        assert not true & {span.of(drawn.prompt.text) for span in drawn.prompt.sources}


@pytest.mark.parametrize("task", ["author", "rte-dev"])
def test_a_context_is_its_seeds(folder, task):
    first, again, other = (case(folder, task, 10, seeded(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first.prompt.text != other.prompt.text


def test_holders_stand_anywhere():
    holders = {case("", "author", 5, seeded(seed)).holder for seed in range(40)}
    assert holders == set(range(5))


def test_passages_are_premises_of_different_rows_and_one_is_asked_about(folder):
    rows = {row.premise: row for task in PASSAGES for row in read_rows(folder, task)}
    for seed in range(10):
        drawn = case(folder, "rte-dev", 8, seeded(seed))
        passages = [span.of(drawn.prompt.text) for span in drawn.prompt.sources]
        assert len(set(passages)) == 8
        assert set(passages) <= set(rows)
        holder = rows[passages[drawn.holder]]
        assert holder.follows
        assert holder in read_rows(folder, "rte-dev")
        assert f": {holder.hypothesis}\nAnswer:" in drawn.prompt.text


def test_long_premises_are_left_out(tmp_path):
    folder = write_context_data(tmp_path / "data")
    path = folder / "glue" / "RTE" / "dev.tsv"
    path.write_text(path.read_text() + f"99\t{'word ' * (MOST_WORDS + 1)}\tword\tentailment\n")
    assert len(read_rows(str(folder), "rte-dev")) == 40


def test_data_that_are_missing_or_broken_are_named_in_one_sentence(folder, tmp_path):
    assert missing("", ("author", "capital")) == ""
    assert "data=FOLDER" in ENTRY.lacking(SETTINGS)
    assert missing(str(tmp_path), ("rte-dev",)).endswith("dev.tsv.")
    assert missing(str(tmp_path), ("rte-dev",)).count(". ") == 0
    assert ENTRY.lacking(tiny(folder)) == ""
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    (tmp_path / "glue" / "RTE" / "dev.tsv").write_text("a\tb\n")
    with pytest.raises(UserError, match="is no file of RTE: its columns are index, sentence1"):
        read_rows(str(tmp_path), "rte-dev")
    with pytest.raises(UserError, match=r"train\.tsv cannot be read"):
        read_rows(str(tmp_path), "rte-train")
    with pytest.raises(UserError, match="documents of facts for label, but 400 are needed"):
        case("", "label", 400, seeded(), {"label": RELATION})
    with pytest.raises(UserError, match="passages of 20 words, but 500 are needed"):
        case(folder, "rte-dev", 500, seeded())
    with pytest.raises(UserError, match="no task 'nothing'"):
        case("", "nothing", 4, seeded())


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="no task 'nothing'"):
        dataclasses.replace(SETTINGS, tuning=("nothing",))
    with pytest.raises(UserError, match="to tune on or to report"):
        dataclasses.replace(SETTINGS, tuning=("currency",))
    with pytest.raises(UserError, match="tuned has 1 numbers for 3 sizes"):
        dataclasses.replace(SETTINGS, tuned=(1,))
    with pytest.raises(UserError, match="at least 2 sources"):
        dataclasses.replace(SETTINGS, n_subsets=(1, 8, 8))
    with pytest.raises(UserError, match="Did you mean 'sparse'"):
        dataclasses.replace(SETTINGS, methods=("sparce",))


def test_other_data_have_another_digest(folder, tmp_path):
    other = write_context_data(tmp_path / "data", n_rows=39)
    assert ENTRY.inputs(tiny(folder)) != ENTRY.inputs(tiny(str(other)))


def test_a_fact_is_answered_where_greedy_decoding_begins_with_it_and_its_log_probability_is_explained():
    torch.set_default_dtype(torch.float32)
    model = load("bundled")
    found = answered(model, "", "label", 3, 0, relations={"label": RELATION})
    assert found is not None
    whole = Lens(model, found.case.prompt, response=found.case.answer)
    assert whole.answer.next_tokens[0].text.strip() == found.response == found.case.answer
    assert found.subject.lens().answer.margin == pytest.approx(whole.answer.log_probability)
    generator = seeded(0)
    for _ in range(found.tried):
        drawn = case("", "label", 3, generator, {"label": RELATION})
    assert drawn == found.case


def test_of_passages_the_model_writes_the_response_itself(folder):
    torch.set_default_dtype(torch.float32)
    model = load("bundled")
    found = answered(model, folder, "rte-dev", 4, 1)
    assert found is not None
    alone = Lens(model, found.case.prompt, generate=24)
    assert alone.readout.answer.strip().startswith(found.response)
    assert "\n" not in found.response


def test_a_tiny_run_is_checked_summed_up_and_drawn(folder, tiny_run):
    settings = tiny(folder)
    back = Table.from_json_columns(tiny_run.to_columns())
    verdicts = ENTRY.check(back, settings)
    assert [verdict.claim for verdict in verdicts] == [claim.statement for claim in CLAIMS]
    summaries = ENTRY.summaries(back, settings)
    assert [dict(row) for row in summaries["contexts that the model answers from"]] == [
        {"task": part["task"], "sources": part["size"], "drawn": rows.unique("tried")[0], "answered": 1}
        for part in ENTRY.parts(settings)
        if len(rows := back.where(**part))
    ]
    assert list(summaries)[:2] == ["5 sources, tuning tasks (rte-train)", "5 sources, reporting tasks (rte-dev)"]
    for axes in ENTRY.plot(back, settings).axes:
        assert axes.get_xlabel() == "passes"
    assert set(back.where(size=5).unique("method")) == set(settings.methods)
    assert set(back.where(size=8).unique("method")) == set(settings.methods_long)
    assert "rerun" not in settings.methods_long
    timed = [name for name in back.names if name != "seconds"]
    first = ENTRY.parts(settings)[0]
    for row, other in zip(ENTRY.measure_part(first, settings), back, strict=False):
        assert {name: row.get(name) for name in timed} == pytest.approx({name: other.get(name) for name in timed})


def test_lds_is_of_really_shortened_prompts_and_the_same_for_the_logit(folder, tiny_run):
    """By the lens's own deletions, with the recipe's seeds."""
    torch.set_default_dtype(torch.float32)
    found = answered(load("bundled"), folder, "rte-train", 5, 5000)
    lens = Lens("bundled", found.case.prompt, response=found.response)
    subsets = random_subsets(seeded(5001), 8, 5)
    log_p = lens.deletions(subsets).log_probabilities
    (row,) = tiny_run.where(task="rte-train", method="influence")
    scores = lens.score("influence").values
    assert row["lds"] == pytest.approx(lds(scores, subsets, log_p))
    assert row["lds"] == pytest.approx(lds(scores, subsets, logit_of(log_p)))
    kept = torch.ones(2, 5, dtype=torch.bool)
    kept[1, int(scores.argmax())] = False
    whole, without = lens.deletions(kept).log_probabilities.tolist()
    assert row["drop_1"] == pytest.approx(whole - without, abs=1e-4)
    assert row["log_p"] == pytest.approx(whole, abs=1e-4)
    nothing = lens.deletions(torch.zeros(1, 5, dtype=torch.bool)).log_probabilities
    assert row["log_p_without"] == pytest.approx(float(nothing), abs=1e-4)


def test_the_rival_is_its_formula(folder):
    """The Lasso on standardised masks of log p − log(1 − p) of the whole response, by hand."""
    from sklearn.linear_model import Lasso

    torch.set_default_dtype(torch.float32)
    found = answered(load("bundled"), folder, "rte-dev", 6, 3)
    lens = Lens("bundled", found.case.prompt, response=found.response)
    generator = seeded(7)
    masks = torch.stack([torch.rand(6, generator=generator) < 0.5 for _ in range(32)])
    log_p = np.array([float(lens.deletions(mask[None]).log_probabilities) for mask in masks])
    n_tokens = len(lens.readout.answer_ids)
    x = masks.double().numpy()
    fitted = Lasso(alpha=0.01).fit((x - x.mean(0)) / x.std(0), (log_p - np.log1p(-np.exp(log_p))) / n_tokens)
    expected = torch.tensor(fitted.coef_ / x.std(0) * n_tokens)
    torch.testing.assert_close(lens.score("lasso_32", seed=7).values, expected, rtol=1e-3, atol=1e-3)


def test_parts_are_by_turns_and_longer_ones_are_estimated_longer(folder):
    settings = tiny(folder, prompts=(3, 1))
    parts = ENTRY.parts(settings)
    assert [(part["task"], part["size"], part["number"]) for part in parts] == [
        ("rte-train", 5, 0), ("rte-dev", 5, 0), ("rte-dev", 8, 0), ("rte-dev", 5, 1), ("rte-dev", 5, 2),
    ]  # fmt: skip
    long = dataclasses.replace(settings, sizes=(5, 30))
    assert ENTRY.estimate(long, ENTRY.paper) > ENTRY.estimate(settings, ENTRY.paper)
    short = ENTRY.parts(dataclasses.replace(SETTINGS, most_passages=30))
    assert {part["size"] for part in short if part["task"] in PASSAGES} == {10, 30}
    ranking = [part for part in ENTRY.parts(SETTINGS) if part["study"] == "ranking"]
    assert {part["task"] for part in ranking} == {"headquarters", "currency", "birthplace"}


PRESENT = {
    "influence": 0.6, "sparse": 0.8, "factorial_6": 0.7, "lasso_32": 0.75, "lasso": 0.78, "rerun": 0.7, "random": 0.1,
}  # fmt: skip
COST = {"influence": 3, "sparse": 6, "factorial_6": 6}


@cache
def planted(*changes) -> Table:
    """A chosen score that is ahead of the rival everywhere; `changes` are (size, method, column, value)."""
    draws = np.random.default_rng(0)
    rows = []
    for task in (*SETTINGS.tuning, *SETTINGS.reporting):
        for size in (10, 30, 100):
            for method, value in PRESENT.items():
                for number in range(7):
                    noise = 0.001 * draws.standard_normal()
                    row = {"study": "removal", "task": task, "size": size, "number": number, "method": method}
                    row |= {"forward": COST.get(method, 16), "backward": 0, "seconds": 1.0, "first": 1.0, "rank": 1}
                    row |= {"lds": value, **{f"drop_{k}": 10 * k * value for k in (1, 3, 5)}}
                    row |= {column: to for at, name, column, to in changes if (at, name) == (size, method)}
                    rows.append(row | {"lds": row["lds"] + noise})
    return Table(rows)


def changed(size, method, column, value):
    return partial(planted, (size, method, column, value))


def test_the_rule_chooses_by_the_tuning_tasks_at_the_size_within_the_passes():
    assert chosen_score(planted(), SETTINGS.tuning, 10) == "sparse"
    assert chosen_score(planted((10, "influence", "lds", 0.9)), SETTINGS.tuning, 10) == "influence"
    assert chosen_score(planted((10, "influence", "lds", 0.9)), SETTINGS.tuning, 30) == "sparse"
    assert chosen_score(planted((10, "sparse", "forward", 7)), SETTINGS.tuning, 10) == "factorial_6"
    reporting = Table(row for row in planted((10, "influence", "lds", 0.9)) if row["task"] in SETTINGS.reporting)
    tuning = Table(row for row in planted() if row["task"] in SETTINGS.tuning)
    assert chosen_score(reporting + tuning, SETTINGS.tuning, 10) == "sparse"
    untuned = Table(row for row in planted() if row["size"] != 100 or row["task"] in SETTINGS.reporting)
    assert chosen_score(untuned, SETTINGS.tuning, 100) == "sparse"
    assert chosen_score(Table(), SETTINGS.tuning, 10) is None


def test_too_few_prompts_say_nothing_about_the_first_document():
    few = Table(row for row in planted() if row["number"] < 2)
    outcomes = {verdict.claim: verdict.outcome for verdict in ENTRY.check(few, SETTINGS)}
    assert outcomes[FIRST_10.statement] == "cannot be tested here"
    assert outcomes[LDS_10.statement] == "holds"
    rest = Table(row for row in planted() if row["size"] != 100)
    assert {v.claim: v.outcome for v in ENTRY.check(rest, SETTINGS)}[LDS_100.statement] == "cannot be tested here"


TURNS = [
    (LDS_10, changed(10, "lasso_32", "lds", 0.9)),
    (DROP_10, changed(10, "lasso_32", "drop_3", 40.0)),
    (LDS_30, changed(30, "lasso_32", "lds", 0.9)),
    (DROP_30, changed(30, "lasso_32", "drop_1", 40.0)),
    (LDS_100, changed(100, "lasso_32", "lds", 0.9)),
    (DROP_100, changed(100, "lasso_32", "drop_5", 90.0)),
    (MORE_100, changed(100, "lasso", "lds", 0.9)),
    (FIRST_10, changed(10, "sparse", "first", 0.9)),
    (FIRST_30, changed(30, "sparse", "first", 0.9)),
]
PLANTED = {"context-real": [Planted(claim, planted, absent, SETTINGS, also=()) for claim, absent in TURNS]}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
