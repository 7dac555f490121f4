"""`iclens bench`: every performance claim, measured on this machine."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from iclens.cli.output import note, say, show, table
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.progress import stages
from iclens.work.whole_files import make_folder, write_atomically

if TYPE_CHECKING:
    from iclens.benchmarks.case import Case, Context


@command("bench")
@dataclass(frozen=True)
class Bench:
    """Measure performance against peers: outputs are compared first, then timed in interleaved pairs.

    Prints the speed-up, the peak memory and the distance to the floor: the time that the unavoidable operations and
    bytes take at the speed that was just measured on this machine. Writes OUT/CASE.json, plots, and
    OUT/results.md with all cases of the folder. Peers that are not installed are skipped by name. Exit status 1 when
    outputs disagree or a target is missed. `iclens reproduce attribution` compares attributions with a known truth.

    Attributes:
        cases: which cases; --list shows them, and without any all run.
        list: show the cases with their times and stop.
        pairs: interleaved pairs of each comparison.
        threads: torch threads.
        device: where to run; cases that run on the CPU only say so.
        quick: small sizes, to see that everything runs; no claim is made.
        long: also run more sizes and the slowest peers, which takes long and adds little.
        out: folder for JSON, plots and the page; what other cases left there stays.
        resume: skip cases that are in the folder, measured by the same command with the same versions on this machine.
        redraw: measure nothing; draw plots and page again from the JSON in the folder.
        publish: another folder, for a site: the JSON and plots of all that lies in OUT go there.
    """

    cases: Positional[tuple[str, ...]] = ()
    list: bool = False
    pairs: int = 7
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    quick: bool = False
    long: bool = False
    out: Path = Path("iclens-out/bench")
    resume: bool = False
    redraw: bool = False
    publish: Path | None = None

    def run(self) -> int:
        """Measure the cases, write their files, and return the exit status."""
        if self.pairs < 1:
            raise UserError(f"--pairs {self.pairs}: at least 1.")
        if self.threads < 1:
            raise UserError(f"--threads {self.threads}: at least 1.")
        if self.quick and self.long:
            raise UserError("--quick and --long: give one of them.")
        if self.quick and self.publish is not None:
            raise UserError("--publish is for claims, and --quick makes none.")
        if self.redraw and self.resume:
            raise UserError("--redraw measures nothing, so there is nothing to --resume.")
        if self.redraw:
            self._write_page()
            return 0

        import torch

        from iclens.benchmarks.case import CASES, Context
        from iclens.benchmarks.ceilings import measure_ceilings
        from iclens.training.default_dtype import default_dtype
        from iclens.work.workers import torch_threads

        if self.list:
            for name in sorted(CASES):
                say(f"{name:<16} {self._time(CASES[name]):<14} {_description(CASES[name])}")
            return 0
        names = dict.fromkeys(self.cases) or sorted(CASES)
        chosen = {name: CASES[name] for name in names}
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda needs a GPU that this PyTorch can use.")
        make_folder(self.out)
        finished = {name: found for name in chosen if self.resume and (found := self._finished(name)) is not None}
        for name, one in finished.items():
            note(f"{name}: was measured {one['measured']}")
        good = all(one["good"] for one in finished.values())
        chosen = {name: case for name, case in chosen.items() if name not in finished}
        self._announce(chosen)
        with torch_threads(self.threads), default_dtype(torch.float32), torch.random.fork_rng(devices=[]):
            ceilings = measure_ceilings(
                self.device, repeats=2 if self.quick else 5, largest=512 if self.quick else 2048
            )
            rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in ceilings.operations.items())
            note(f"ceilings with {self.threads} threads: {rates}; {ceilings.bytes / 1e9:.1f} GB/s copied")
            context = Context(ceilings, self.pairs, self.threads, self.device, self.quick, self.long)
            for name, case in chosen.items():
                good &= self._case(name, case, context)
        self._write_page()
        return 0 if good else 1

    def _time(self, case: Case) -> str:
        from iclens.benchmarks.case import minutes

        about = minutes(case, long=self.long)
        return "time unknown" if about is None else f"about {about:g} min"

    def _announce(self, chosen: dict[str, Case]) -> None:
        from iclens.benchmarks.case import minutes

        if self.quick or self.device == "cuda":
            return
        for name, case in chosen.items():
            note(f"{name}: {self._time(case)}")
        if len(chosen) > 1:
            total = sum(minutes(case, long=self.long) or 0.0 for case in chosen.values())
            note(f"in all about {total:g} min with one thread and all peers, on a machine that does nothing else")

    def _finished(self, name: str) -> dict[str, Any] | None:
        """Return what the very command has measured before, with these versions on this machine."""
        from iclens.benchmarks.document import environment

        file = self.out / f"{name}.json"
        found = read_case(file) if file.exists() else None
        if found is None or found["command"] != self._command(name):
            return None
        now = environment(self.threads)
        same = all(found["environment"][part] == now[part] for part in ("machine", "versions"))
        return found if same else None

    def _case(self, name: str, case: Case, context: Context) -> bool:
        from iclens.benchmarks.case import ON_GPU, Absent
        from iclens.benchmarks.document import document, environment
        from iclens.benchmarks.measuring import run_case

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
        arguments += [*(["--quick"] if self.quick else []), *(["--long"] if self.long else [])]
        arguments += [*(["--device", "cuda"] if self.device == "cuda" else [])]
        return shlex.join(arguments)

    def _write_page(self) -> None:
        from iclens.benchmarks.page import page
        from iclens.benchmarks.plots import plots

        found = [read_case(file) for file in sorted(self.out.glob("*.json"))]
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
        if self.publish is not None:
            self._publish(documents, self.publish)

    def _publish(self, documents: Sequence[dict[str, Any]], folder: Path) -> None:
        """The JSON of every case and its plots, on light and on dark paper."""
        from iclens.benchmarks.plots import plots

        make_folder(folder)
        for one in documents:
            if one["quick"]:
                note(f"{one['case']} is not published: it was measured with --quick.")
                continue
            write_atomically(folder / f"{one['case']}.json", json.dumps(one, indent=1, allow_nan=False) + "\n")
            for file, content in plots(one).items():
                write_atomically(folder / file, content)
            for file, content in plots(one, "dark").items():
                write_atomically(folder / file.replace(".svg", "-dark.svg"), content)
            say(f"published: {folder / one['case']}.json")


def _description(case: Case) -> str:
    return (inspect.getdoc(case) or "").splitlines()[0]


def read_case(file: Path) -> dict[str, Any] | None:
    """Return the JSON of a case, None when the file is something else."""
    from iclens.work.sealed import is_whole

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        note(f"{file} is left out: it is not JSON.")
        return None
    if not isinstance(found, dict) or not {"case", "results", "ceilings"} <= set(found):
        return None
    if not is_whole(found):
        note(f"{file} is left out: it is damaged, or was changed after it was written; measure the case again.")
        return None
    return found


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
    from iclens.benchmarks import wording

    first, *others = one["rows"][0]
    rows = ((wording.cell(value) for value in row.values()) for row in one["rows"])
    return table(one["what"], {first: "left", **dict.fromkeys(others, "right")}, rows, title_justify="left")
