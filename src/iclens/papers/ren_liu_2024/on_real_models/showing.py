"""The study of modified attention as small tables, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iclens.papers.ren_liu_2024.on_real_models.claims import KINDS, MODIFICATIONS
from iclens.papers.ren_liu_2024.on_real_models.gains import ACCURACY, LOSS, PUT_IN, TUNED, Measured, over_sets
from iclens.papers.ren_liu_2024.on_real_models.modifications import PLAIN, Modification
from iclens.papers.ren_liu_2024.on_real_models.settings import ModifiedSettings
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.table import Cell, Table


def summaries(table: Table, settings: ModifiedSettings) -> dict[str, Table]:
    """Both studies: every attention against plain attention, and the chosen ones by task."""
    shown: dict[str, Table] = {}
    counts = {str(row["row"]): row["n_parameters"] for row in table if row.get("n_parameters") is not None}
    trained: dict[str, dict[str, Cell]] = {PUT_IN: {}, TUNED: counts}
    for study, kinds in KINDS.items():
        found, modifications = Measured.of(table, study), MODIFICATIONS[study](settings)
        if not found.units:
            continue
        shown[f"{study}: gains over plain attention, means over {len(found.units)} sets with 95 % intervals"] = Table(
            _row(found, modifications[name], trained[study]) for name in modifications if name in found.numbers
        )
        rows = [row for kind in kinds for row in _by_task(found, modifications, kind)]
        if rows:
            shown[f"{study}: gains in log-loss by task, strength and layers chosen on other sets"] = Table(rows)
    off: dict[str, float] = {}
    for row in table:
        if row.get("off") is not None:
            off[str(row["row"])] = max(off.get(str(row["row"]), 0.0), float(row["off"] or 0.0))
    if off:
        shown["largest difference of a prompt read whole from one read behind its shared beginning, in nats"] = Table(
            {"attention": name, "nats": value} for name, value in off.items()
        )
    return shown


def _row(found: Measured, one: Modification, trained: Mapping[str, Cell]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"attention": one.name}
    if one.name in trained:
        row["trained"] = trained[one.name]
    for measure, name in ((LOSS, "log-loss"), (ACCURACY, "accuracy")):
        row[name] = round(sum(found.mean(one.name, unit, measure) for unit in found.units) / len(found.units), 3)
        if one.name != PLAIN.name:
            gain = over_sets([found.gain(one.name, unit, measure) for unit in found.units])
            row["less log-loss" if measure == LOSS else "more right"] = format(gain, "+.3f")
    return row


def _by_task(found: Measured, modifications: Mapping[str, Modification], kind: str) -> list[dict[str, Cell]]:
    own = [name for name, one in modifications.items() if one.kind == kind and name in found.numbers]
    if not own or len({number for _, number in found.units}) < 2:
        return []
    picks = found.picks(own)
    rows: list[dict[str, Cell]] = []
    for task in dict.fromkeys(task for task, _ in found.units):
        plain = [found.mean(PLAIN.name, unit, LOSS) for unit in found.units if unit[0] == task]
        rows.append(
            {
                "kind": kind,
                "task": task,
                "plain log-loss": round(sum(plain) / len(plain), 3),
                "less log-loss": format(over_sets(found.gains(picks, LOSS, task=task)), "+.3f"),
                "more right": format(over_sets(found.gains(picks, ACCURACY, task=task)), "+.3f"),
            }
        )
    return rows


_MARKS = {"all": "o", "first": "v", "middle": "s", "last": "^"}


def drawn(table: Table, settings: ModifiedSettings) -> Figure:
    """A panel a study: an attention's gain in log-loss over plain attention, with 95 % intervals over sets."""
    figure = new_figure(11.5, 5.0)
    marks: dict[str, None] = {}
    for axes, study in zip(figure.subplots(1, 2), (PUT_IN, TUNED), strict=True):
        found, modifications = Measured.of(table, study), MODIFICATIONS[study](settings)
        shown = [one for name, one in modifications.items() if one.kind and name in found.numbers]
        lines = list(dict.fromkeys((one.kind, one.what) for one in shown))
        kinds = list(dict.fromkeys(kind for kind, _ in lines))
        groups = list(dict.fromkeys(one.layers for one in shown))
        for one in shown:
            gain = over_sets([found.gain(one.name, unit, LOSS) for unit in found.units])
            at = lines.index((one.kind, one.what)) + 0.16 * (groups.index(one.layers) - (len(groups) - 1) / 2)
            reach = np.nan_to_num([[gain.mean - gain.low], [gain.high - gain.mean]])
            axes.errorbar(gain.mean, at, xerr=reach, fmt=_MARKS[one.layers], ms=4, elinewidth=0.8,
                          color=f"C{kinds.index(one.kind)}")  # fmt: skip
        axes.set_yticks(range(len(lines)), [f"{kind} {what}" for kind, what in lines], fontsize="small")
        axes.invert_yaxis()
        axes.axvline(0.0, color="0.5", linewidth=0.8)
        # Strong modifications lose a hundred times what weak ones change.
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set(title=study, xlabel="log-loss below plain attention's, in nats")
        marks |= dict.fromkeys(groups)
    for group in marks:
        label = "all layers" if group == "all" else f"{group} third"
        figure.axes[0].plot([], [], _MARKS[group], color="0.4", ms=4, label=label)
    if marks:
        figure.legend(loc="outside upper center", ncols=len(marks), fontsize="small")
    return figure
