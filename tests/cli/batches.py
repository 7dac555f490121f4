"""Files of prompts, `iclens explain --batch` on them, and a computation that ends early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from iclens import bundled
from iclens.cli.main import main
from iclens.lens.many import work

PAIRS = [("cat", "vux"), ("apple", "nef"), ("dog", "vux"), ("plum", "nef"), ("hammer", "zup"), ("peru", "koba")]


def text(n: int, query: str = "horse") -> str:
    return "\n\n".join([*(f"{given} is {output} ." for given, output in PAIRS[:n]), f"{query} is"])


def prompts(n: int) -> list[dict[str, Any]]:
    """Of two to six demonstrations, half of them with candidates."""
    return [
        {"id": f"p{i}", "prompt": text(2 + i % 5, ["horse", "pear", "saw"][i % 3])}
        | ({"answers": ["vux", "nef"]} if i % 2 else {})
        for i in range(n)
    ]


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def batch(folder: Path, lines: Sequence[Any], *options: str, out: str = "o.parquet") -> int:
    """Explains them in this process, unless the options say where else."""
    file = write(folder / "p.jsonl", lines)
    here = [] if "--on" in options else ["--workers", "1"]
    command = ["explain", "--batch", str(file), "--out", str(folder / out), "--batch-tokens", "60"]
    return main([*command, *here, *options])


def rows(folder: Path, out: str = "o.parquet") -> list[dict[str, Any]]:
    return pq.read_table(folder / out).to_pylist()


def inexact_model(folder: Path) -> str:
    """A copy of the bundled model whose first layer adds a large constant to all keys.

    No attention weight changes, but the scores lose their digits: differently in the model's own kernel and in ours.
    """
    copied = shutil.copytree(bundled.path(), folder / "inexact")
    weights = load_file(copied / "model.safetensors")
    weights["transformer.h.0.attn.c_attn.bias"].view(3, -1)[1] += 1e5
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    return str(copied)


def interrupted_after(n: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> Callable[[], int]:
    """Has the computation end before batch n, and says how many batches were computed in all."""
    right, done = work.explain_part, 0

    def explain_part(*arguments: Any) -> Any:
        nonlocal done
        if done == n:
            raise error
        done += 1
        return right(*arguments)

    monkeypatch.setattr(work, "explain_part", explain_part)
    return lambda: done
