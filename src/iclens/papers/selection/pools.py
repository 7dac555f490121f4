"""Pools of demonstrations, and what methods make of them: one row a method, all on the same held-out examples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from iclens.lens import LensModel
from iclens.papers.attribution.real_models.data import Pair, Task, answering
from iclens.papers.selection.settings import SelectionSettings
from iclens.recipes.table import Cell
from iclens.selection import METHODS
from iclens.selection.choosing import prepare
from iclens.selection.evaluator import Evaluator, Order
from iclens.selection.task import Task as Choice

ALL, CHANCE, CLEAN = "(the whole pool)", "(random subsets, mean)", "(the clean pool)"
TRUTH, DOUBT, SURPRISE = "(without the wrong ones)", "label_doubt", "label_surprise"
OF_LABELS = (DOUBT, SURPRISE, "label_surprise_orders")
Cost = tuple[float, float]
"""Passes and seconds."""

BY_RUNS = ("influence", "one_at_a_time")
"""Methods of `select` that drop demonstrations with wrong labels."""


def choice_rows(lens_model: LensModel, task: Task, settings: SelectionSettings, seed: int) -> list[dict[str, Cell]]:
    """Choose `k` of a pool by every method within the passes of the first, and run all prompts on the same examples."""
    pool, dev, test = _drawn(task, settings.pool, settings, seed)
    choice = _choice(lens_model, task, pool, dev, test, settings, seed, k=settings.k, order="search")
    orders: dict[str, Order] = {ALL: tuple(range(len(pool)))}
    costs: dict[str, Cost] = {}
    budget: float | None = None
    for number, name in enumerate(settings.methods):
        orders[name], costs[name] = _chosen(choice, name, seed + number, budget)
        budget = budget or costs[name][0]
    search = choice.search(choice.evaluator("chance", choice.dev), seed + 99)
    drawn = [search.drawn() for _ in range(settings.n_chance)]
    rows = _judged(choice, {**orders, **{f"{CHANCE} {i}": one for i, one in enumerate(drawn)}}, costs)
    of_chance = [row for row in rows if str(row["method"]).startswith(CHANCE)]
    means = {
        name: sum(float(row[name] or 0) for row in of_chance) / len(of_chance) for name in ("accuracy", "log_loss")
    }
    backward = _backward_elimination(choice, len(pool), settings.k)
    kept = [{**row, "backward_elimination": backward} for row in rows if row not in of_chance]
    return [*kept, {"method": CHANCE, **means, "tokens": of_chance[0]["tokens"]}]


def mending_rows(lens_model: LensModel, task: Task, settings: SelectionSettings, seed: int) -> list[dict[str, Cell]]:
    """Drop as many demonstrations as have a wrong label, by every score, and run what is left."""
    clean, dev, test = _drawn(task, settings.mended_pool, settings, seed)
    pool, wrong = task.flipped(clean, settings.n_wrong, torch.Generator().manual_seed(seed + 1))
    k = len(pool) - settings.n_wrong
    choice = _choice(lens_model, task, pool, dev, test, settings, seed, k=k, order="given")
    kept: dict[str, Order] = {ALL: tuple(range(len(pool)))}
    costs: dict[str, Cost] = {}
    for number, name in enumerate(BY_RUNS):
        kept[name], costs[name] = _chosen(choice, name, seed + number)
    for name, one in answering(lens_model, task.asked(pool, dev[0])).scored(OF_LABELS, seed).items():
        kept[name] = tuple(sorted(one.scores.values.argsort(stable=True)[settings.n_wrong :].tolist()))
        costs[name] = one.passes, one.seconds
    kept[TRUTH] = tuple(i for i, one in enumerate(wrong) if not one)
    rows = _judged(choice, kept, costs)
    for row in rows:
        dropped = set(range(len(pool))) - set(kept[str(row["method"])])
        row["found"] = float(sum(wrong[i] for i in dropped))
    of_clean = _choice(lens_model, task, clean, dev, test, settings, seed, k=k, order="given")
    return [*rows, *_judged(of_clean, {CLEAN: tuple(range(len(clean)))}, {})]


def _drawn(task: Task, size: int, settings: SelectionSettings, seed: int) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Return a pool, development examples, and held-out ones, drawn again until no part has a single label."""
    least, generator = size + settings.n_dev, torch.Generator().manual_seed(seed)
    while True:
        pairs = task.drawn(generator, min(least + settings.n_test, len(task.pairs)))
        parts = pairs[:size], pairs[size:least], pairs[least:]
        if all(len({label for _, label in one}) > 1 for one in parts) or len(task.labels) < 2:
            return parts


def _choice(
    lens_model: LensModel,
    task: Task,
    pool: Sequence[Pair],
    dev: Sequence[Pair],
    test: Sequence[Pair],
    settings: SelectionSettings,
    seed: int,
    *,
    k: int,
    order: str,
) -> Choice:
    found, *_ = prepare(
        lens_model, pool, dev, k=k, order=order, budget=settings.budget, budget_tokens=None, balanced=False,
        template=task.template, candidates=task.labels, held_out=test, seed=seed,
    )  # fmt: skip
    return found


def _chosen(choice: Choice, name: str, seed: int, budget: float | None = None) -> tuple[Order, Cost]:
    """Return what a method of `select` chooses, and its passes and seconds."""
    evaluator, start = choice.evaluator(name, choice.dev), time.process_time()
    order = METHODS[name](choice.search(evaluator, seed, budget)).order
    return order, (evaluator.ledger.passes, time.process_time() - start)


def _judged(choice: Choice, orders: Mapping[str, Order], costs: Mapping[str, Cost]) -> list[dict[str, Cell]]:
    evaluator: Evaluator = choice.evaluator("held out", choice.aside)
    said = evaluator.said(list(orders.values()))
    return [
        {
            "method": name,
            "accuracy": float(said.values[i].mean()),
            "log_loss": -float(said.log_p[i].mean()),
            "tokens": float(choice.tokens(order)),
            "shots": float(len(order)),
            **dict(zip(("passes", "seconds"), costs.get(name, ()), strict=False)),
        }
        for i, (name, order) in enumerate(orders.items())
    ]


def _backward_elimination(choice: Choice, n: int, k: int) -> float:
    """Passes of dropping the worst one after another: n candidates, then n − 1, on all development examples."""
    search = choice.search(choice.evaluator("cost", choice.dev), 0)
    return sum(left * search.cost(left - 1, len(choice.dev)) for left in range(n, k, -1))
