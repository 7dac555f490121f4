"""Start-up, in fresh processes: the import, `--help`, the first result of `explain`, and `iclens demo`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from iclens.benchmarks.case import CASES, Agreement, Comparison, Context, Entry, Side, Target, takes
from iclens.benchmarks.peers import missing

IMPORT = "import iclens"
HELP = "from iclens.cli.main import main; main(['--help'])"
EXPLAIN = """
from iclens.cli.main import main
raise SystemExit(main(["explain", "--model", "bundled"]))
"""
DEMO = """
import tempfile
from iclens.cli.main import main
with tempfile.TemporaryDirectory() as folder:
    raise SystemExit(main(["demo", "--out", folder]))
"""
FORWARD = """
from importlib.resources import as_file, files
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
with as_file(files("iclens.bundled")) as folder:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (folder / "prompt.txt").read_text(encoding="utf-8")
with torch.no_grad():
    logits = model(**tokenizer(text.rstrip(), return_tensors="pt", return_token_type_ids=False)).logits
print(tokenizer.decode(logits[0, -1].argmax()))
"""


@CASES.register("start-up")
@takes(minutes=3)
def start_up(context: Context) -> Iterator[Entry]:
    """The import, --help, the first result of explain, the demo: a bare torch or transformers, and TransformerLens."""
    environment = os.environ | {"OMP_NUM_THREADS": str(context.threads), "HF_HUB_OFFLINE": "1"}

    def in_a_process(code: str) -> Callable[[], str]:
        def call() -> str:
            command = [sys.executable, "-c", code]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

        return call

    def beside(what: str, ours: str, name: str, theirs: str, bound: float | None = None, most: int = 5) -> Comparison:
        first, second = in_a_process(ours), in_a_process(theirs)
        return Comparison(
            what,
            Side("iclens", first),
            Side(name, second),
            lambda: _agree(what, first(), second()),
            targets=() if bound is None or context.quick else (Target("seconds", bound, "at once, for a person"),),
            most_pairs=most,
            repeat=False,
            warm_up=False,
        )

    # torch is loaded when something of iclens is used, and not before.
    yield beside("import iclens", IMPORT, "import torch", "import torch", 1.0)
    if context.quick:
        return
    yield beside("import iclens", IMPORT, "import transformers", "import transformers")
    yield missing("transformer_lens") or beside(
        "import iclens", IMPORT, "import transformer_lens", "import transformer_lens"
    )
    yield beside("iclens --help", HELP, "an empty Python", "", 1.5)
    yield beside(
        "iclens explain, the bundled model and prompt",
        EXPLAIN,
        "loading and one forward by transformers",
        FORWARD,
        15.0,
    )
    yield beside("iclens demo", DEMO, "an empty Python", "", 60.0, 2)


def _agree(what: str, ours: str, theirs: str) -> Sequence[Agreement]:
    """Both ended well; what a process of transformers answers is in what `explain` prints."""
    if "explain" not in what:
        return [Agreement("both processes end well", 0.0, 0.0)]
    answer = theirs.strip()
    found = bool(answer) and answer in ours
    return [Agreement(f"the answer {answer!r} in what explain prints", 0.0 if found else 1.0, 0.0)]
