"""Registration beside the thing registered: one file, one decorator, no second list."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from typing import Any, Generic, TypeVar

from iclens.errors import UserError, did_you_mean

T = TypeVar("T")

PAPERS = "iclens.papers"
"""The entry-point group of packages whose folders each hold a paper."""


class Registry(Generic[T]):
    """Names mapped to things of one kind.

    Third parties register through the entry-point group `iclens.<plural>`: loading the entry point imports
    their file, whose decorator then registers. The group `iclens.papers` names whole packages, whose modules may fill
    several registries. All of them are read on the first look-up that needs them, so that `import iclens` stays cheap.

    Args:
        kind: the singular noun used in messages, e.g. `"kernel"`.
        group: the entry-point group, e.g. `"iclens.kernels"`.
        package: a package of ours whose modules register here; they too are imported on the first look-up that needs
            them. None when they are imported anyway.
        papers: whether the folders of papers register here too.
    """

    def __init__(self, kind: str, group: str, *, package: str | None = None, papers: bool = False) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T] = {}
        # What is not read yet, the quickest first: a name that is found early spares the rest.
        self._unread: list[Callable[[], None]] = [partial(_load_points, group)]
        if package is not None:
            self._unread.insert(0, partial(_import_modules, package))
        if papers:
            self._unread.append(_import_papers)
        self._loading = False
        self._lock = RLock()

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

    @contextmanager
    def restored(self, entries: Mapping[str, T] | None = None) -> Iterator[None]:
        """Restore the registered names at the end of the block, whatever was registered inside.

        Args:
            entries: what is registered at its start, in place of everything else; None for what there is.
        """
        self._load()
        before = self._entries
        self._entries = dict(before if entries is None else entries)
        try:
            yield
        finally:
            self._entries = before

    def replaced(self, name: str, entry: T) -> AbstractContextManager[None]:
        """Let `entry` stand under `name` inside the block; what stood there before comes back."""
        return self.restored({known: self[known] for known in self} | {name: entry})

    def __repr__(self) -> str:
        return f"<{self.kind}s: {', '.join(sorted(self))}>"

    def __getitem__(self, name: str) -> T:
        if name not in self:
            hint = did_you_mean(name, self._entries)
            raise UserError(f"unknown {self.kind} {name!r}.{hint} Known: {', '.join(sorted(self._entries))}.")
        return self._entries[name]

    def checked(self, name: str, options: Iterable[str], *, given: int = 0) -> T:
        """Return the callable `name`, once every one of `options` is known to be a parameter of it.

        Args:
            name: the registered name.
            options: names of options.
            given: how many first parameters are not options, because the caller fills them.

        Raises:
            UserError: an unknown name or option, with the nearest known one.
        """
        entry: Any = self[name]
        known = list(inspect.signature(entry).parameters)[given:]
        for option in options:
            if option not in known:
                hint = did_you_mean(option, known)
                listed = ", ".join(known) or "none"
                raise UserError(f"{self.kind} {name!r} has no option {option!r}.{hint} Its options: {listed}.")
        return entry

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load(until=name)
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(list(self._entries))

    def _load(self, until: object = None) -> None:
        """Read what is not read yet, up to where `until` is registered."""
        if not self._unread:
            return
        # Other threads wait; in this one, a module that is being imported may look a name up.
        with self._lock:
            if self._loading:
                return
            self._loading = True
            try:
                while self._unread and (until is None or until not in self._entries):
                    self._unread[0]()
                    del self._unread[0]
            finally:
                self._loading = False


def _load_points(group: str) -> None:
    for point in entry_points(group=group):
        point.load()


def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def _import_papers() -> None:
    """Import every module of every package that an entry point names, in subfolders too."""
    for point in entry_points(group=PAPERS):
        package = point.load()
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            import_module(module.name)
