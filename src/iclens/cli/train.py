"""`iclens train`: train one model on an in-context task."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from iclens.cli.output import check_at_least_one, note, say, show
from iclens.cli.subcommand import command
from iclens.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from iclens.sweeps.run_folder import Run
    from iclens.training.config import RunConfig
    from iclens.training.distributed import Launched


@command("train")
@dataclass(frozen=True)
class Train:
    """Train a model on an in-context task, as a configuration says.

    The configuration is a TOML or JSON file or the name of a preset; single values are overridden after it:
    `iclens train linear-one-layer training.steps=500 model.n_heads=2`. The finished run goes to the store, by the hash
    of its configuration: the same configuration is not trained twice. Interrupted training continues where it stopped.

    Under `torchrun --nproc_per_node N -m iclens train …` N processes share every batch of the one model.

    Attributes:
        config: a file, or the name of a preset (--list shows them), and then overrides path=value.
        store: folder of finished runs.
        threads: torch threads, of each process; the same number repeats a run bit for bit.
        device: cpu or cuda.
        list: list the presets and stop.
        dry_run: only print what would be trained and what it would cost.
    """

    overrides: ClassVar = "config"

    config: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    store: Path = Path("iclens-runs")
    threads: int = 2
    device: str = "cpu"
    list: bool = False
    dry_run: bool = False

    def run(self) -> int:
        """Train, keep, print the result; 0, or 1 for a run that diverged."""
        from iclens.training.config_file import PRESETS, presets, read_config

        if self.list:
            names = presets()
            for name in names:
                say(f"{name:<{max(map(len, names))}}  {_purpose(PRESETS / f'{name}.toml')}")
            return 0
        if not self.config:
            raise UserError(f"name a configuration file or a preset: {', '.join(presets())}.")
        check_at_least_one(threads=self.threads)
        from iclens.cli.resumable import resumable
        from iclens.sweeps.chunks import plan
        from iclens.sweeps.store import Store
        from iclens.sweeps.sweep import SweepPlan, run
        from iclens.training.config import RunConfig
        from iclens.training.distributed import launched
        from iclens.training.ensemble import usable_device
        from iclens.work.progress import bar, duration
        from iclens.work.workers import torch_threads

        usable_device(self.device)
        data = read_config(self.config[0], self.config[1:])
        if "sweep" in data:
            raise UserError("the configuration has a [sweep] table: train it with `iclens sweep`.")
        config = RunConfig.from_dict(data)
        config.check()
        one = launched()
        if one is not None and not self.dry_run:
            return self._together(config, one)
        key = config.key()
        if not self.dry_run or self.store.exists():
            store = Store(self.store)
            if store.has(key):
                self._note_present(key)
                return self._shown(store.load(key))
            if not self.dry_run:
                store.check_writable()
        with torch_threads(self.threads):
            measured = plan([config], 2**62, device=self.device)
        seconds = measured.seconds * config.training.steps
        note(
            f"run {key}: {config.training.steps} steps of {measured.seconds * 1e3:.1f} ms, about {duration(seconds)};"
            f" about {measured.bytes_per_run / 2**20:.0f} MiB"
        )
        if self.dry_run:
            return 0
        prepared = SweepPlan([[config]], [config.training.steps], [seconds], 0)
        with resumable(), bar([config.training.steps]) as report:
            result = run(prepared, store, threads=self.threads, device=self.device, report=report)
        if result.failed:
            raise UserError(result.failed[0])
        return self._shown(store.load(key))

    def _together(self, config: RunConfig, one: Launched) -> int:
        from iclens.cli.resumable import resumable
        from iclens.sweeps.together import train_together
        from iclens.training.distributed import joined
        from iclens.work.progress import bar
        from iclens.work.workers import torch_threads

        key, steps = config.key(), config.training.steps

        def begin(present: bool) -> None:
            if present:
                self._note_present(key)
            else:
                note(f"run {key}: {steps} steps, each shared by {one.size} processes with {self.threads} threads")

        with joined(one, self.device) as processes, torch_threads(self.threads):
            if processes.first:
                with resumable(), bar([steps]) as report:
                    store = train_together(
                        config, self.store, processes, begin=begin, report=lambda step: report(0, step)
                    )
            else:
                store = train_together(config, self.store, processes)
            # The first one's exit status is the training's.
            return 0 if store is None else self._shown(store.load(key))

    def _note_present(self, key: str) -> None:
        note(f"run {key} is in {self.store} already; it is not trained again.")

    def _shown(self, run: Run) -> int:
        show(error_table(run))
        result = run.result
        status = "finished" if result.status == "finished" else f"diverged after {result.last_finite_step} steps"
        say(f"run {run.key} in {self.store}: {status}, {result.seconds:.1f} s")
        return 0 if result.status == "finished" else 1


def _purpose(preset: Path) -> str:
    """Return the first sentence of the comment that a preset begins with."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), preset.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.strip("# ") for line in lines)
    return re.split(r"\.(?: (?=[A-Z])|$)", text)[0]


def error_table(run: Run) -> Table:
    """The last errors of a run on its evaluation prompts; squared ones beside those of the best known estimator."""
    from rich.table import Table

    from iclens.training.baseline import optimal_errors
    from iclens.training.config import RunConfig
    from iclens.training.metric import spread

    config = RunConfig.from_dict(run.config)
    last = max(row.step for row in run.metrics() if row.name == "error")
    errors = {row.prefix: row.value for row in run.metrics() if row.name == "error" and row.step == last}
    settings = config.training
    squared = settings.loss_kind == "squared"
    kind = "squared error" if squared else "cross-entropy (nats)"
    table = Table(title=f"{kind} on {settings.evaluation_prompts} evaluation prompts after {last} steps")
    table.add_column("demonstrations", justify="right")
    table.add_column("model", justify="right")
    columns: list[dict[int | None, float]] = [errors]
    prefixes = sorted(prefix for prefix in errors if prefix is not None)
    if squared:
        name, best, n_prompts = optimal_errors(config)
        some = "" if n_prompts == settings.evaluation_prompts else f" ({n_prompts} prompts)"
        table.add_column(name + some, justify="right")
        mean = sum(best[prefix] for prefix in prefixes) / len(prefixes)
        columns.append({None: mean, **{prefix: best[prefix] for prefix in prefixes}})
    for prefix in spread(prefixes):
        table.add_row(str(prefix), *(f"{column[prefix]:.4g}" for column in columns))
    if len(prefixes) > 1:
        table.add_section()
        table.add_row("all", *(f"{column[None]:.4g}" for column in columns))
    return table
