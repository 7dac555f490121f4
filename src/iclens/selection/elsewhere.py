"""Where the pieces of a choice run: with the model of this process, or in others that load it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from iclens.lens.many.model_source import ModelSource
from iclens.lens.model.loading import LensModel
from iclens.work.workers import Ended, Tell

T = TypeVar("T")

Executor = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Ended[Any]]]
"""Runs a function on calls, each a tuple of arguments, and yields their results as they end."""


@dataclass(frozen=True)
class Elsewhere:
    """Other processes that run pieces.

    Attributes:
        source: the model, by its name.
        identity: the digest of its files, so that no process takes others.
        executor: runs the calls, such as `iclens.work.cluster.each_on_cluster`.
    """

    source: ModelSource
    identity: str
    executor: Executor


def pieces(
    lens_model: LensModel, elsewhere: Elsewhere | None, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, T]]:
    """`function(model, *call)` of every call with its place among them, in the order in which they end.

    Args:
        lens_model: the model of this process.
        elsewhere: other processes; None for this one.
        function: a function of a module, where other processes must find it.
        calls: arguments, which must pickle for other processes.
    """
    if elsewhere is None:
        for place, call in enumerate(calls):
            yield place, function(lens_model, *call)
        return
    sent = [(elsewhere.source, elsewhere.identity, function, call) for call in calls]
    with closing(elsewhere.executor(_with_own_model, sent)) as ends:  # type: ignore[type-var]
        for ended in ends:
            yield ended.place, ended.result()


def _with_own_model(
    source: ModelSource, identity: str, function: Callable[..., T], call: tuple[Any, ...], tell: Tell
) -> T:
    tell()
    return function(source.load(identity), *call)
