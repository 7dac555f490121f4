"""Every file that iclens reads: how a sound one is made, and what is read from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tests.recipes.coin import Coin
from tests.sweeps.small_runs import add
from tests.training.tiny_runs import tiny

from iclens import bundled
from iclens.cli import bench
from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.lens import Explanation, Prompt, compare, explain
from iclens.lens.model.loading import load
from iclens.lens.prompt import read_prompt
from iclens.lens.prompt.document_files import read_documents
from iclens.papers.ren_liu_2024.table_1 import glue, glue_files
from iclens.recipes import reproduction
from iclens.recipes.contract import RECIPES
from iclens.recipes.parts import PartStore
from iclens.recipes.table import Table
from iclens.selection.examples import read_examples
from iclens.sweeps.grid import expand
from iclens.sweeps.store import Store
from iclens.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from iclens.training.config import RunConfig
from iclens.training.config_file import read_config, toml_text
from iclens.work.parts import Parts
from iclens.work.sealed import sealed


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        file: its path below the folder.
        make: writes a sound one and what belongs to it into a folder.
        read: what is read from the folder: values by name. A name that is missing is a part that was found damaged.
        sealed: whether we write it with a checksum, so that whatever is read is what was written. Of the others, which
            people write by hand or other programs make, any content that is sound in itself is as good.
        slow: one reading takes a second.
    """

    file: str
    make: Callable[[Path], None]
    read: Callable[[Path], dict[str, Any]]
    sealed: bool
    slow: bool = False


def _written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8") and None


def _config(name: str, folder: Path) -> dict[str, Any]:
    data = read_config(folder / name)
    if "sweep" in data:
        return {"configs": [one.to_dict() for one in expand(data)]}
    config = RunConfig.from_dict(data)
    config.check()
    return {"config": config.to_dict()}


def _prompt(name: str, folder: Path) -> dict[str, Any]:
    return {"prompt": read_prompt(folder / name)}


DOCUMENTS = [{"id": "a", "text": "Jo owns a cat."}, {"text": "Al owns a dog."}]
PAIRS = [{"input": "the cat", "output": "animal"}, {"input": "red", "output": "colour"}, {"input": "a dog"}]
OBJECT = {"demonstrations": PAIRS[:2], "query": "a dog", "instruction": "Sort."}


def _store(folder: Path) -> None:
    store = Store(folder / "s")
    for seed in (0, 1, 2):
        add(store, seed)


def _read_store(folder: Path) -> dict[str, Any]:
    store = Store(folder / "s", create=False)
    found: dict[str, Any] = {}
    for row in store.rows():
        found[f"row {row.key}"] = repr((row.config, row.result))
        run = store.load(row.key)
        try:
            tensors = {name: value.numpy().tobytes() for name, value in sorted(run.tensors().items())}
            found[f"run {row.key}"] = repr((run.config, run.result, tensors, run.metrics()))
        except UserError:
            continue  # it is said to be damaged when it is asked for
    # Whatever was found, a store can be put right, and is sound then.
    store.verify(repair=True)
    assert [one for one in Store(folder / "s").verify() if one.kind not in ("foreign", "leftover")] == []
    return found


def _checkpoint(folder: Path) -> None:
    state = {"step": torch.tensor(7), "w": torch.arange(6, dtype=torch.float64).view(2, 3)}
    rows = [[(3, "loss", None, 0.125), (7, "error", 2, 1.5)]]
    write_checkpoint(folder / "c.safetensors", ["0123456789abcdef"], Checkpoint(state, rows, 2.5))


def _read_checkpoint(folder: Path) -> dict[str, Any]:
    found = read_checkpoint(folder / "c.safetensors", ["0123456789abcdef"])
    if found is None:
        return {}
    return {"checkpoint": ({name: value.tolist() for name, value in found.state.items()}, found.metrics, found.seconds)}


def _parts(folder: Path) -> PartStore:
    return PartStore(folder, "key")


def _part(folder: Path) -> None:
    _parts(folder).save({"seed": 3}, Table([{"at": 1, "value": 0.1}, {"at": 2, "word": "x"}]), 1.25)
    next(folder.glob("*.part")).rename(folder / "part.json")


