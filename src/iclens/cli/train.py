"""`iclens train`: train one model on an in-context task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from iclens.cli.command import command
from iclens.cli.output import note, say, show
from iclens.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from iclens.sweeps.run_folder import Run


@command("train")
@dataclass(frozen=True)
class Train:
    """Train a model on an in-context task, as a configuration says.

    The configuration is a TOML or JSON file or the name of a preset; single values are overridden after it:
    `iclens train linear-one-layer training.steps=500 model.n_heads=2`. The finished run goes to the store, by the hash
    of its configuration: the same configuration is not trained twice. An interrupted training goes on where it was.

    Attributes:
        config: a file, or the name of a preset (--list shows them), and then overrides path=value.
        store: folder of finished runs.
        threads: torch threads; the same number repeats a run bit for bit.
        device: cpu or cuda.
        list: list the presets and stop.
        dry_run: only say what would be trained and what it would cost.
    """

    config: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    store: Path = Path("iclens-runs")
    threads: int = 2
    device: str = "cpu"
    list: bool = False
    dry_run: bool = False

    def run(self) -> int:
        """Train, keep, print the result; 0, or 1 for a run that diverged."""
        from iclens.training.config_file import presets, read_config

        if self.list:
            for name in presets():
                say(name)
            return 0
        if not self.config:
            raise UserError(f"name a configuration file or a preset: {', '.join(presets())}.")
        if self.threads < 1:
            raise UserError(f"--threads {self.threads}: it must be at least 1.")
        import torch

        from iclens.cli.training_progress import bar, duration
        from iclens.sweeps.chunks import plan
        from iclens.sweeps.store import Store
        from iclens.sweeps.sweep import SweepPlan, run
        from iclens.training.config import RunConfig

        data = read_config(self.config[0], self.config[1:])
        if "sweep" in data:
            raise UserError("the configuration has a [sweep] table: train it with `iclens sweep`.")
        config = RunConfig.from_dict(data)
        config.check()
        key = config.key()
        if not self.dry_run or self.store.exists():
            store = Store(self.store)
            if store.has(key):
                note(f"run {key} is in {self.store} already; it is not trained again.")
                return self._shown(store.load(key))
        torch.set_num_threads(self.threads)
        measured = plan([config], 2**62, device=self.device)
        seconds = measured.seconds * config.training.steps
        note(
            f"run {key}: {config.training.steps} steps of {measured.seconds * 1e3:.1f} ms, about {duration(seconds)};"
            f" about {measured.bytes_per_run / 2**20:.0f} MiB"
        )
        if self.dry_run:
            return 0
        prepared = SweepPlan([[config]], [config.training.steps], [seconds], 0)
        with bar([config.training.steps]) as report:
            run(prepared, store, threads=self.threads, device=self.device, report=report)
        return self._shown(store.load(key))

    def _shown(self, run: Run) -> int:
        show(error_table(run))
        result = run.result
        say(f"run {run.key} in {self.store}: {result.status}, {result.seconds:.1f} s")
        return 0 if result.status == "finished" else 1


def error_table(run: Run) -> Table:
    """The last errors of a run on its evaluation prompts, beside those of the task's best known estimator."""
    from rich.table import Table

    from iclens.training.baseline import optimal_errors
    from iclens.training.config import RunConfig

    config = RunConfig.from_dict(run.config)
    last = max(row.step for row in run.metrics() if row.name == "error")
    errors = {row.prefix: row.value for row in run.metrics() if row.name == "error" and row.step == last}
    name, best = optimal_errors(config)
    table = Table(title=f"error on {config.training.evaluation_prompts} evaluation prompts after {last} steps")
    for column in ("demonstrations", "model", name):
        table.add_column(column, justify="right")
    prefixes = sorted(prefix for prefix in errors if prefix is not None)
    for prefix in _spread(prefixes):
        table.add_row(str(prefix), f"{errors[prefix]:.4g}", f"{best[prefix]:.4g}")
    if len(prefixes) > 1:
        table.add_section()
        table.add_row("all", f"{errors[None]:.4g}", f"{sum(best[prefix] for prefix in prefixes) / len(prefixes):.4g}")
    return table


def _spread(values: list[int], most: int = 12) -> list[int]:
    if len(values) <= most:
        return values
    places = {round(place * (len(values) - 1) / (most - 1)) for place in range(most)}
    return [values[place] for place in sorted(places)]
