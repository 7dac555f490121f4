"""What a prompt became: a change of weights, and what it is worth on queries that took no part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from iclens.absorption.adapter import Adapter
from iclens.absorption.reached import ABSORBED, PROMPT, ZERO, Reached
from iclens.data_frame import data_frame
from iclens.intervals import Estimate
from iclens.lens.model.loading import LensModel
from iclens.plain_data import finite


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Demonstrations as a change of weights.

    Attributes:
        adapter: the change.
        lens_model: the model that it belongs to, unchanged.
        main: the held-out queries without the demonstrations, with them, with the changed weights, and with trained
            ones where that was asked for.
        by_rank: changed weights of several ranks.
        by_number: prompts of fewer demonstrations, each with what it became.
        n_fitted: queries by which it was fitted.
        n_held_out: queries that took no part.
        layers: that were changed.
        targets: matrices that were changed, see `TARGETS`.
        ridge: λ, in tokens of mean size.
        metric: what is counted beside the log-loss.
        candidates: among which answers the model chooses; empty for free answers.
        seconds: wall time of everything.
        seed: of the split, and of training.
        notes: what a reader should know.
    """

    adapter: Adapter
    lens_model: LensModel = field(repr=False)
    main: tuple[Reached, ...]
    by_rank: tuple[Reached, ...]
    by_number: tuple[Reached, ...]
    n_fitted: int
    n_held_out: int
    layers: tuple[int, ...]
    targets: tuple[str, ...]
    ridge: float
    metric: str
    candidates: tuple[str, ...]
    seconds: float
    seed: int
    notes: tuple[str, ...] = ()

    def named(self, name: str) -> Reached:
        """One of the main ways to answer, by its name."""
        return next(one for one in self.main if one.name == name)

    @property
    def loss(self) -> Estimate:
        """KL(prompt ‖ absorbed) of the token behind the held-out queries, nats."""
        return self.named(ABSORBED).divergence

    @property
    def kept(self) -> float:
        """The part of the prompt's effect that is kept, 1 − KL(prompt ‖ absorbed) / KL(prompt ‖ zero-shot)."""
        return 1 - self.loss.mean / max(self.named(ZERO).divergence.mean, 1e-12)

    @property
    def tokens_saved(self) -> float:
        """Tokens that the model need not read for a query."""
        return self.named(PROMPT).tokens - self.named(ABSORBED).tokens

    @contextmanager
    def applied(self) -> Iterator[LensModel]:
        """The model with the changed weights inside the block."""
        with self.adapter.applied(self.lens_model):
            yield self.lens_model

    def save(self, folder: str | Path) -> None:
        """Write the adapter's folder, as peft, transformers and `iclens.load` read it.

        Raises:
            UserError: the folder holds other files, or cannot be written.
        """
        self.adapter.save(folder)

    def __str__(self) -> str:
        from rich.console import Console

        from iclens.absorption.table import print_absorbed

        stream = StringIO()
        print_absorbed(self, Console(file=stream, width=140, force_terminal=False, highlight=False))
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def to_rows(self) -> list[dict[str, Any]]:
        """Every way to answer, a row each; `study` is `"main"`, `"rank"` or `"demonstrations"`."""
        studies = {"main": self.main, "rank": self.by_rank, "demonstrations": self.by_number}
        return [{"study": name, **one.to_row()} for name, some in studies.items() for one in some]

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            UserError: pandas is not installed.
        """
        return data_frame(self.to_rows())

    def to_json(self) -> str:
        """Everything but the weights as JSON."""
        names = ("n_fitted", "n_held_out", "layers", "targets", "ridge", "metric", "candidates", "seconds", "seed")
        told: dict[str, Any] = {name: getattr(self, name) for name in names}
        told |= {"model": self.adapter.base, "rank": self.adapter.rank, "parameters": self.adapter.n_parameters}
        told |= {"kept": self.kept, "rows": self.to_rows(), "notes": self.notes}
        return json.dumps(finite(told), ensure_ascii=False, indent=1) + "\n"