def _read_part(folder: Path) -> dict[str, Any]:
    with TemporaryDirectory() as other:
        _parts(Path(other)).save({"seed": 3}, Table(), 0.0)
        (name,) = (path.name for path in Path(other).glob("*.part"))
    (folder / "part.json").rename(folder / name)
    found = _parts(folder).load({"seed": 3})
    return {} if found is None else {"part": (found[0].to_columns(), found[1])}


def _table(folder: Path) -> None:
    from tests.recipes.one_recipe import reproduce

    reproduce(Coin(), "quick", folder)


def _read_table(folder: Path) -> dict[str, Any]:
    with RECIPES.restored():
        RECIPES.register("coin")(Coin())
        kept = reproduction.stored(folder)
    return {} if kept is None else {"table": kept.document()}


MEASURED = {
    "schema_version": 1, "case": "sums", "description": "d", "command": "c", "measured": "2026-01-01", "quick": True,
    "pairs": 2, "threads": 1, "device": "cpu", "environment": {"load": 0.5}, "ceilings": {"bytes": 1.5e9},
    "good": True, "seconds": 1.5, "results": [{"kind": "absent", "peer": "p", "reason": "r"}],
}  # fmt: skip


def _read_bench(folder: Path) -> dict[str, Any]:
    found = bench.read_case(folder / "sums.json")
    return {} if found is None else {"case": found}


def _read_glue(part: str, folder: Path) -> dict[str, Any]:
    task = glue.TASKS["rte"] if isinstance(glue.TASKS, dict) else next(one for one in glue.TASKS if one.name == "rte")
    found = glue_files.from_folder(task, folder)
    return {"rows": list(glue_files.examples_of(task, found[part], "here"))}


ROWS = [{"sentence1": "A b.", "sentence2": "C d.", "label": 1}, {"sentence1": "E.", "sentence2": "F.", "label": 0}]


def _glue_lines(folder: Path) -> None:
    (folder / "rte").mkdir()
    (folder / "rte" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def _glue_own(folder: Path) -> None:
    (folder / "RTE").mkdir()
    classes = ("entailment", "not_entailment")
    lines = [
        f"{place}\t{row['sentence1']}\t{row['sentence2']}\t{classes[int(row['label'])]}"
        for place, row in enumerate(ROWS)
    ]
    text = "\n".join(["index\tsentence1\tsentence2\tlabel", *lines, ""])
    (folder / "RTE" / "train.tsv").write_text(text, encoding="utf-8")


def _glue_table(folder: Path) -> None:
    (folder / "rte").mkdir()
    lines = ["sentence1,sentence2,label", *(f"{row['sentence1']},{row['sentence2']},{row['label']}" for row in ROWS)]
    (folder / "rte" / "train.csv").write_text("\n".join(lines) + "\n")


def _model(folder: Path) -> None:
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in names:
        shutil.copy(bundled.path() / name, folder / name)


def _read_model(folder: Path) -> dict[str, Any]:
    return {"model": load(str(folder)).n_layers}


def _gguf(folder: Path) -> None:
    from tests.lens.model.tiny_gguf import tiny as tiny_model
    from tests.lens.model.tiny_gguf import write

    write(folder / "tiny.gguf", tiny_model())


def _read_gguf(folder: Path) -> dict[str, Any]:
    return {"model": load(str(folder / "tiny.gguf")).n_layers}


def _saved(folder: Path) -> None:
    explain("bundled", Prompt.from_text("cat is vux .\n\ndog is nef .\n\ncat is")).save(folder / "saved.json")


def _read_saved(folder: Path) -> dict[str, Any]:
    found = Explanation.load(folder / "saved.json")
    # What was read is printed, compared and drawn as if it were sound.
    found.save(folder / "page.html")
    return {"printed": str(found), "compared": compare(found, found).to_json()}


def _kept(folder: Path) -> None:
    Parts(folder).write("finished", b"[1.5, 2]")


def _read_kept(folder: Path) -> dict[str, Any]:
    found = Parts(folder).read("finished")
    return {} if found is None else {"numbers": found}


def _shards(folder: Path) -> None:
    _model(folder)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "part.safetensors", "pt") as file:
        names = list(file.keys())
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_question(folder: Path) -> dict[str, Any]:
    """A question as the explorer's page asks it: read from the body of a request there."""
    try:
        document = json.loads((folder / "ask.json").read_bytes())
    except (ValueError, RecursionError, OSError):
        return {}  # the server's own answer, see tests/explorer
    return {"ask": Ask.read(document)}


