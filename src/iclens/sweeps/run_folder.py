"""One finished run as a folder: configuration, parameters, metrics, result, and a checksum of each.

```
<key>/
    config.json          the whole configuration, defaults written out
    model.safetensors    final parameters
    metrics.parquet      one value a row: step, name, prefix, value
    result.json          how it ended, how long it took, where it ran, the last value of each metric
    checksums.json       bytes and SHA-256 of the four others
```
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from iclens.errors import UserError
from iclens.sweeps.result import Result, final_values, metric_of
from iclens.training.metric import Metric
from iclens.work.sealed import SEAL, is_whole, sealed

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
"""Version of the store's layout: of these files and of the index. Others are refused, and left as they are."""

CONFIG, TENSORS, METRICS, RESULT, CHECKSUMS = (
    "config.json",
    "model.safetensors",
    "metrics.parquet",
    "result.json",
    "checksums.json",
)


class Damaged(UserError):
    """A file of a run is missing or not what was written."""


class OtherSchema(UserError):
    """A store or a run was written by an older or a newer iclens."""

    @classmethod
    def of(cls, what: str, schema: int, more: str = "") -> OtherSchema:
        """Say of a store or a run which schema it has, and what to do."""
        who, advice = "a newer iclens", "update iclens"
        if schema < SCHEMA:
            who, advice = "an older iclens", "read it with the version that wrote it"
        return cls(f"{what} was written by {who} (schema {schema}; this one reads {SCHEMA}): {advice}.{more}")


@runtime_checkable
class Configuration(Protocol):
    """What a store needs of a configuration, e.g. of `RunConfig`."""

    def key(self) -> str:
        """Return a hash of everything that determines the result: 8 to 64 hexadecimal digits."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values."""
        ...


@dataclass(frozen=True)
class Run:
    """A finished run in a store; files are read when they are asked for, and checked against their checksums.

    Attributes:
        key: its name.
        folder: where it lies.
    """

    key: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """Plain nested values, for `RunConfig.from_dict`.

        Raises:
            UserError: the file is damaged, as for the other parts.
        """
        return _decoded(self.folder, CONFIG, json.loads)

    @property
    def result(self) -> Result:
        """How it ended."""
        return _decoded(self.folder, RESULT, Result.from_json)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters, on the CPU, bit for bit as they were added."""
        from safetensors.torch import load

        return _decoded(self.folder, TENSORS, load)

    def metrics(self) -> list[Metric]:
        """Return the metrics, in the order in which they were added."""
        return _decoded(self.folder, METRICS, _metrics_from_parquet)


def pack(
    config: Configuration, tensors: Mapping[str, Tensor], metrics: Iterable[tuple[Any, ...]], result: Result
) -> dict[str, bytes]:
    """Return the files of a run by name, the checksums last.

    Raises:
        UserError: a metric that is not (step, name, prefix, value), a tensor of a type that safetensors lacks, or a
            configuration that JSON cannot hold.
    """
    rows = [metric_of(row) for row in metrics]
    full = Result(**{**asdict(result), "final": final_values(rows)})
    files = {
        CONFIG: _json(config.key(), config.to_dict()),
        TENSORS: _safetensors(tensors),
        METRICS: _parquet(rows),
        RESULT: full.to_json().encode(),
    }
    files[CHECKSUMS] = _checksums(config.key(), files)
    return files


def check_packed(key: str, files: Mapping[str, bytes]) -> None:
    """Compare files that came from elsewhere with their checksums.

    Raises:
        Damaged: they are not what `pack` gave for that run.
    """
    rest = {name: data for name, data in files.items() if name != CHECKSUMS}
    if rest.keys() != {CONFIG, TENSORS, METRICS, RESULT} or files.get(CHECKSUMS) != _checksums(key, rest):
        raise Damaged(f"run {key} did not arrive as it was packed.")


def numbered(key: str, files: Mapping[str, bytes], number: int) -> dict[str, bytes]:
    """Return the files of a packed run with its `Result.number`."""
    result = replace(Result.from_json(files[RESULT]), number=number)
    rest = {name: data for name, data in files.items() if name != CHECKSUMS} | {RESULT: result.to_json().encode()}
    return {**rest, CHECKSUMS: _checksums(key, rest)}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into an empty folder and wait until they are on the disk.

    Raises:
        OSError: what the operating system says.
    """
    descriptors = []
    try:
        for name, data in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            descriptors.append(descriptor)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        # All are flushed after all are written: one commit of the file system's journal then serves them together.
        for descriptor in descriptors:
            os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def summary(folder: Path) -> tuple[str, str, str]:
    """Configuration and result of a run as JSON texts, and the SHA-256 of its checksums.

    Raises:
        Damaged: one of the two or the checksums are damaged.
        OtherSchema: the run was written by an older or a newer iclens.
    """
    digest = hashlib.sha256(_read(folder, CHECKSUMS)).hexdigest()
    texts = []
    for name, decode in ((CONFIG, json.loads), (RESULT, Result.from_json)):
        _decoded(folder, name, decode)
        texts.append(_read(folder, name).decode())
    return texts[0], texts[1], digest


