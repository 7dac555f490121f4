"""`iclens explain --batch`: thousands of prompts, one Parquet file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from iclens.cli.output import check_at_least_one, note, say
from iclens.cli.where import Where, refuse_torchrun
from iclens.errors import UserError, said
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.lens.many.lines import Defaults, Line
    from iclens.lens.many.model_source import ModelSource
    from iclens.lens.many.work import Executor, Work
    from iclens.work.cluster import Cluster
    from iclens.work.parts import Parts

_SHOWN = 10
"""Bad lines that are named one by one."""

MOST_MEASURED = 3
"""Batches that are tried, each alone, to learn how long one takes."""


@dataclass(frozen=True)
class Many:
    """Options for many prompts at once.

    Attributes:
        batch: a file of prompts, one JSON value a line; with --out.
        out: the Parquet file to write; finished work is kept in a folder beside it until all is done.
        skip_bad: leave out the lines that cannot be explained; each becomes a row with its error.
        batch_tokens: tokens that go through the model at once; by the model's size when left out.
        where: processes and machines to use.
    """

    batch: Path | None = None
    out: Path | None = None
    skip_bad: bool = False
    batch_tokens: int | None = None
    where: Annotated[Where, tyro.conf.arg(name="")] = field(default_factory=Where)

    def check(self) -> None:
        """Refuse options that make no sense, before any work.

        Raises:
            UserError: the first of them.
        """
        if self.batch is None:
            given = [name for name in vars(self) if name != "where" and getattr(self, name) != getattr(Many, name)]
            given += self.where.given()
            if given:
                raise UserError(f"--{given[0].replace('_', '-')} is for many prompts: give --batch FILE as well.")
            return
        refuse_torchrun("explain --batch")
        if self.out is None:
            raise UserError("--batch needs --out FILE, the Parquet file to write.")
        check_writable(self.out)
        if self.out.exists() and not self.out.is_file():
            raise UserError(
                f"cannot write {self.out}: --out must be a file, so that finished work can be kept beside it."
            )
        check_at_least_one(batch_tokens=self.batch_tokens)
        self.where.check()

    def run(
        self,
        source: ModelSource,
        defaults: Defaults,
        *,
        scores: tuple[str, ...],
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """Explain every prompt; 0, or 1 when a batch failed or a check exceeds its tolerance."""
        from iclens.lens.calls import check_scores
        from iclens.lens.many.lines import read_lines
        from iclens.lens.many.plan import tokens_at_once
        from iclens.lens.many.work import Work
        from iclens.work.parts import Parts

        check_scores(scores)
        assert self.batch is not None
        assert self.out is not None
        cluster = self.where.cluster(gpu=_on_gpu(source))
        outline = source.outline()
        outline.require_causal()
        lines = self._checked(read_lines(self.batch, outline, defaults))
        most_tokens = self.batch_tokens or tokens_at_once(outline)
        threads = self.where.threads
        how: dict[str, Any] = {"scores": scores, "most_tokens": most_tokens, "threads": threads, "options": options}
        work = Work.plan(source, outline, lines, **how)
        parts = Parts(self.out.with_name(self.out.name + ".parts"))
        if work.is_in(self.out) and not parts.folder.is_dir():
            return self._said_present()
        with parts.held():
            # Another process has written it meanwhile, or was stopped after it had.
            if work.is_in(self.out):
                parts.remove()
                return self._said_present()
            if not self._compute(work, parts, cluster):
                return 1
            content = work.assemble(parts)
            write_atomically(self.out, content)
            parts.remove()
        return _summary(self.out, content)

    def _said_present(self) -> int:
        say(f"{self.out} holds these prompts explained by this model already")
        return 0

    def _checked(self, lines: list[Line]) -> list[Line]:
        """Return the lines, if the bad ones are none or may be skipped."""
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
        from iclens.cli.resumable import resumable
        from iclens.work.cluster import TASK_SECONDS, connected
        from iclens.work.progress import bar, duration

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
        tokens, waiting = work.tokens, list(missing)
        around: AbstractContextManager[None] = nullcontext() if cluster is None else connected(cluster)
        failed: list[str] = []
        with around, resumable(), bar(tokens, "explaining") as report:
            for place in set(range(len(work.batches))) - set(missing):
                report(place, tokens[place])
            rate = None
            while rate is None and waiting and len(failed) < MOST_MEASURED:
                # The middle one stands for the rest: prompts are in order of their length.
                first = waiting.pop(len(waiting) // 2)
                for ended in work.compute([first], parts, self.executor(work.source, cluster, [0.0])):
                    if isinstance(ended.error, UserError):
                        # Of the model or the cluster: it would be that of every batch.
                        raise ended.error
                    if ended.error is not None:
                        failed.append(said(ended.error))
                        continue
                    rate = ended.result() / tokens[first]
                    report(first, tokens[first])
            # Of unknown time, each is worth a task, and together worth all processes.
            seconds = [TASK_SECONDS if rate is None else rate * tokens[place] for place in waiting]
            if waiting and rate is not None:
                note(f"about {duration(sum(seconds))} of work left")
            for ended in work.compute(waiting, parts, self.executor(work.source, cluster, seconds)):
                if ended.error is not None:
                    failed.append(said(ended.error))
                else:
                    report(ended.place, tokens[ended.place])
        for text, count in Counter(failed).items():
            note(f"not explained: {text}" + (f" ({count} batches)" if count > 1 else ""))
        return not failed

    def executor(self, source: ModelSource, cluster: Cluster | None, seconds: Sequence[float]) -> Executor:
        """Return what runs the calls, given their estimated times.

        Args:
            source: the model.
            cluster: where to run; None for this machine.
            seconds: of each call.
        """
        from iclens.work.cluster import each_on_cluster, tasks_of
        from iclens.work.workers import each, usable_cores, worth_starting

        threads = self.where.threads
        if cluster is not None:
            together = tasks_of(seconds)

            def on_ray(function: Callable[..., Any], calls: Sequence[Any]) -> Iterator[Any]:
                return each_on_cluster(function, calls, cluster=cluster, threads=threads, together=together)

            return on_ray
        alone = 1 if _on_gpu(source) else worth_starting(usable_cores(), sum(seconds, 0.0))
        workers = self.where.workers or alone

        def here(function: Callable[..., Any], calls: Sequence[Any]) -> Iterator[Any]:
            return each(function, calls, workers=workers, threads=threads)

        return here


def _on_gpu(source: ModelSource) -> bool:
    return source.device != "cpu" or source.device_map is not None


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
