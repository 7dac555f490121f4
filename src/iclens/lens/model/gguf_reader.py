"""Reads a GGUF file's description once a load, however often transformers asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any


@contextmanager
def read_once() -> Iterator[None]:
    """Let transformers read the same GGUF file and the same map of names once, and faster.

    For configuration, tokenizer and weights it reads the whole description each time, with every word of the
    vocabulary as a slice of a memory map, and it builds the map of names for every module. What it finds is the same.
    """
    if find_spec("gguf") is None:
        yield
        return
    import gguf
    import numpy as np

    class Reader(gguf.GGUFReader):
        """The reader on a plain array: slicing a `memmap` costs ten times as much."""

        @property
        def data(self) -> Any:
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = np.asarray(mapped)

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(Reader), cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before
