"""Ways in which a file may not be what was written, drawn from seeds."""

from __future__ import annotations

import io
import pickle
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import save


def truncated(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))] if data else data


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit turned."""
    if not data:
        return data
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def digit_changed(data: bytes, draw: random.Random) -> bytes:
    """One digit made another: the damage that a parser cannot see."""
    places = [place for place, byte in enumerate(data) if 48 <= byte < 58]
    if not places:
        return flipped(data, draw)
    place = draw.choice(places)
    digit = 48 + (data[place] - 48 + draw.randint(1, 9)) % 10
    return data[:place] + bytes([digit]) + data[place + 1 :]


def zeroed(data: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as a file system leaves after a power failure."""
    start = draw.randrange(max(1, len(data)))
    end = min(len(data), start + draw.choice([1, 16, 512]))
    return data[:start] + bytes(end - start) + data[end:]


def extended(data: bytes, draw: random.Random) -> bytes:
    return data + draw.choice([b"\x00", data, b"\n}", draw.randbytes(64)])


def shuffled(data: bytes, draw: random.Random) -> bytes:
    """Two blocks exchanged."""
    middle = draw.randrange(max(1, len(data)))
    return data[middle:] + data[:middle]


DAMAGES = [truncated, flipped, digit_changed, zeroed, extended, shuffled]


class Planted:
    """What a pickle would run."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/iclens-a-pickle-was-run"),)


def _database() -> bytes:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE songs (name TEXT)")
    content = db.serialize()
    db.close()
    return content


def _table() -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table({"name": ["x"], "step": [1]}), sink)
    return sink.getvalue()


def foreign() -> dict[str, bytes]:
    """Files of other programs, and texts that parsers are known to mind, by name."""
    return {
        "nothing": b"",
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "a pickle": pickle.dumps(Planted()),
        "null": b"null",
        "a list": b"[1, 2]",
        "an empty object": b"{}",
        "not a number": b'{"a": NaN, "b": -Infinity, "c": 1e999}',
        "deep lists": b"[" * 100_000,
        "deep objects": b'{"a":' * 50_000,
        "a long number": b'{"seed": ' + b"9" * 6000 + b"}",
        "a lone surrogate": b'{"seed": "\\ud800"}',
        "not UTF-8": b"\xff\xfe\x00a",
        "marks of order": b"\xef\xbb\xbf\xef\xbb\xbf{}",
        "null bytes": bytes(4096),
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "a merge": b"<<<<<<< HEAD\n{}\n=======\n[]\n>>>>>>> other\n",
        "safetensors of something else": save({"x": torch.zeros(2, dtype=torch.float32)}, {"iclens": "{}"}),
        "safetensors with a vast header": (2**62).to_bytes(8, "little") + b"{}",
        "a database of something else": _database(),
        "Parquet of something else": _table(),
        "an archive": b"PK\x03\x04" + bytes(60),
        "random bytes": random.Random(0).randbytes(2000),
    }


Spoil = Callable[[Path], None]


def spoilers(content: bytes, number: int, seed: int, most_foreign: int | None = None) -> Iterator[tuple[str, Spoil]]:
    """Ways to spoil a file with that content: so many damages, every foreign content, and what is no file at all.

    Args:
        content: of the sound file.
        number: of damages.
        seed: of their places.
        most_foreign: of foreign contents; all when None.
    """
    draw = random.Random(seed)
    for place in range(number):
        damage = DAMAGES[place % len(DAMAGES)]
        data = damage(content, draw)
        if data != content:
            yield f"{damage.__name__} ({seed}, {place})", lambda path, data=data: path.write_bytes(data) and None
    for name, data in list(foreign().items())[:most_foreign]:
        yield name, lambda path, data=data: path.write_bytes(data) and None

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def dangling(path: Path) -> None:
        path.unlink()
        path.symlink_to("nowhere")

    def loop(path: Path) -> None:
        path.unlink()
        path.symlink_to(path.name)

    yield from (("a folder", folder), ("a dangling link", dangling), ("a link to itself", loop))
