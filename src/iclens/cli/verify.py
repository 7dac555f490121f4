"""`iclens verify`: the theorems, checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from iclens.cli.output import note, say, show, table
from iclens.cli.subcommand import command
from iclens.work.whole_files import check_writable, write_atomically

if TYPE_CHECKING:
    from iclens.identities import Check

COLUMNS = {"statement": "left", "source": "left", "residual": "right", "tolerance": "right", "verdict": "left"}


@command("verify")
@dataclass(frozen=True)
class Verify:
    """Check every theorem and identity on random and extreme inputs, and on real weights where they are installed.

    Exit status 1 if one fails.

    Attributes:
        json: also write the table to this file.
        dtype: precision of the checks; some are stated for float64 only.
        device: where to compute, e.g. cpu or cuda.
        seed: seed of the random inputs.
        only: check just these, by name.
    """

    json: Path | None = None
    dtype: Literal["float64", "float32"] = "float64"
    device: str = "cpu"
    seed: int = 0
    only: tuple[str, ...] = ()

    def run(self) -> int:
        """Print the table and return the exit status."""
        checks = self.checks()
        show(table("Identities", COLUMNS, map(_row, checks), title_justify="left"))
        return self.conclude(checks)

    def checks(self, *, telling: bool = True) -> list[Check]:
        """Run every check, and say each verdict as it comes where `telling` asks for it."""
        import torch

        from iclens.identities import Setting, check_all

        if self.json is not None:
            check_writable(self.json)
        setting = Setting(getattr(torch, self.dtype), self.device, self.seed)
        checks = []
        for check in check_all(setting, self.only):
            if telling:
                note(f"{_verdict(check):<8} {check.identity.name}")
            checks.append(check)
        return checks

    def conclude(self, checks: list[Check]) -> int:
        """Write the file, say in a line how many hold, and return the exit status."""
        run = [check for check in checks if check.skipped is None]
        failed = [check for check in run if not check.holds]
        if self.json is not None:
            write_atomically(self.json, json.dumps(self._document(checks), indent=2, allow_nan=False))
        skipped = f", {len(checks) - len(run)} skipped" if len(run) < len(checks) else ""
        say(f"{len(run) - len(failed)} of {len(run)} hold in {self.dtype} on {self.device}{skipped}.")
        if failed:
            say("Failed: " + ", ".join(check.identity.name for check in failed))
        return 1 if failed or not run else 0

    def _document(self, checks: list[Check]) -> dict[str, Any]:
        import math

        return {
            "schema_version": 1,
            "dtype": self.dtype,
            "device": self.device,
            "seed": self.seed,
            "checks": [
                {
                    "name": check.identity.name,
                    "statement": check.identity.statement,
                    "source": check.identity.source,
                    "residual": check.residual if math.isfinite(check.residual) else None,
                    "tolerance": check.tolerance,
                    "verdict": _verdict(check),
                    "skipped": check.skipped,
                    "seconds": round(check.seconds, 4),
                }
                for check in checks
            ],
        }


def _verdict(check: Check) -> str:
    if check.skipped is not None:
        return "skipped"
    return "holds" if check.holds else "FAILS"


def _row(check: Check) -> tuple[str, ...]:
    entry, skipped = check.identity, check.skipped is not None
    residual = "–" if skipped else f"{check.residual:.1e}"
    style = "dim" if skipped else "green" if check.holds else "bold red"
    verdict = f"skipped: {check.skipped}" if skipped else _verdict(check)
    return entry.statement, entry.source, residual, f"{check.tolerance:.0e}", f"[{style}]{verdict}[/]"
