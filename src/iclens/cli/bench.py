"""`iclens bench`: every performance claim, measured on this machine."""

from __future__ import annotations

import inspect
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from iclens.cli.command import command
from iclens.cli.output import make_folder, note, say, show, stages, write_atomically
from iclens.errors import UserError

if TYPE_CHECKING:
    from iclens.benchmarks.case import Case, Context


@command("bench")
@dataclass(frozen=True)
class Bench:
    """Measure performance against peers: outputs are compared first, then timed in interleaved pairs.

    Prints how many times as fast ours is, peak memory and how far from the floor, that is, from the operations and
    bytes that no way spares at the speed that this machine was just measured to reach. Writes OUT/CASE.json, plots, and
    OUT/results.md with all cases of the folder. Peers that are not installed are skipped by name. Exit status 1 when
    outputs disagree or a target is missed. `iclens bench attribution` compares attributions with a known truth.

    Attributes:
        cases: which cases; --list shows them, and without any all run.
        list: show the cases and stop.
        pairs: interleaved pairs of each comparison.
        threads: torch threads.
        device: where it runs; cases that run on the CPU only say so.
        quick: small sizes, to see that everything runs; no claim is made.
        out: folder for JSON, plots and the page; what other cases left there stays.
        redraw: measure nothing; draw plots and page once more from the JSON in the folder.
    """

    cases: Positional[tuple[str, ...]] = ()
    list: bool = False
    pairs: int = 9
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    out: Path = Path("iclens-out/bench")
    redraw: bool = False

    def run(self) -> int:
        """Measure the cases, write their files, and return the exit status."""
        if self.pairs < 1:
            raise UserError(f"--pairs {self.pairs}: at least 1.")
        if self.threads < 1:
            raise UserError(f"--threads {self.threads}: at least 1.")
        if self.redraw:
            self._write_page()
            return 0

        import torch

        from iclens.benchmarks.case import CASES, Context
        from iclens.benchmarks.ceilings import measure_ceilings
        from iclens.training.default_dtype import default_dtype
        from iclens.workers import torch_threads

        if self.list:
            for name in sorted(CASES):
                say(f"{name:<16} {_description(CASES[name])}")
            return 0
        names = dict.fromkeys(self.cases) or sorted(CASES)
        chosen = {name: CASES[name] for name in names}
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda needs a GPU that this PyTorch can use.")
        make_folder(self.out)
        good = True
        with torch_threads(self.threads), default_dtype(torch.float32), torch.random.fork_rng(devices=[]):
            ceilings = measure_ceilings(
                self.device, repeats=2 if self.quick else 5, largest=512 if self.quick else 2048
            )
            rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in ceilings.operations.items())
            note(f"ceilings with {self.threads} threads: {rates}; {ceilings.bytes / 1e9:.1f} GB/s copied")
            context = Context(ceilings, self.pairs, self.threads, self.device, self.quick)
            for name, case in chosen.items():
                good &= self._case(name, case, context)
        self._write_page()
        return 0 if good else 1

    def _case(self, name: str, case: Case, context: Context) -> bool:
        from iclens.benchmarks.case import ON_GPU, Absent
        from iclens.benchmarks.document import document, environment
        from iclens.benchmarks.measure import run_case

        before = environment(self.threads)
        entries = case(context)
        if self.device == "cuda" and not hasattr(case, ON_GPU):
            entries = iter([Absent(name, "this case runs on the CPU only")])
        with stages(name) as stage:
            result = run_case(name, entries, _description(case), context, stage, lambda one: _say(name, one))
        made = document(result, context, before, self._command(name))
        write_atomically(self.out / f"{name}.json", json.dumps(made, indent=1, allow_nan=False))
        return result.good

    def _command(self, name: str) -> str:
        arguments = ["iclens", "bench", name, "--threads", str(self.threads), "--pairs", str(self.pairs)]
        arguments += [*(["--quick"] if self.quick else []), *(["--device", "cuda"] if self.device == "cuda" else [])]
        return shlex.join(arguments)

    def _write_page(self) -> None:
        from iclens.benchmarks.page import page
        from iclens.benchmarks.plots import plots

        found = [_read(file) for file in sorted(self.out.glob("*.json"))]
        documents = [one for one in found if one is not None]
        if not documents:
            raise UserError(f"{self.out} holds no measured case: run `iclens bench` first.")
        figures = {}
        for one in documents:
            files = plots(one)
            figures[one["case"]] = tuple(files)
            for file, content in files.items():
                write_atomically(self.out / file, content)
        write_atomically(self.out / "results.md", page(documents, figures))
        say(f"page: {self.out / 'results.md'}")


def _description(case: Case) -> str:
    return (inspect.getdoc(case) or "").splitlines()[0]


def _read(file: Path) -> dict[str, Any] | None:
    """The JSON of a case, None when the file is something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"case", "results", "ceilings"} <= set(found) else None


def _say(name: str, result: Any) -> None:
    """One result, as soon as it is there."""
    from iclens.benchmarks import wording
    from iclens.benchmarks.document import plain

    one = plain(result)
    kind = one["kind"]
    if kind == "absent":
        note(f"{name}: {one['peer']} is left out: {one['reason']}")
        return
    if kind == "table":
        show(_table(one))
        for verdict in one["verdicts"]:
            say(f"{'holds' if verdict['holds'] else 'DOES NOT HOLD':<14} {verdict['claim']} ({verdict['numbers']})")
        return
    if kind == "curve":
        for line, found in one["lines"].items():
            say(f"{name}: {one['what']}, {line}: exponent {wording.exponent(found['exponent'])}")
        return
    parts = [wording.speed_up(one)]
    if one["speed_up"] is not None:
        parts[0] += " times as fast"
        parts.append(f"{wording.seconds(one['speed_up']['seconds_ours'])}")
    parts += [f"peak {wording.peaks(one)}"] if wording.peaks(one) else []
    parts += [f"{wording.floor(one)} above the floor"] if wording.floor(one) else []
    parts += [f"error {wording.error(one)}", *(wording.target(judged) for judged in one["targets"])]
    say(f"{name}: {one['what']}, against {one['other']}: {'; '.join(parts)}")
    for broken in one["agreements"]:
        if not broken["holds"]:
            say(f"  {broken['what']} differ by {broken['error']:.1e}, more than {broken['tolerance']:.0e}")


def _table(one: dict[str, Any]) -> Any:
    from rich.table import Table

    from iclens.benchmarks import wording

    table = Table(title=one["what"], title_justify="left")
    for place, column in enumerate(one["rows"][0]):
        table.add_column(column, justify="right" if place else "left")
    for row in one["rows"]:
        table.add_row(*(wording.cell(value) for value in row.values()))
    return table