QUESTION = {"demonstrations": ["a is b", "c is d"], "query": "e is", "answers": ["b", "d"], "off": [1]}
SWEPT = toml_text(tiny().to_dict()) + '\n[sweep]\n"training.learning_rate" = [1e-2, 2e-2]\nseed = {range = 2}\n'
RUN_FILES = ("checksums.json", "config.json", "result.json", "model.safetensors", "metrics.parquet")


def _first_run(name: str, folder: Path) -> None:
    """The file of the first run under a name that does not depend on its key."""
    _store(folder)
    run = min((folder / "s" / "runs").iterdir())
    (run / name).rename(folder / name)
    (folder / "home").write_text(str(run.relative_to(folder) / name))


def _put_back(name: str, folder: Path) -> dict[str, Any]:
    (folder / name).rename(folder / (folder / "home").read_text())
    return _read_store(folder)


FORMATS: dict[str, Format] = {
    "configuration, TOML": Format(
        "c.toml", _written("c.toml", toml_text(tiny().to_dict())), partial(_config, "c.toml"), False
    ),
    "configuration, JSON": Format(
        "c.json", _written("c.json", json.dumps(tiny().to_dict(), default=dict)), partial(_config, "c.json"), False
    ),
    "sweep, TOML": Format("s.toml", _written("s.toml", SWEPT), partial(_config, "s.toml"), False),
    "prompt, text": Format(
        "p.txt", _written("p.txt", "cat is animal\n\nred is colour\n\ndog is\n"), partial(_prompt, "p.txt"), False
    ),
    "prompt, JSON": Format("p.json", _written("p.json", json.dumps(OBJECT)), partial(_prompt, "p.json"), False),
    "prompt, JSONL": Format(
        "p.jsonl", _written("p.jsonl", "\n".join(map(json.dumps, PAIRS))), partial(_prompt, "p.jsonl"), False
    ),
    **{
        f"store, {name}": Format(name, partial(_first_run, name), partial(_put_back, name), True)
        for name in RUN_FILES
    },
    "store, index.sqlite": Format("s/index.sqlite", _store, _read_store, True),
    "checkpoint": Format("c.safetensors", _checkpoint, _read_checkpoint, True),
    "part of a recipe": Format("part.json", _part, _read_part, True),
    "table of a recipe": Format("table.json", _table, _read_table, True),
    "measured case": Format("sums.json", _written("sums.json", json.dumps(sealed(MEASURED))), _read_bench, True),
    "data, JSONL": Format("rte/train.jsonl", _glue_lines, partial(_read_glue, "train"), False),
    "data, GLUE's own": Format("RTE/train.tsv", _glue_own, partial(_read_glue, "train"), False),
    "data, CSV": Format("rte/train.csv", _glue_table, partial(_read_glue, "train"), False),
    "documents, JSONL": Format(
        "d.jsonl", _written("d.jsonl", "\n".join(map(json.dumps, DOCUMENTS))),
        lambda folder: {"documents": read_documents(folder / "d.jsonl")}, False
    ),
    "examples, JSONL": Format(
        "e.jsonl", _written("e.jsonl", "\n".join(map(json.dumps, PAIRS[:2]))),
        lambda folder: {"examples": read_examples(folder / "e.jsonl")}, False
    ),
    "examples, CSV": Format(
        "e.csv", _written("e.csv", "input,output\nthe cat,animal\nred,colour\n"),
        lambda folder: {"examples": read_examples(folder / "e.csv")}, False
    ),
    "part of a selection": Format("finished.part", _kept, _read_kept, True),
    "explanation": Format("saved.json", _saved, _read_saved, False),
    "model, GGUF": Format("tiny.gguf", _gguf, _read_gguf, False, slow=True),
    "question": Format("ask.json", _written("ask.json", json.dumps(QUESTION)), _read_question, False),
    **{
        f"model, {name}": Format(name, _model, _read_model, False, slow=True)
        for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json")
    },
    "model, index of its shards": Format(
        "model.safetensors.index.json", _shards, _read_model, False, slow=True
    ),
}  # fmt: skip
