"""`iclens bench attribution`: which method finds the demonstrations that matter."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclens.cli.output import say, show
from iclens.cli.subcommand import command
from iclens.errors import UserError
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.intervals import Estimate
    from iclens.papers.attribution.measures import Results
    from iclens.papers.attribution.studies import Study
    from iclens.recipes.verdict import Verdict


@command("bench attribution")
@dataclass(frozen=True)
class BenchAttribution:
    """Compare ways to score demonstrations against a ground truth, with their cost.

    On prompts of the bundled learner it is known which demonstrations matter. Prints AUC, accuracy after deleting the
    top ones and after keeping only them, LDS, forward passes and seconds of every method, then the claims with their
    verdicts. The other studies show where the gradient step ends; some train small learners first (minutes), which are
    kept in --out. Exit status 1 if a claim does not hold in the study "bundled".

    Attributes:
        study: which prompts and which learner; "limits" runs all but "bundled" and "two-hops-trained".
        prompts: number of prompts.
        demonstrations: demonstrations a prompt, in the studies whose number is free.
        model: the learner of word prompts, "bundled" or a folder with the same vocabulary.
        methods: only these methods, by name.
        subsets: random subsets a prompt for LDS.
        seed: seed of the prompts, the methods and the subsets.
        out: folder for learners that a study trains; they are trained once.
        json: also write the table to this file.
    """

    study: Literal[
        "bundled", "redundant", "conflicting", "deep-8", "deep-12", "two-hops", "two-hops-trained", "limits"
    ] = "bundled"
    prompts: int = 500
    demonstrations: int = 12
    model: str = "bundled"
    methods: tuple[str, ...] = ()
    subsets: int = 32
    seed: int = 0
    out: Path = Path("iclens-out")
    json: Path | None = None

    def run(self) -> int:
        """Run the studies, print their tables and verdicts, and return the exit status."""
        if self.json is not None:
            check_writable(self.json)
        if self.prompts < 1:
            raise UserError(f"--prompts {self.prompts}: measure on at least 1.")
        if self.subsets < 2:
            raise UserError(f"--subsets {self.subsets}: a rank correlation needs at least 2.")

        from iclens.lens import ATTRIBUTIONS
        from iclens.papers.attribution.measures import check
        from iclens.papers.attribution.studies import STUDIES

        for method in self.methods:
            # An unknown name is refused before a learner is trained.
            _ = ATTRIBUTIONS[method]

        # The chains have no recipe yet that learns them: that study must not end the others.
        outside = ("bundled", "two-hops-trained")
        names = [name for name in STUDIES if name not in outside] if self.study == "limits" else [self.study]
        documents = []
        status = 0
        for name in names:
            study = STUDIES[name]
            results = self._measure(name, study)
            verdicts = check(results)
            show(_table(name, study, results))
            _say_verdicts(verdicts)
            documents.append(_document(name, study, results, verdicts))
            if name == "bundled" and not all(verdict.holds for verdict in verdicts):
                status = 1
        if self.json is not None:
            document = {"schema_version": 1, "seed": self.seed, "studies": documents}
            write_atomically(self.json, json.dumps(document, indent=1, allow_nan=False))
            say(f"JSON: {self.json}")
        return status

    def _measure(self, name: str, study: Study) -> Results:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from iclens.papers.attribution.measures import METHODS, run
        from iclens.papers.attribution.studies import Setting

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            setting = Setting(self.model, self.out, self.prompts, self.demonstrations, self.seed)
            training = progress.add_task(f"{name}: learner", total=None)
            lens_model, cases = study.make(
                setting, lambda done, total: progress.update(training, completed=done, total=total)
            )
            progress.remove_task(training)
            measuring = progress.add_task(f"{name}: prompts", total=len(cases))
            return run(
                lens_model,
                cases,
                methods=self.methods or METHODS,
                n_subsets=self.subsets,
                seed=self.seed,
                advance=lambda: progress.advance(measuring),
            )


def _table(name: str, study: Study, results: Results) -> Any:
    from rich.table import Table

    from iclens.papers.attribution.measures import TRUTH

    title = (
        f"{name}: {study.description} {results.n_cases} prompts; the model is right on {results.accuracy} of the "
        "whole ones. Means with half the width of their 95 % intervals."
    )
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("forward", "backward", "ms"):
        table.add_column(heading, justify="right")
    headings = {"auc": "AUC", "removed": "right, top removed", "kept": "right, only top", "lds": "LDS"}
    measures = list(results.methods[TRUTH].measures)
    for measure in measures:
        table.add_column(headings.get(measure, measure), justify="right")
    for method, row in results.methods.items():
        costs = (_number(row.forward_passes), _number(row.backward_passes), f"{1000 * row.seconds:.1f}")
        cells = ("", "", "") if method == TRUTH else costs
        table.add_row(method, *cells, *(_mean(row.of(measure)) for measure in measures))
    return table


def _mean(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ±{(estimate.high - estimate.low) / 2:.3f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def _say_verdicts(verdicts: tuple[Verdict, ...]) -> None:
    for verdict in verdicts:
        say(f"{'holds' if verdict.holds else 'DOES NOT HOLD':<14} {verdict.claim} ({verdict.numbers})")
    say("")


def _document(name: str, study: Study, results: Results, verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    def plain(estimate: Any) -> dict[str, float | int | None]:
        return {key: _finite(value) for key, value in asdict(estimate).items()}

    reference = results.methods.get("lasso")
    rows = []
    for method, row in results.methods.items():
        entry: dict[str, Any] = {
            "method": method,
            "forward_passes": row.forward_passes,
            "backward_passes": row.backward_passes,
            "seconds": row.seconds,
        }
        entry |= {measure: plain(row.of(measure)) for measure in row.measures}
        if reference is not None:
            entry["minus_lasso"] = {measure: plain(row.against(reference, measure)) for measure in row.measures}
        rows.append(entry)
    return {
        "study": name,
        "description": study.description,
        "n_prompts": results.n_cases,
        "n_subsets": results.n_subsets,
        "accuracy": plain(results.accuracy),
        "methods": rows,
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }


def _finite(value: float | int) -> float | int | None:
    return value if math.isfinite(value) else None