def damage(folder: Path) -> list[str]:
    """Return what is wrong with a run's files; empty when every byte is as it was written.

    Raises:
        OtherSchema: the run was written by an older or a newer iclens.
    """
    try:
        recorded = _recorded(folder)
    except Damaged as error:
        return [str(error)]
    found = []
    for name in recorded:
        try:
            _checked(folder, name)
        except Damaged as error:
            found.append(str(error))
    try:
        foreign = sorted(set(os.listdir(folder)) - set(recorded) - {CHECKSUMS})
    except OSError as error:
        return [*found, _unreadable(folder, ".", error)]
    return found + [f"run {folder.name} holds a file that is not its own: {name}." for name in foreign]


def refuse_other(folder: Path) -> None:
    """Refuse a run that an older or a newer iclens wrote; damage is passed over.

    Raises:
        OtherSchema: it did.
    """
    with contextlib.suppress(Damaged):
        _recorded(folder)


def _json(key: str, data: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise UserError(f"the configuration of run {key} cannot be written as JSON: {error}.") from None
    return text.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is not a plain value")


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        # A run of an ensemble is a slice of larger tensors: without a copy, its neighbours would be written too.
        return save(
            {
                name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
        )
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        types = ", ".join(sorted({str(tensor.dtype) for tensor in tensors.values()}))
        raise UserError(f"the parameters cannot be written as safetensors (types: {types}): {error}.") from None


def _parquet(rows: list[Metric]) -> bytes:
    import pyarrow

    types = (pyarrow.int64(), pyarrow.string(), pyarrow.int64(), pyarrow.float64())
    columns = {
        name: pyarrow.array([row[index] for row in rows], type=kind)
        for index, (name, kind) in enumerate(zip(Metric._fields, types, strict=True))
    }
    return parquet_bytes(pyarrow.table(columns))


def parquet_bytes(table: Any) -> bytes:
    """Give the content of a Parquet file of an Arrow table."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _metrics_from_parquet(data: bytes) -> list[Metric]:
    import pyarrow
    from pyarrow import parquet

    table = parquet.ParquetFile(pyarrow.BufferReader(data)).read(use_threads=False)
    columns = [table.column(name).to_pylist() for name in Metric._fields]
    return [Metric(*row) for row in zip(*columns, strict=True)]


def _checksums(key: str, files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return _canonical(sealed({"schema": SCHEMA, "key": key, "files": entries}))


def _canonical(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    data = _read(folder, CHECKSUMS)
    try:
        recorded = json.loads(data)
        schema = recorded["schema"]
        # Without its seal this is a flipped bit; schema 1 had none.
        whole = is_whole(recorded) if schema != 1 else SEAL not in recorded
        if type(schema) is int and schema != SCHEMA and recorded["key"] == folder.name and whole:
            raise OtherSchema.of(f"run {folder.name}", schema)
        files = recorded["files"]
        sound = schema == SCHEMA and whole and _canonical(recorded) == data and recorded["key"] == folder.name
        sound = sound and set(files) == {CONFIG, TENSORS, METRICS, RESULT}
        sound = sound and all(
            entry.keys() == {"bytes", "sha256"} and isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)
            for entry in files.values()
        )
    except OtherSchema:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise Damaged(f"run {folder.name} is damaged: {CHECKSUMS} is not what was written.")
    return files


def _checked(folder: Path, name: str) -> bytes:
    entry = _recorded(folder)[name]
    data = _read(folder, name)
    if len(data) != entry["bytes"]:
        raise Damaged(f"run {folder.name} is damaged: {name} has {len(data)} bytes instead of {entry['bytes']}.")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise Damaged(f"run {folder.name} is damaged: {name} does not have its checksum.")
    return data


def _decoded(folder: Path, name: str, decode: Any) -> Any:
    data = _checked(folder, name)
    try:
        return decode(data)
    # A file with its checksum is as it was written, so this is a library that cannot read what another version wrote.
    except Exception as error:
        raise Damaged(f"run {folder.name}: {name} cannot be read: {error}.") from error


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise Damaged(_unreadable(folder, name, error)) from None


def _unreadable(folder: Path, name: str, error: OSError) -> str:
    if not folder.is_dir():
        return f"run {folder.name} is gone from {folder.parent}."
    if isinstance(error, FileNotFoundError):
        return f"run {folder.name} is damaged: {name} is missing."
    return f"run {folder.name}: {name} cannot be read: {error.strerror}."
