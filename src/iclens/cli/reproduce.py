"""`iclens reproduce`: papers, claim by claim, as a gallery."""

from __future__ import annotations

import json
import shlex
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tyro.conf import Positional

from iclens.cli.output import note, say, show, table
from iclens.cli.subcommand import command
from iclens.cli.where import refuse_torchrun
from iclens.errors import UserError
from iclens.work.whole_files import make_folder, write_atomically

if TYPE_CHECKING:
    from iclens.recipes.contract import Recipe
    from iclens.recipes.reproduce import Order, Outcome
    from iclens.recipes.reproduction import Reproduction
    from iclens.recipes.table import Table
    from iclens.report.gallery import Entry


@command("reproduce")
@dataclass(frozen=True)
class Reproduce:
    """Reproduce figures and theorems of papers: measure, compare with the claims, draw, and write a gallery.

    Writes OUT/index.html and, for every recipe, OUT/ID/ with its page, table, picture and verdicts. Exit status 0 when
    all of them ran, whatever their verdicts: a claim that does not hold is a result.

    Attributes:
        ids: which recipes; --list shows them. After a single one, NAME=VALUE overrides a setting of the preset, e.g.
            n_seeds=3 or tasks=cola; the page of the recipe lists its settings.
        all: every recipe.
        preset: quick takes up to 2 minutes a recipe, paper uses the settings of the paper; some recipes have more.
        out: the folder of the gallery; files of other recipes stay there.
        resume: continue an interrupted run of the same settings, and skip what is finished.
        redraw: compute nothing; judge and draw again from the tables in the folder.
        publish: another folder, for a site: pages, vector pictures and verdicts of all that lies in OUT go there, the
            tables do not.
        jobs: processes that measure side by side, each with one thread; the number of cores when left out. The numbers
            do not depend on it.
        dry_run: say what it would cost and what is finished already, and stop.
        list: show the recipes with their times and stop.
    """

    overrides: ClassVar = "ids"

    ids: Positional[tuple[str, ...]] = ()
    all: bool = False
    preset: str = "quick"
    out: Path = Path("iclens-out/gallery")
    resume: bool = False
    redraw: bool = False
    publish: Path | None = None
    jobs: int | None = None
    dry_run: bool = False
    list: bool = False

    def run(self) -> int:
        """Run the recipes, write the pages, and return the exit status."""
        refuse_torchrun("reproduce")
        from iclens.recipes.contract import RECIPES
        from iclens.work.workers import usable_cores

        if self.list:
            show(_recipes())
            return 0
        overrides = [word for word in self.ids if "=" in word]
        ids = [word for word in self.ids if "=" not in word]
        if ids and self.all:
            raise UserError("give the ids of recipes or --all, not both.")
        if overrides and (self.redraw or len(set(ids)) != 1):
            raise UserError(f"{overrides[0]!r} overrides a setting: give the id of one recipe, without --redraw.")
        if self.resume and self.redraw:
            raise UserError("--redraw computes nothing, so there is nothing to --resume.")
        names = sorted(RECIPES) if self.all else list(dict.fromkeys(ids))
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
        orders = self._orders(chosen, overrides)
        if self.dry_run:
            return self._say_costs(orders)
        make_folder(self.out)
        jobs = self.jobs or usable_cores()
        self._announce(orders, jobs)
        failed = 0
        # Closed at once on Ctrl-C or an error, so that no process is left behind.
        with closing(self._outcomes(orders, jobs)) as outcomes:
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

    def _orders(self, chosen: Sequence[Recipe[Any]], overrides: Sequence[str]) -> list[Order]:
        from iclens.recipes.reproduce import Order
        from iclens.recipes.settings import overridden

        orders = []
        for recipe in chosen:
            if self.preset not in recipe.presets:
                raise UserError(f"{recipe.id} has no preset {self.preset!r}; it has {', '.join(recipe.presets)}.")
            settings = overridden(recipe.presets[self.preset].settings, overrides) if overrides else None
            words = ["iclens", "reproduce", recipe.id, *overrides, "--preset", self.preset, "--out", str(self.out)]
            orders.append(Order(recipe, self.preset, self.out / recipe.id, shlex.join(words), settings))
        return orders

    def _announce(self, orders: Sequence[Order], jobs: int) -> None:
        from iclens.work.progress import duration

        for order in orders:
            gpu = f", on a GPU: {order.needs_gpu}" if order.needs_gpu else ""
            note(f"{order.recipe.id}: about {duration(order.seconds)}{gpu}")
        if len(orders) > 1:
            here = sum(order.seconds for order in orders if not order.needs_gpu)
            rest = "; what needs a GPU comes on top" if any(order.needs_gpu for order in orders) else ""
            note(f"in all about {duration(here)} of one core, in up to {jobs} processes{rest}")

    def _say_costs(self, orders: Sequence[Order]) -> int:
        from iclens.recipes.reproduce import cost
        from iclens.work.progress import duration

        for order in orders:
            price = cost(order)
            say(
                f"{order.recipe.id}: {price.n_parts} parts, {price.n_finished} finished before, "
                f"{price.n_parts - price.n_finished} to do: about {duration(price.seconds)} of one core"
                + (f", on a GPU: {order.needs_gpu}" if order.needs_gpu else "")
            )
            if lacking := order.recipe.lacking(order.chosen):
                say(f"  {lacking}")
        return 0

    def _outcomes(self, orders: Sequence[Order], jobs: int) -> Generator[Outcome, None, None]:
        from iclens.recipes.reproduce import reproduce_all
        from iclens.work.progress import bar

        for order in orders:
            make_folder(order.folder)
        with bar([1000], "") as shown:

            def watch(share: float, message: str) -> None:
                shown(0, round(1000 * share), message)

            try:
                with closing(reproduce_all(orders, resume=self.resume, jobs=jobs, watch=watch)) as outcomes:
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
        """Return the ids of what lies in the folder; a mistake when there is none."""
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
        for title, summary in ({} if made.not_run else made.recipe.summaries(made.table, made.settings)).items():
            show(_summary(title, summary))

    def _index(self, publish: Path | None) -> None:
        """The gallery of all that lies in the folder, and a copy without tables if it is wanted."""
        from importlib.metadata import version

        from iclens.recipes.contract import RECIPES
        from iclens.recipes.reproduction import stored
        from iclens.report.gallery import published, render_index

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
        # What was published before from elsewhere stays in the index.
        galleries = {self.out: entries} | ({} if publish is None else {publish: published(publish)})
        for folder, listed in galleries.items():
            page = folder / "index.html"
            write_atomically(page, render_index(listed, version("iclens")))
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
    from iclens.report.gallery import Entry

    return Entry(
        id=made.recipe.id,
        title=made.recipe.title,
        reference=made.recipe.reference,
        description=made.recipe.description,
        preset=made.preset,
        verdicts=verdict_documents(made.verdicts()),
        settings=[asdict(row) for row in setting_rows(made.settings)],
        command=made.command,
        seconds=made.seconds,
        finished=made.finished,
        machine=made.machine,
        n_rows=len(made.table),
        picture=not made.not_run,
    )


def _summary(title: str, summary: Table) -> Any:
    columns = summary.to_columns()
    texts = {name: any(isinstance(cell, str) for cell in cells) for name, cells in columns.items()}
    rows = (
        ["" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row]
        for row in zip(*columns.values(), strict=True)
    )
    return table(title, {name: "left" if texts[name] else "right" for name in texts}, rows, title_justify="left")


def _recipes() -> Any:
    from iclens.recipes.contract import RECIPES
    from iclens.work.progress import duration

    def cells(recipe: Recipe[Any]) -> list[str]:
        presets = (recipe.quick, recipe.paper)
        times = [duration(preset.seconds) + (" (GPU)" if preset.needs_gpu else "") for preset in presets]
        return [recipe.id, recipe.title, recipe.reference, *times]

    headings = {"id": "left", "what": "left", "reference": "left", "quick": "right", "paper": "right"}
    return table("Recipes", headings, (cells(RECIPES[name]) for name in sorted(RECIPES)), title_justify="left")
