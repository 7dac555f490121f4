"""Which model a batch is explained with: how another process or machine finds it, and knows it for the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from iclens.errors import UserError
from iclens.lens.model.files import find
from iclens.lens.model.loading import LensModel, load, outline

_PATTERNS = (
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges*",
    "*.jinja",
)
"""Files of a folder that what is computed depends on."""


@dataclass(frozen=True)
class ModelSource:
    """A model by what `iclens.lens.model.loading.load` takes; the dtype by its name, e.g. `"float64"`, or `"auto"`."""

    name: str
    dtype: str | None = None
    device: str = "cpu"
    device_map: str | None = None

    def load(self, identity: str | None = None) -> LensModel:
        """Load the model, once a process; `identity` is what its method gave where the work was planned.

        Raises:
            UserError: as `iclens.lens.model.loading.load`; another model has that name here.
        """
        if identity is not None and self.identity() != identity:
            raise UserError(
                f"the model {self.name} is not the same on this machine as where the work was planned: put the same "
                "files at the same place on every machine, or name a model of the hub."
            )
        return _load(self)

    def outline(self) -> LensModel:
        """Return the model without its weights."""
        return outline(self.name)

    def identity(self) -> str:
        """Return a digest of the model's files, which must be readable; of a hub model its commit."""
        found = find(self.name)
        source = Path(found.source)
        if not source.is_dir():
            base = f"{found.source}@{_commit(found.source)}"
        else:
            base = _digest_of(source, _stamps(source, _PATTERNS if found.gguf is None else (found.gguf,)))
        adapter = found.adapter
        return base if adapter is None else f"{base}+{_digest_of(adapter, _stamps(adapter, _PATTERNS))}"


def _stamps(folder: Path, patterns: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@cache
def _load(source: ModelSource) -> LensModel:
    return load(source.name, dtype=source.dtype, device=source.device, device_map=source.device_map)


@cache
def _digest_of(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Hashed once a process, and again when a file was changed meanwhile."""
    whole = hashlib.sha256()
    for name, _, _ in stamps:
        try:
            with (folder / name).open("rb") as file:
                whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        except OSError as error:
            raise UserError(f"{folder / name} cannot be read: {error.strerror}.") from error
    return whole.hexdigest()


@cache
def _commit(name: str) -> str:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return str(getattr(config, "_commit_hash", None) or "unknown")
