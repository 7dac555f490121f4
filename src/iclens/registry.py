"""Registration beside the thing registered: one file, one decorator, no second list."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from iclens.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names mapped to things of one kind.

    Third parties register through the entry-point group `iclens.<plural>`: loading the entry point imports
    their file, whose decorator then registers. Groups are read on the first look-up that needs them, so that
    `import iclens` stays cheap.

    Args:
        kind: the singular noun used in messages, e.g. `"kernel"`.
        group: the entry-point group, e.g. `"iclens.kernels"`.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T] = {}
        self._loaded_entry_points = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers what it decorates under `name`.

        Raises:
            ValueError: another object already has that name.
        """

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"the {self.kind} {name!r} is registered already")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._load_entry_points()
        if name not in self._entries:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserError(f"unknown {self.kind} {name!r}.{hint} Known: {', '.join(sorted(self._entries))}.")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load_entry_points()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load_entry_points()
        return iter(list(self._entries))

    def _load_entry_points(self) -> None:
        if not self._loaded_entry_points:
            self._loaded_entry_points = True
            for point in entry_points(group=self.group):
                point.load()
