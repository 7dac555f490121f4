"""`iclens compare`: what differs between two explanations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from iclens.cli.output import console, say
from iclens.cli.subcommand import command
from iclens.work.whole_files import check_writable, write_atomically


@command("compare")
@dataclass(frozen=True)
class Compare:
    """Compare two explanations: of two prompts, two orders of a prompt, or two models.

    Both are files that `iclens explain --json` wrote. Sources are matched by their text: which moved, which are new or
    gone, whose effect changed, and what the answer has to do with it. Exit status 1 if a check of either does not hold.

    Attributes:
        a: the first explanation; changes are B less A.
        b: the second one.
        html: write both side by side to this file, as a page that opens anywhere.
        json: write the comparison to this file as data.
    """

    a: Positional[Path]
    b: Positional[Path]
    html: Path | None = None
    json: Path | None = None

    def run(self) -> int:
        """Compare, print the table, write the files, and return the exit status."""
        from iclens.lens import Explanation, compare
        from iclens.lens.differences import print_comparison

        wanted = [(kind, file) for kind, file in (("JSON", self.json), ("Page", self.html)) if file is not None]
        for _, file in wanted:
            check_writable(file)
        found = compare(Explanation.load(self.a), Explanation.load(self.b))
        # Both are made before either is written.
        made = [(kind, file, found.to_json() if kind == "JSON" else found.to_html()) for kind, file in wanted]
        print_comparison(found, console())
        for kind, file, content in made:
            write_atomically(file, content)
            say(f"{kind}: {file}")
        return 0 if found.exact else 1
