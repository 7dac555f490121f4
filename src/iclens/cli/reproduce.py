"""`iclens reproduce`: papers, claim by claim, as a gallery."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from iclens.cli.output import note, say, show
from iclens.cli.subcommand import command
from iclens.cli.where import refuse_torchrun
from iclens.errors import UserError
from iclens.work.whole_files import make_folder, write_atomically

if TYPE_CHECKING:
    from iclens.recipes.contract import Recipe
    from iclens.recipes.reproduce import Outcome
    from iclens.recipes.reproduction import Reproduction
    from iclens.report.gallery import Entry


@command("reproduce")
@dataclass(frozen=True)
class Reproduce:
    """Reproduce figures and theorems of papers: measure, compare with the claims, draw, and write a gallery.

    Writes OUT/index.html and, for every recipe, OUT/ID/ with its page, table, picture and verdicts. Exit status 0 when
    all of them ran, whatever their verdicts: a claim that does not hold is a result.

    Attributes:
        ids: which recipes; --list shows them.
        all: every recipe.
        preset: quick takes up to 2 minutes a recipe, paper uses the settings of the paper.
        out: the folder of the gallery; what other recipes left there stays.
        resume: go on where an interrupted run of the same settings stopped, and skip what is finished.
        redraw: compute nothing; judge and draw once more from the tables in the folder.
        publish: another folder, for a site: pages, vector pictures and verdicts of all that lies in OUT go there, the
            tables do not.
        jobs: processes that measure side by side, each with one thread; the number of cores when left out. The numbers
            do not depend on it.
        list: show the recipes with their times and stop.
    """

    ids: Positional[tuple[str, ...]] = ()
    all: bool = False
    preset: Literal["quick", "paper"] = "quick"
    out: Path = Path("iclens-out/gallery")
    resume: bool = False
    redraw: bool = False
    publish: Path | None = None
    jobs: int | None = None
    list: bool = False

    def run(self) -> int:
        """Run the recipes, write the pages, and return the exit status."""
        refuse_torchrun("reproduce")
        from iclens.recipes.contract import RECIPES
        from iclens.work.workers import usable_cores

        if self.list:
            show(_recipes())
            return 0
        if self.ids and self.all:
            raise UserError("give the ids of recipes or --all, not both.")
        if self.resume and self.redraw:
            raise UserError("--redraw computes nothing, so there is nothing to --resume.")
        names = sorted(RECIPES) if self.all else list(dict.fromkeys(self.ids))
        if not names and not self.redraw and self.publish is not None:
            self._finished("publish")
            self._index(self.publish)
            return 0
        if not names and not self.redraw:
            raise UserError("say which recipes to run, or --all; `iclens reproduce --list` shows them.")
        # An unknown name is refused before minutes of work.
        chosen = [RECIPES[name] for name in names]
        if self.redraw:
            return self._redraw(names)
        if self.jobs is not None and self.jobs < 1:
            raise UserError(f"--jobs is a number of processes, 1 or more, not {self.jobs}.")
        make_folder(self.out)
        jobs = self.jobs or usable_cores()
        self._announce(chosen, jobs)
        failed = 0
        # Closed at once on Ctrl-C or an error, so that no process is left behind.
        with closing(self._outcomes(chosen, jobs)) as outcomes:
            for outcome in outcomes:
                if outcome.made is not None:
                    self._write(outcome.made)
                elif len(chosen) == 1 and outcome.error is not None:
                    raise outcome.error
                else:
                    note(f"error: {outcome.order.recipe.id}: {outcome.error}")
                    failed += 1
        self._index(self.publish)
        return 1 if failed else 0

    def _announce(self, chosen: Sequence[Recipe[Any]], jobs: int) -> None:
        from iclens.work.progress import duration

        presets = [recipe.presets[self.preset] for recipe in chosen]
        for recipe, preset in zip(chosen, presets, strict=True):
            gpu = f", on a GPU: {preset.needs_gpu}" if preset.needs_gpu else ""
            note(f"{recipe.id}: about {duration(preset.seconds)}{gpu}")
        if len(chosen) > 1:
            here = sum(preset.seconds for preset in presets if not preset.needs_gpu)
            rest = "; what needs a GPU comes on top" if any(preset.needs_gpu for preset in presets) else ""
            note(f"in all about {duration(here)} of one core, in up to {jobs} processes{rest}")

    def _outcomes(self, chosen: Sequence[Recipe[Any]], jobs: int) -> Generator[Outcome, None, None]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        from iclens.recipes.reproduce import Order, reproduce_all

        orders = []
        for recipe in chosen:
            arguments = ["iclens", "reproduce", recipe.id, "--preset", self.preset, "--out", str(self.out)]
            orders.append(Order(recipe, self.preset, self.out / recipe.id, shlex.join(arguments)))
            make_folder(orders[-1].folder)
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
        # What is printed meanwhile may be on its way to a file.
        shown = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),
        )
        with shown as bar:
            task = bar.add_task("", total=1.0)

            def watch(share: float, message: str) -> None:
                bar.update(task, completed=share, description=message)

            try:
                with closing(
                    reproduce_all(orders, write_atomically, resume=self.resume, jobs=jobs, watch=watch)
                ) as outcomes:
                    yield from outcomes
            except KeyboardInterrupt:
                note("not finished; the finished parts are kept: add --resume to go on.")
                raise

    def _redraw(self, names: Sequence[str]) -> int:
        from iclens.recipes.reproduction import stored

        for name in names or self._finished("draw"):
            kept = stored(self.out / name)
            if kept is None:
                raise UserError(f"{self.out / name} holds no finished recipe: run it first.")
            self._write(kept)
        self._index(self.publish)
        return 0

    def _finished(self, purpose: str) -> Sequence[str]:
        """The ids of what lies in the folder; a mistake when there is none."""
        from iclens.recipes.reproduction import TABLE

        found = sorted(file.parent.name for file in self.out.glob(f"*/{TABLE}"))
        if not found:
            raise UserError(f"nothing to {purpose}: {self.out} holds no finished recipe.")
        return found

    def _write(self, made: Reproduction) -> None:
        """Everything of one recipe but `table.json`, which is written already."""
        from iclens.recipes.reproduction import verdict_documents
        from iclens.report.gallery import render_entry
        from iclens.work.progress import duration

        folder = self.out / made.recipe.id
        verdicts = made.verdicts()
        write_atomically(folder / "table.csv", made.table.to_csv())
        write_atomically(
            folder / "verdicts.json", json.dumps(verdict_documents(verdicts), indent=1, ensure_ascii=False) + "\n"
        )
        if not made.not_run:
            write_atomically(folder / "figure.png", made.picture("png"))
            write_atomically(folder / "figure.svg", made.picture("svg"))
            write_atomically(folder / "figure-dark.svg", made.picture("svg", "dark"))
        write_atomically(folder / "index.html", render_entry(_entry(made)))
        say(f"{made.recipe.id} ({made.preset}, {duration(made.seconds)}): {made.recipe.title}")
        for verdict in verdicts:
            outcome = verdict.outcome + (f" {verdict.condition}" if verdict.condition else "")
            say(f"  {outcome}: {verdict.claim} ({verdict.untested or verdict.numbers})")

    def _index(self, publish: Path | None) -> None:
        """The gallery of all that lies in the folder, and a copy without tables if it is wanted."""
        from importlib.metadata import version

        from iclens.recipes.contract import RECIPES
        from iclens.recipes.reproduction import stored
        from iclens.report.gallery import render_index

        entries = []
        for name in self._finished("show"):
            if name not in RECIPES:
                note(f"{self.out / name} is left out of the index: no recipe has that name.")
                continue
            try:
                kept = stored(self.out / name)
            except UserError as error:
                note(f"{self.out / name} is left out of the index: {error}")
                continue
            if kept is not None:
                entries.append(_entry(kept))
                if publish is not None:
                    self._publish(kept, publish)
        for folder in (self.out, *([publish] if publish is not None else [])):
            page = folder / "index.html"
            write_atomically(page, render_index(entries, version("iclens")))
            say(f"Gallery: {page.resolve()}")

    def _publish(self, made: Reproduction, publish: Path) -> None:
        from iclens.report.gallery import RECORD, render_entry

        folder = publish / made.recipe.id
        make_folder(folder)
        write_atomically(folder / RECORD, json.dumps(made.record(), indent=1))
        for file in ("verdicts.json", *([] if made.not_run else ["figure.svg", "figure-dark.svg"])):
            write_atomically(folder / file, (self.out / made.recipe.id / file).read_bytes())
        write_atomically(folder / "index.html", render_entry(replace(_entry(made), data=False)))


def _entry(made: Reproduction) -> Entry:
    from iclens.recipes.reproduction import verdict_documents
    from iclens.recipes.settings import setting_rows
    from iclens.report.gallery import Entry, SettingLine

    return Entry(
        id=made.recipe.id,
        title=made.recipe.title,
        reference=made.recipe.reference,
        description=made.recipe.description,
        preset=made.preset,
        verdicts=verdict_documents(made.verdicts()),
        settings=[SettingLine(**asdict(row)) for row in setting_rows(made.settings)],
        command=made.command,
        seconds=made.seconds,
        finished=made.finished,
        machine=made.machine,
        n_rows=len(made.table),
        picture=not made.not_run,
    )


def _recipes() -> Any:
    from rich.table import Table

    from iclens.recipes.contract import RECIPES
    from iclens.work.progress import duration

    table = Table(title="Recipes", title_justify="left")
    for heading in ("id", "what", "reference"):
        table.add_column(heading, overflow="fold")
    for heading in ("quick", "paper"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in sorted(RECIPES):
        recipe = RECIPES[name]
        times = [
            duration(preset.seconds) + (" (GPU)" if preset.needs_gpu else "") for preset in recipe.presets.values()
        ]
        table.add_row(name, recipe.title, recipe.reference, *times)
    return table
