"""`iclens explain --batch`: thousands of prompts, one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclens.cli.output import check_writable, note, say, write_atomically
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.cluster import Cluster
    from iclens.lens.batch.lines import Defaults, Line
    from iclens.lens.batch.parts import Parts
    from iclens.lens.batch.source import Source
    from iclens.lens.batch.work import Executor, Work

_SHOWN = 10
"""Bad lines that are named one by one."""


@dataclass(frozen=True)
class Many:
    """Options for many prompts at once.

    Attributes:
        batch: a file of prompts, one JSON value a line; with --out.
        out: the Parquet file to write; finished work is kept in a folder beside it until all is done.
        skip_bad: go on without the lines that cannot be explained; each becomes a row with its error.
        batch_tokens: tokens that go through the model at once; by the model's size when left out.
        workers: processes; when left out one on a GPU, else the number of cores, as far as they are worth their start.
        threads: torch threads of each.
        on: local processes, or ray.
        address: local starts Ray on this machine; auto is the cluster that this machine belongs to; or its host:port.
        task_cpus: CPUs of a Ray task; as many as threads when left out.
        task_gpus: GPUs of a Ray task, a fraction to share one; 1 when left out and the device is cuda.
        retries: how often work is begun anew on Ray whose process or machine died.
    """

    batch: Path | None = None
    out: Path | None = None
    skip_bad: bool = False
    batch_tokens: int | None = None
    workers: int | None = None
    threads: int = 1
    on: Literal["local", "ray"] = "local"
    address: str = "local"
    task_cpus: float | None = None
    task_gpus: float | None = None
    retries: int = 3

    def check(self) -> None:
        """Refuse options that make no sense, before any work.

        Raises:
            UserError: the first of them.
        """
        if self.batch is None:
            given = [name for name, value in vars(self).items() if value != getattr(Many, name)]
            if given:
                raise UserError(f"--{given[0].replace('_', '-')} is for many prompts: give --batch FILE as well.")
            return
        if self.out is None:
            raise UserError("--batch needs --out FILE, the Parquet file to write.")
        check_writable(self.out)
        if self.out.exists() and not self.out.is_file():
            raise UserError(
                f"cannot write {self.out}: --out must be a file, so that finished work can be kept beside it."
            )
        for name, value in (("threads", self.threads), ("workers", self.workers), ("batch-tokens", self.batch_tokens)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: it must be at least 1.")
        for name in ("address", "task_cpus", "task_gpus", "retries"):
            if self.on == "local" and getattr(self, name) != getattr(Many, name):
                raise UserError(f"--{name.replace('_', '-')} is for a Ray cluster: give --on ray as well.")

    def run(self, source: Source, defaults: Defaults, *, rerun: bool) -> int:
        """Explain every prompt; 0, or 1 when a batch failed or a residual exceeds its tolerance."""
        from iclens.lens.batch.lines import read_lines
        from iclens.lens.batch.parts import Parts
        from iclens.lens.batch.plan import tokens_at_once
        from iclens.lens.batch.work import Work

        assert self.batch is not None
        assert self.out is not None
        cluster = self._cluster(source.device)
        outline = source.outline()
        outline.require_causal()
        lines = self._checked(read_lines(self.batch, outline, defaults))
        most_tokens = self.batch_tokens or tokens_at_once(outline)
        work = Work.plan(source, outline, lines, rerun=rerun, most_tokens=most_tokens, threads=self.threads)
        parts = Parts(self.out)
        if work.is_in(self.out):
            if parts.folder.is_dir():  # a process was stopped after it wrote the file
                with parts.held():
                    parts.remove()
            say(f"{self.out} holds these prompts explained by this model already")
            return 0
        with parts.held():
            if not self._compute(work, parts, cluster):
                return 1
            content = work.assemble(parts)
            write_atomically(self.out, content)
            parts.remove()
        return _summary(self.out, content)

    def _cluster(self, device: str) -> Cluster | None:
        from iclens.cluster import Cluster

        if self.on == "local":
            return None
        cpus = float(self.threads) if self.task_cpus is None else self.task_cpus
        gpus = float(device != "cpu") if self.task_gpus is None else self.task_gpus
        return Cluster(self.address, cpus, gpus, self.retries)

    def _checked(self, lines: list[Line]) -> list[Line]:
        """The lines, if the bad ones are none or may be skipped."""
        bad = [line for line in lines if line.error is not None]
        for line in bad[:_SHOWN]:
            note(f"{'skipped' if self.skip_bad else 'bad'}: {line.error}")
        if len(bad) > _SHOWN:
            note(f"... and {len(bad) - _SHOWN} more")
        if bad and not self.skip_bad:
            raise UserError(
                f"{len(bad)} of {len(lines)} prompts in {self.batch} cannot be explained, see above: correct them, or "
                "go on without them with --skip-bad. Nothing was computed."
            )
        return lines

    def _compute(self, work: Work, parts: Parts, cluster: Cluster | None) -> bool:
        """Fill in the parts that are missing; False when some failed."""
        from iclens.cli.training_progress import bar, duration, resumable
        from iclens.cluster import connected

        missing = work.missing(parts)
        batches = "1 batch" if len(work.batches) == 1 else f"{len(work.batches)} batches"
        note(f"{work.n_prompts} prompts, {sum(work.tokens)} tokens in {batches}")
        if len(missing) < len(work.batches):
            note(f"going on: {len(work.batches) - len(missing)} batches are in {parts.folder} already")
        stale = parts.others(set(work.keys))
        if stale:
            note(f"{stale} batches in {parts.folder} are of other prompts, options or weights, and are not used")
        if not missing:
            return True
        tokens = work.tokens
        # The middle one stands for the rest: prompts are in order of their length.
        first = missing[len(missing) // 2]
        rest = [place for place in missing if place != first]
        around: AbstractContextManager[None] = nullcontext() if cluster is None else connected(cluster)
        failed: list[str] = []
        with around, resumable(), bar(tokens, "explaining") as report:
            for place in set(range(len(work.batches))) - set(missing):
                report(place, tokens[place])
            rate = 0.0
            for ended in work.compute([first], parts, self._executor(work.source, cluster, [0.0])):
                if isinstance(ended.error, UserError):
                    # Of the model or the cluster: it would be that of every batch.
                    raise ended.error
                if ended.error is not None:
                    failed.append(_said(ended.error))
                    continue
                rate = ended.result() / tokens[first]
                report(first, tokens[first])
            seconds = [rate * tokens[place] for place in rest]
            if rest:
                note(f"about {duration(sum(seconds))} of work left")
            for ended in work.compute(rest, parts, self._executor(work.source, cluster, seconds)):
                if ended.error is not None:
                    failed.append(_said(ended.error))
                else:
                    report(ended.place, tokens[ended.place])
        for text, count in Counter(failed).items():
            note(f"not explained: {text}" + (f" ({count} batches)" if count > 1 else ""))
        return not failed

    def _executor(self, source: Source, cluster: Cluster | None, seconds: Sequence[float]) -> Executor:
        """What runs the calls, given their estimated times."""
        from iclens.cluster import each_on_cluster, tasks_of
        from iclens.workers import each, usable_cores, worth_starting

        if cluster is not None:
            together = tasks_of(seconds)

            def on_ray(function: Callable[..., Any], calls: Sequence[Any]) -> Iterator[Any]:
                return each_on_cluster(function, calls, cluster=cluster, threads=self.threads, together=together)

            return on_ray
        on_processor = source.device == "cpu" and source.device_map is None
        alone = worth_starting(usable_cores(), sum(seconds, 0.0)) if on_processor else 1
        workers = self.workers or alone

        def here(function: Callable[..., Any], calls: Sequence[Any]) -> Iterator[Any]:
            return each(function, calls, workers=workers, threads=self.threads)

        return here


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _summary(out: Path, content: bytes) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = ["line", "error", "exact"]
    table = pq.read_table(pa.BufferReader(content), columns=columns)
    explained = table.filter(pc.is_null(table["error"]))
    prompts = explained.group_by("line").aggregate([("exact", "min")])
    bad = table.num_rows - explained.num_rows
    inexact = prompts.num_rows - (pc.sum(prompts["exact_min"]).as_py() or 0)
    if inexact:
        say(f"NOT EXACT: a residual exceeds its tolerance in {inexact} prompts, where `exact` is false")
    skipped = f", {bad} bad lines skipped" if bad else ""
    say(f"{prompts.num_rows} prompts explained in {explained.num_rows} rows{skipped}: {out}")
    return 1 if inexact else 0
