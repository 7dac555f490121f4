"""Settings of the study of selection: the model, the data, the methods, and how many pools."""

from __future__ import annotations

from dataclasses import dataclass

from iclens.errors import UserError
from iclens.recipes.settings import chosen, option
from iclens.selection import METHODS

_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class SelectionSettings:
    """The model, the data, the methods, and how many pools.

    Raises:
        UserError: an unknown method or dtype, or counts that do not fit.
    """

    model: str = chosen("smollm2", "a name that `iclens explain` takes")
    dtype: str = chosen("float32", "of the weights, or bfloat16")
    data: str = option("", "the folder of the data")
    tasks: tuple[str, ...] = chosen(("sst2", "ag_news", "cb", "superglue-rte"), "with few labels")
    n_pools: int = chosen(10, "pools a task, for choosing")
    pool: int = chosen(32, "demonstrations of a pool")
    k: int = chosen(8, "demonstrations to choose")
    n_dev: int = chosen(24, "development examples")
    n_test: int = chosen(400, "held-out examples, or as many as the task has left")
    budget: float = chosen(40.0, "passes over the whole pool for every method")
    methods: tuple[str, ...] = chosen(
        ("influence", "random", "one_at_a_time", "detail"), "methods that choose; the first is ours, and pays first"
    )
    n_chance: int = chosen(5, "random subsets, whose mean is what chance gives")
    n_mended: int = chosen(10, "pools a task with wrong labels")
    mended_pool: int = chosen(20, "demonstrations of such a pool")
    n_wrong: int = chosen(5, "of them with a wrong label, and so many are dropped")
    seed: int = chosen(0, "of pools, methods and splits")

    def __post_init__(self) -> None:
        for name in self.methods:
            _ = METHODS[name]
        if self.dtype not in _DTYPES:
            raise UserError(f"dtype is {' or '.join(_DTYPES)}, not {self.dtype!r}.")
        if not self.methods or not 1 <= self.k < self.pool or not 1 <= self.n_wrong < self.mended_pool:
            raise UserError("give a method, 1 ≤ k < pool, and 1 ≤ n_wrong < mended_pool.")
        if min(self.n_dev, self.n_test, self.n_chance) < 2:
            raise UserError("n_dev, n_test and n_chance are at least 2.")
