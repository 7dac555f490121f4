"""Counting the forward passes of whatever runs: of the command, of the page's server, of a library."""

from __future__ import annotations

import asyncio
import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from iclens.benchmarks.few_shot import ANSWERS
from iclens.errors import UserError
from iclens.lens import LensModel

_OWN = ("eager", "sdpa")
"""Attention of the models themselves; a pass with another one is read by the lens."""

EXPLAIN = """
import json, sys
from iclens.benchmarks.pass_counts import counted
from iclens.cli.main import main
with counted(int(sys.argv[1])) as passes:
    status = main(["explain", *sys.argv[2:]])
print(json.dumps([passes.traced, passes.all]))
raise SystemExit(status)
"""
"""Arguments: the prompt's tokens, and those of `iclens explain`."""

EDIT = """
import json, sys
from iclens.benchmarks.pass_counts import counted, posted
from iclens.explorer.app import build_app
from iclens.lens import load
app = build_app(load(sys.argv[2]))
question = json.loads(sys.argv[3])
with counted(int(sys.argv[1])) as passes:
    for view in ("glance", "explain", "layers", "head"):
        posted(app, view, question)
print(json.dumps([passes.traced, passes.all]))
"""
"""Arguments: the prompt's tokens, the model's folder, the question of the page."""


@dataclass
class Passes:
    """The passes of a Llama that were counted.

    Attributes:
        n_tokens: of the whole prompt. A pass over a part of it, as over the query alone, counts its share, and a batch
            counts each of its prompts.
        shares: the share of every pass.
        read: whether the lens's own attention ran in it.
    """

    n_tokens: int
    shares: list[float] = field(default_factory=list)
    read: list[bool] = field(default_factory=list)

    @property
    def all(self) -> float:
        """All forward passes."""
        return math.fsum(self.shares)

    @property
    def traced(self) -> float:
        """Those over the whole prompt in which the lens's own attention ran."""
        return math.fsum(share for share, read in zip(self.shares, self.read, strict=True) if read and share >= 1)


@contextmanager
def counted(n_tokens: int) -> Iterator[Passes]:
    """Count the forward passes of every Llama of the process, copies in another type too, inside the `with` block.

    Args:
        n_tokens: of the whole prompt.
    """
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    passes = Passes(n_tokens)

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, LlamaDecoderLayer) and module.self_attn.layer_idx == 0:
            batch, length, _ = inputs[0].shape
            passes.shares.append(batch * length / n_tokens)
            passes.read.append(module.self_attn.config._attn_implementation not in _OWN)

    handle = register_module_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()


def posted(app: Any, view: str, question: Mapping[str, Any]) -> dict[str, Any]:
    """Ask an ASGI application for a view of the page, without a network.

    Raises:
        RuntimeError: the application refuses, with what it says.
    """
    body = json.dumps(question).encode()
    said: list[Mapping[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Mapping[str, Any]:
        if waiting:
            return waiting.pop()
        # Nobody hangs up.
        await asyncio.sleep(float("inf"))
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        said.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": f"/api/{view}", "headers": headers, "query_string": b""}
    asyncio.run(app(scope, receive, send))
    text = b"".join(message.get("body", b"") for message in said).decode()
    if said[0]["status"] != 200:
        raise RuntimeError(f"{view}: {text}")
    found: dict[str, Any] = json.loads(text)
    return found


def counts(lens_model: LensModel, prompt: str) -> dict[str, tuple[float, float]]:
    """Count the traced and all passes of an edit in the page, of `iclens explain`, and of the same with a saved page.

    Args:
        lens_model: a Llama of a class that transformers knows, with its tokenizer.
        prompt: demonstrations and a query whose answers are `ANSWERS`.

    Raises:
        UserError: the command or the page fails, with the end of what it said.
    """
    n = str(len(lens_model.tokenizer(prompt)["input_ids"]))
    with tempfile.TemporaryDirectory(prefix="iclens-passes-") as place:
        folder, file = Path(place) / "model", Path(place) / "prompt.txt"
        # A bar would show that the weights are written.
        with redirect_stderr(io.StringIO()):
            lens_model.model.save_pretrained(folder)
        lens_model.tokenizer.save_pretrained(folder)
        file.write_text(prompt, encoding="utf-8")
        question = {"text": prompt, "answers": list(ANSWERS), "layer": 0, "head": 0}
        explain = ("--model", str(folder), "--prompt", str(file), "--answers", *ANSWERS)
        return {
            "edit": _in_a_process(EDIT, n, str(folder), json.dumps(question)),
            "explain": _in_a_process(EXPLAIN, n, *explain),
            "page": _in_a_process(EXPLAIN, n, *explain, "--html", str(Path(place) / "page.html")),
        }


def _in_a_process(code: str, *arguments: str) -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the forward passes could not be counted: {last}")
    traced, every = json.loads(done.stdout.splitlines()[-1])
    return traced, every
