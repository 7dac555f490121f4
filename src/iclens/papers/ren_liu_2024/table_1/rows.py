"""What the fine-tuning table is made of: its rows with their controls, and how much is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.glue import TaskData
from iclens.papers.ren_liu_2024.table_1.glue_files import load_task
from iclens.papers.ren_liu_2024.table_1.sentences import generate_sentences
from iclens.papers.ren_liu_2024.table_1.training import Row, Settings

ORIGINAL = Row("original", "original", origin="read")

TYPES = ("regularized", "augmented", "negative")
"""The paper's three modifications; "local best" chooses within one, "global best" among all."""


def _rows() -> dict[str, Row]:
    rows = [ORIGINAL]
    for alpha in (0.5, -0.5, 0.1, -0.1, 0.02, -0.02):
        # One strength is legible in the paper, and its sign is not.
        origin = "read, sign unclear" if abs(alpha) == 0.5 else "ours"
        rows.append(Row(f"regularized α={alpha:g}", "regularized", "regularized", {"alpha": alpha}, origin))
    adapters: tuple[tuple[str, dict[str, Any]], ...] = (
        ("g1", {"g1": "adapter"}),
        ("g2", {"g2": "adapter"}),
        ("g1&g2", {"g1": "adapter", "g2": "adapter"}),
    )
    rows += [Row(f"augmented {name}", "augmented", "augmented", options, "read") for name, options in adapters]
    for k in (1, 3):
        for beta in (0.1, 0.5):
            strength = {"n_negatives": k, "beta": beta}
            rows.append(Row(f"negative k={k} β={beta:g}", "negative", "negative", strength, "read"))
    for matched in (0.5, 0.1, -0.5):
        rows.append(Row(f"control scale {1 - matched:g}", "control", "scale-matched", {"strength": matched}))
    rows += [Row(f"control parameters {name}", "control", "parameter-matched", options) for name, options in adapters]
    return {row.name: row for row in rows}


ROWS: dict[str, Row] = _rows()
"""All rows by name. Controls: the heads' output scaled by 1 − β (0.9, 0.5) or 1 − α (also 1.5), and adapters with as
many parameters as an augmentation's, after the head's output; they are compared with, never chosen as best."""


@dataclass(frozen=True)
class Preset:
    """How much is trained.

    Attributes:
        settings: of every run.
        n_train: generated training examples, and the most that are used of real ones.
        n_validation: generated validation examples; real validation splits are used whole.
        layers: so many of the encoder's first layers are kept; all when None.
    """

    settings: Settings
    n_train: int
    n_validation: int
    layers: int | None = None


PRESETS: dict[str, Preset] = {
    "quick": Preset(Settings(40, 16, 5e-4, max_length=32, frozen_words=True), 640, 200, layers=2),
    "small": Preset(Settings(200, 32, 1e-4, max_length=128), 6400, 1000),
    "paper": Preset(Settings(600, 32, 3e-5, max_length=128), 6400, 1000),
}
"""`quick` shows that everything works, in minutes on two cores: two layers, short sentences. `small` is the whole
encoder on real tasks, in a third of the steps and at a rate that a small encoder bears. `paper` is the size of BERT's
usual fine-tuning (three epochs of batches of 32 at 3e-5). The paper's own settings are unknown: all are ours.
"""

PAPERS_ROWS = (
    ORIGINAL.name,
    "regularized α=0.5",
    "regularized α=-0.5",
    "augmented",
    "negative",
    "control scale 0.5",
    "control parameters g1&g2",
)
"""The rows that could be read in the paper, and one control of each kind."""


def chosen_rows(names: Sequence[str]) -> tuple[Row, ...]:
    """Rows by name or by kind, the original always first.

    Raises:
        UserError: a name that is neither.
    """
    kinds = {row.kind for row in ROWS.values()}
    chosen = {ORIGINAL.name: ORIGINAL}
    for name in names:
        found = {row.name: row for row in ROWS.values() if name in (row.name, row.kind)}
        if not found:
            kinds_listed = ", ".join(sorted(kinds))
            raise UserError(f"unknown row {name!r}. Give a kind ({kinds_listed}) or a row: {', '.join(ROWS)}.")
        chosen |= found
    return tuple(chosen.values())


def task_data(name: str, source: str, preset: Preset) -> TaskData:
    """The examples of a task: generated, of GLUE, or of a folder (`load_task`).

    Raises:
        UserError: the data cannot be had.
    """
    if source == "generated":
        return generate_sentences(name, preset.n_train, preset.n_validation)
    data = load_task(name, source)
    if len(data.train) <= preset.n_train:
        return data
    kept = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: preset.n_train].tolist()
    return TaskData(data.task, tuple(data.train[i] for i in kept), data.validation, data.source, data.generated)
