"""What prompts of each length reached: of those that really ran on all examples, by running them once more."""

from __future__ import annotations

import pytest
from tests.selection import test_select
from tests.selection.test_evaluator import QUERIES, evaluator, zoo
from tests.selection.test_select import chosen
from tests.selection.words import TEMPLATE, draw, learner

from iclens.selection import Example
from iclens.selection.asked import read_query
from iclens.selection.checking import check
from iclens.selection.evaluator import Evaluator
from iclens.selection.ledger import Ledger
from iclens.selection.pool import Writing
from iclens.selection.sizes import shorter, sizes

single_precision = test_select.single_precision

AGREE = 1e-4
"""Nats in which float32 may differ when prompts are run together with others."""


def test_only_prompts_that_ran_on_everything_count_and_nothing_runs_for_it() -> None:
    made = evaluator(zoo("gpt2"))
    whole = [(0, 1, 2, 3), (0, 1, 3), (3, 1, 0), (2,)]
    said = made.said(whole)
    made.said([(0, 1), (1, 2, 3)], [0, 1])
    tokens = made.ledger.tokens
    found = sizes(made)
    assert made.ledger.tokens == tokens
    assert [(one.n_shots, one.n_prompts) for one in found] == [(1, 1), (3, 2), (4, 1)]
    ranks = dict(zip(whole, said.ranks(), strict=True))
    assert found[1].indices == max(whole[1:3], key=lambda order: ranks[order])
    for one in found:
        row = whole.index(one.indices)
        assert one.reached.metric.mean == float(said.values[row].mean())
        assert one.reached.log_loss.mean == float(-said.log_p[row].mean())
        assert one.reached.metric.n == len(QUERIES)
    # Once the rest has run, it counts too.
    made.said([(0, 1)])
    assert [one.n_shots for one in sizes(made)] == [1, 2, 3, 4]


def test_before_anything_ran_there_are_none() -> None:
    assert sizes(evaluator(zoo("gpt2"))) == ()


@pytest.mark.parametrize("options", [{}, {"k": 4}])
def test_each_number_is_that_of_a_real_run(options: dict[str, int]) -> None:
    known = draw(4)
    found = chosen(known, budget=40.0, against="random", **options)
    assert found.rival is not None
    for one in (*found.sizes, *found.rival.sizes):
        shots = [known.pool[i] for i in one.indices]
        again = check(learner(), shots, found.examples, template=TEMPLATE, candidates=known.labels)
        assert one.reached.metric == again.metric
        assert one.reached.log_loss.mean == pytest.approx(again.log_loss.mean, abs=AGREE)
    by_length = {one.n_shots: one for one in found.sizes}
    for order, reached in ((found.start, found.dev.before), (found.indices, found.dev.after)):
        assert by_length[len(order)].reached.metric.mean >= reached.metric.mean
    if "k" in options:
        # Of the chosen ones, each was left out once.
        assert by_length[3].n_prompts == 4


def test_examples_are_hurt_by_as_much_as_running_without_says() -> None:
    known = draw(0)
    found = chosen(known, k=12, budget=30.0, order="given")
    told = [(one, q, nats) for one in found.demonstrations for q, nats in zip(one.hurts_on, one.hurts_by, strict=True)]
    assert {one.index for one, _, _ in told} & known.wrong
    writing, shots = Writing(TEMPLATE), [Example(*pair) for pair in known.pool]
    queries = [read_query(learner(), writing.prompt(shots[:1], one.input), one, known.labels) for one in found.examples]
    made = Evaluator(learner(), shots, writing, queries, Ledger(100.0))
    for one, q, nats in told:
        without = tuple(i for i in found.indices if i != one.index)
        with_it, less = made.said([found.indices, without], [q]).log_p[:, 0].tolist()
        assert less - with_it == pytest.approx(nats, abs=AGREE)
        assert nats >= 0.1
        assert (found.examples[q].input, found.examples[q].output) == known.dev[found.development[q]]


def test_the_shorter_prompts_are_the_best_halves_in_order() -> None:
    values = {7: 0.1, 2: 0.5, 9: -0.2, 4: 0.3, 0: 0.2}
    assert shorter((7, 2, 9, 4, 0), values) == [(2, 4), (2,)]
    assert shorter((3,), {3: 1.0}) == []


def test_a_choice_of_k_tells_what_fewer_reach() -> None:
    found = chosen(draw(2), k=5, budget=20.0)
    assert {1, 2, 5, 12} <= {one.n_shots for one in found.sizes}
