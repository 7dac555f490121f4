"""An absorption that is ready to be done: everything was read and checked, and no pass has run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from iclens.absorption.fitting import RIDGE
from iclens.absorption.low_rank import best_maps
from iclens.absorption.pairing import EMPHASIS, Pairing
from iclens.absorption.queries import ALONE, Queries
from iclens.absorption.reached import DISTILLED, LORA
from iclens.absorption.sites import USUAL, Site, sites_of, widths
from iclens.absorption.training import Training
from iclens.errors import UserError
from iclens.lens.prompt import Prompt
from iclens.selection.choosing import prepare
from iclens.selection.evaluator import Order
from iclens.selection.examples import ExamplesLike
from iclens.selection.task import Task
from iclens.selection.timing import seconds_of_pass

RANK = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """What `absorb` will fit and measure, after everything was read and checked.

    Attributes:
        task: the demonstrations, the queries to fit by (`dev`) and those that take no part (`aside`).
        sites: the matrices that are changed.
        targets: of which kinds they are.
        rank: of the change that is written.
        ranks: other ranks that are fitted and measured.
        numbers: shorter prompts, by their numbers of demonstrations, that are absorbed and measured.
        ridge: λ, in tokens of mean size.
        emphasis: how often a token counts behind which an answer is read.
        training: of a LoRA to compare with; None without one.
        seed: of the split, and of training.
        rivals: what is trained, where anything is.
    """

    task: Task
    sites: tuple[Site, ...]
    targets: tuple[str, ...]
    rank: int
    ranks: tuple[int, ...]
    numbers: tuple[int, ...]
    ridge: float
    emphasis: float
    training: Training | None
    seed: int
    rivals: tuple[str, ...] = (LORA, DISTILLED)

    @property
    def whole(self) -> Order:
        """All demonstrations, or as many as fit into the model's context."""
        return self.task.start

    @cached_property
    def fitted(self) -> Queries:
        """The queries that it is fitted by."""
        return Queries(self.task, self.task.dev)

    @cached_property
    def held_out(self) -> Queries:
        """The queries that take no part."""
        return Queries(self.task, self.task.aside)

    @cached_property
    def pairing(self) -> Pairing:
        """The tokens of the fitted queries behind all demonstrations and alone."""
        return self.fitted.paired(self.whole, self.emphasis)

    @property
    def n_fits(self) -> int:
        """How often all maps are fitted."""
        return 1 + len(self.ranks) + len(self.numbers)

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the passes of all fits and of all measuring, about, and those of training."""
        with_prompt, alone = self.pairing.tokens
        shots = with_prompt - alone
        share = sum(self.numbers) / len(self.whole)
        fits = shots * (1 + share) + alone * (1 + len(self.numbers) + self.n_fits)
        # Each prompt, and each change, answers the held-out queries twice: the answers and the next token.
        ratio = len(self.task.aside) / len(self.task.dev)
        trained = 0 if self.training is None else 2
        read = 2 * (shots * (1 + share) + alone * ratio * (2 + len(self.numbers) + self.n_fits + trained))
        if self.training is None:
            return round(fits + read), 0
        # Forth and back is about three passes.
        lesson = sum(map(len, Queries(self.task, self.task.shots).ids(ALONE))) + alone
        return round(fits + read), 3 * self.training.steps * lesson

    def seconds(self) -> float:
        """Time a pass and a regression, and tell about how long everything takes here; nothing is kept."""
        per_token = seconds_of_pass(self.task) / self.task.pass_tokens
        return per_token * sum(self.tokens) + self.n_fits * len(self.sites) * self._seconds_of_regression()

    def _seconds_of_regression(self) -> float:
        d_in, d_out = (
            sum(each) // len(self.sites) for each in zip(*(widths(s.module) for s in self.sites), strict=True)
        )
        generator = torch.Generator().manual_seed(0)
        x, y = (torch.randn(len(self.pairing.here), d, generator=generator, dtype=torch.float64) for d in (d_in, d_out))
        began = time.perf_counter()
        best_maps(x, y, self.pairing.weights, self.ridge)
        return time.perf_counter() - began


def plan(
    model: Any,
    demonstrations: ExamplesLike | Prompt,
    queries: ExamplesLike,
    *,
    rank: int = RANK,
    layers: Sequence[int] | None = None,
    targets: Sequence[str] = USUAL,
    ridge: float = RIDGE,
    emphasis: float = EMPHASIS,
    ranks: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    training: Training | None = None,
    seed: int = 0,
    **written: Any,
) -> Plan:
    """Read and check everything; see `absorb`.

    Raises:
        UserError: something cannot be read, or does not go together.
    """
    for name, value in (("rank", rank), *(("a rank", one) for one in ranks or ())):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1.")
    if not ridge >= 0:
        raise UserError(f"ridge is {ridge}: it must be 0 or more.")
    if not emphasis > 0:
        raise UserError(f"emphasis is {emphasis}: it must be above 0.")
    task, _, _ = prepare(
        model, demonstrations, queries, k=None, budget_tokens=None, order="given", balanced=False, budget=1.0,
        seed=seed, **written,
    )  # fmt: skip
    if not task.pool.is_labelled:
        raise UserError("the demonstrations have no outputs: give each its answer, as it is to stand in the prompt.")
    sites = sites_of(task.lens_model, layers, targets)
    n = len(task.start)
    if any(not 1 <= one <= n for one in numbers or ()):
        raise UserError(f"numbers of demonstrations are {tuple(numbers or ())}: give some from 1 to {n}.")
    limit = min(min(widths(site.module)) for site in sites)
    if rank > limit:
        raise UserError(
            f"rank is {rank}: a matrix that is changed has {limit} rows or columns, so give at most {limit}."
        )
    others = (1, rank // 4, rank // 2, 2 * rank, 4 * rank) if ranks is None else ranks
    fewer = (n // 4, n // 2) if numbers is None else numbers
    return Plan(
        task,
        sites,
        tuple(one for one in dict.fromkeys(targets)),
        rank,
        tuple(sorted({one for one in others if 1 <= one <= limit} - {rank})),
        tuple(sorted({one for one in fewer if one >= 1} - {n})),
        ridge,
        emphasis,
        training,
        seed,
    )
