"""`iclens demo`: the whole road once, on what is shipped with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iclens.cli.output import say
from iclens.cli.subcommand import command
from iclens.work.whole_files import make_folder


@command("demo")
@dataclass(frozen=True)
class Demo:
    """Verify the theorems, explain a bundled prompt with a bundled model, write a report.

    Needs no network. Exit status 1 if a theorem or a residual fails.

    Attributes:
        out: the folder for the report; created if missing.
    """

    out: Path = Path("iclens-out")

    def run(self) -> int:
        """Run the other commands and say where their files are."""
        from iclens.cli.explain import Explain
        from iclens.cli.verify import Verify

        make_folder(self.out)
        page, data, table = self.out / "explain.html", self.out / "explain.json", self.out / "verify.json"
        say("1. The theorems, on random and extreme inputs (iclens verify)\n")
        verified = Verify(json=table).run()
        say("\n2. A few-shot prompt and a language model that fits in this package (iclens explain)\n")
        explained = Explain(model="bundled", html=page, json=data).run()
        say(f"\nThe report: {page.resolve()} (open it in a browser; it needs no network)")
        say(f"The numbers: {data.resolve()} and {table.resolve()}\n")
        say("In a clone, `source .venv/bin/activate` puts iclens on your path.\n")
        say("What to try next:")
        say("  iclens explain --model bundled --prompt my-prompt.txt   a prompt of your own")
        say("  iclens explain --model FOLDER --prompt my-prompt.txt    a language model of your own")
        say("  iclens explain --help                                   every option")
        return max(verified, explained)
