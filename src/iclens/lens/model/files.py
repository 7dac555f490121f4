"""Where a model's files are, and what is wrong with them, in words for the user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families import FAMILIES, REFUSED
from iclens.lens.model.families.hybrids import foreign_layer

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def supported() -> str:
    """The families, in a sentence for messages."""
    return f"Supported families: {', '.join(sorted(FAMILIES))}."


@contextmanager
def quiet() -> Iterator[None]:
    """No bar for reading a local file: commands show their own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def source_of(name: str) -> str:
    """The folder or hub name that a model is loaded from."""
    if name == "bundled":
        from iclens import bundled

        return str(bundled.path())
    if "\n" in name:
        raise UserError(f"the model is the text {name[:30]!r}…: the model comes first, then the prompt.")
    path = Path(name).expanduser()
    if path.is_file():
        raise UserError(f"{name} is a file: give the folder that holds config.json and the weights.")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"the folder {name} has no config.json: it is not a saved model.")
        return str(path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or not name.strip():
        raise UserError(f"there is no folder {name!r}.")
    return name


def unsupported(model_type: str, config: Any = None) -> str:
    """Why a family is refused: the reason that is registered for it, or a layer that has no softmax attention."""
    reason = None
    if config is not None:
        reason = REFUSED[model_type](config) if model_type in REFUSED else foreign_layer(config)
    because = "" if reason is None else f": {reason}"
    return f"the model family {model_type!r} is not one that iclens handles exactly{because}. {supported()}"


def why_no_config(name: str, source: str, error: Exception) -> str:
    """Why a configuration could not be loaded, in words for the user."""
    config = Path(source) / "config.json"
    if config.is_file():
        its_config = f"the config.json of {name}"
        try:
            content = json.loads(config.read_text())
        except (OSError, ValueError, RecursionError):
            return f"{its_config} is not JSON: {first_line(error)}"
        model_type = content.get("model_type") if isinstance(content, dict) else None
        if model_type is None:
            return f"{its_config} names no model_type. {supported()}"
        if model_type not in FAMILIES:
            return unsupported(model_type)
        return f"{its_config} could not be read: {first_line(error)}"
    if "trust_remote_code" in str(error):
        return f"{name} needs code from its repository, which iclens never runs. {supported()}"
    return (
        f'unknown model {name!r}: neither a folder here, nor "bundled", nor a model that could be found on the hub '
        f"({first_line(error)})"
    )


def check_weights(folder: Path) -> None:
    """Refuse a folder that does not hold all its weights as safetensors, and say what is missing."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return
    if index.is_file():
        shards = _shards(index)
        lost = [shard for shard in shards if not (folder / shard).is_file()]
        if lost or not shards:
            raise UserError(f"the folder {folder} lacks the weights {lost[0] if lost else 'named in its index'}.")
        return
    pickles = sorted({file.name for pattern in PICKLES for file in folder.glob(pattern)} - {"training_args.bin"})
    if pickles:
        raise UserError(
            f"the folder {folder} holds only a pickle checkpoint ({pickles[0]}): loading one can run any code, so "
            "iclens reads only safetensors. Save it again with model.save_pretrained."
        )
    raise UserError(f"the folder {folder} has no weights (model.safetensors).")


def _shards(index: Path) -> list[str]:
    """The files that an index names; each lies beside it."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        beside = all(Path(shard).name == shard for shard in shards)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the index {index} is not what transformers writes: {first_line(error)}") from error
    if not beside:
        raise UserError(f"the index {index} names a file of another folder, which is not read.")
    return shards


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
