"""A store against its checksums: what is damaged, missing, foreign or left over, and what a repair does about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iclens.sweeps import run_folder
from iclens.sweeps.catalogue import INDEX, RUNS, Catalogue
from iclens.sweeps.folders import is_key, is_temporary
from iclens.sweeps.index_rows import IndexDamaged, Row


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be in a store.

    Attributes:
        kind: `damaged` (a run's files), `unlisted` (a run without a row), `missing` (a row without a run), `index`,
            `leftover` (of a killed process), or `foreign` (not of a store).
        name: the run's key, or the name of the file or folder.
        text: one sentence.
    """

    kind: Literal["damaged", "unlisted", "missing", "index", "leftover", "foreign"]
    name: str
    text: str


def problems_of(catalogue: Catalogue, frozen: Sequence[Row] | None) -> list[Problem]:
    """Compare every byte with its checksum, and the index with the runs.

    Args:
        catalogue: of the store.
        frozen: the rows of a store that cannot be written; None for one that can.

    Raises:
        UserError: a run was written by an older or a newer iclens.
    """
    problems = []
    if frozen is None:
        try:
            catalogue.index.check()
        except IndexDamaged as error:
            problems.append(Problem("index", INDEX, f"the index is damaged: {error}."))
            catalogue.heal(error)
        rows = _by_key(catalogue.healed(catalogue.index.rows))
    else:
        rows = _by_key(frozen)
    names = catalogue.runs.names()
    for key in sorted(set(rows) | {name for name in names if is_key(name)}):
        problems += _of_run(catalogue, key, rows, key in names, frozen=frozen is not None)
    return problems + _strangers(catalogue, names, frozen=frozen is not None)


def repair(catalogue: Catalogue, problems: Sequence[Problem]) -> None:
    """Set damaged runs aside and give the others the rows that their files ask for.

    Raises:
        UserError: a run cannot be moved.
    """
    wrong = {problem.name for problem in problems if is_key(problem.name)}
    if not wrong:
        return
    with catalogue.locked(exclusive=True):
        for key in sorted(wrong & catalogue.runs.keys()):
            if run_folder.damage(catalogue.runs / key):
                catalogue.set_aside(key)
        catalogue.index.delete(wrong)
        catalogue.enter(wrong & catalogue.runs.keys())


def _by_key(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.key: row for row in rows}


def _of_run(catalogue: Catalogue, key: str, rows: Mapping[str, Row], present: bool, *, frozen: bool) -> list[Problem]:
    def has_row() -> bool:
        return key in rows if frozen else catalogue.healed(lambda: catalogue.index.has(key))

    if not present:
        if not has_row():
            return []  # removed by another process while this one looked
        return [Problem("missing", key, f"run {key} is in the index, but has no folder.")]
    folder = catalogue.runs / key
    found = run_folder.damage(folder)
    if found:
        return [Problem("damaged", key, text) for text in found] if folder.exists() else []
    if key not in rows:
        # A run that was added after the index was read has its row by now.
        return [] if has_row() else [Problem("unlisted", key, f"run {key} is not in the index.")]
    row, own = rows[key], Row.of(key, *run_folder.summary(folder))
    # As text, because NaN is not equal to itself.
    if (row.config, row.result.to_json(), row.digest) != (own.config, own.result.to_json(), own.digest):
        return [Problem("index", key, f"the index does not say of run {key} what its files say.")]
    return []


def _strangers(catalogue: Catalogue, names: set[str], *, frozen: bool) -> list[Problem]:
    leftovers = sorted(name for name in names if is_temporary(name))
    problems = []
    if leftovers and not frozen:
        # Writers hold the lock together while their folder is temporary: whoever holds it alone sees only dead ones.
        with catalogue.locked(exclusive=True):
            leftovers = sorted(set(leftovers) & catalogue.runs.names())
    for name in leftovers:
        text = f"{RUNS}/{name} was left by a process that was killed: `iclens runs gc` deletes it."
        problems.append(Problem("leftover", name, text))
    for name in sorted(names):
        if not is_temporary(name) and not is_key(name):
            problems.append(Problem("foreign", name, f"{RUNS}/{name} is not a run; it is left alone."))
    return problems
