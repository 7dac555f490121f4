"""What runs on the machines of a cluster: tasks of calls, and the board on which they write their progress."""

from __future__ import annotations

import math
import pickle
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from iclens.errors import UserError
from iclens.work.cluster.connection import ray_module
from iclens.work.workers import torch_threads

_BOARD_ANSWERS = 0.1
"""Seconds that a call waits for the board before it begins."""


def versions() -> dict[str, str]:
    """What must be the same on all machines for results to be the same, and to be filed as what the driver computes."""
    found = {"Python": platform.python_version()}
    for name in ("iclens", "torch", "transformers", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


class Board:
    """Receives the reports of all tasks, and answers whether to stop."""

    def __init__(self) -> None:
        self.heard: dict[int, tuple[Any, ...]] = {}
        self.stopped = False

    def tell(self, place: int, said: tuple[Any, ...]) -> bool:
        """Keep the last word of a call; whether it is to stop."""
        self.heard[place] = said
        return self.stopped

    def is_stopped(self) -> bool:
        """Return whether calls are to stop."""
        return self.stopped

    def news(self) -> dict[int, tuple[Any, ...]]:
        """Return what was heard since the last time."""
        heard, self.heard = self.heard, {}
        return heard

    def stop(self) -> None:
        """Tell all calls to stop."""
        self.stopped = True


class Tell:
    """What a call is given to tell its progress with, in the process of its task."""

    def __init__(self, board: Any, place: int, pause: float) -> None:
        self.ray = ray_module()
        self.board, self.place, self.pause = board, place, pause
        self.last = -math.inf
        self.answer: Future[bool] | None = None

    def is_stopped(self) -> bool:
        """Return whether a call that has waited need not begin; a board that is not up yet is not waited for."""
        return self._said_to_stop(self.board.is_stopped.remote().future())

    def __call__(self, *said: Any) -> None:
        """Tell the board, now and then; raises KeyboardInterrupt once it has said to stop."""
        now = time.monotonic()
        if now - self.last < self.pause:
            return
        self.last = now
        if self.answer is not None:
            # A board that is slow is asked again when it has answered.
            if not self.answer.done():
                return
            if self._said_to_stop(self.answer):
                raise KeyboardInterrupt
        # A future, because Ray lends the CPUs of a task that waits for it to others.
        self.answer = self.board.tell.remote(self.place, said).future()

    def _said_to_stop(self, answer: Future[bool]) -> bool:
        # Without the board there is no progress to be seen, but the calls may as well go on.
        with suppress(self.ray.exceptions.RayError, TimeoutError):
            return answer.result(_BOARD_ANSWERS)
        return False


def task(
    function: Callable[..., Any],
    calls: list[tuple[int, tuple[Any, ...]]],
    threads: int,
    board: Any,
    pause: float,
    expected: dict[str, str],
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Calls one after another in a worker process: place, value and error of each as it ends."""
    ours = versions()
    if ours != expected:
        different = ", ".join(
            f"{name} {ours[name]} instead of {expected[name]}" for name in ours if ours[name] != expected[name]
        )
        raise UserError(f"{platform.node()} has {different}.")
    for place, call in calls:
        tell = Tell(board, place, pause)
        if tell.is_stopped():
            return
        value, error = None, None
        try:
            with torch_threads(threads):
                value = function(*call, tell)
        except Exception as raised:
            error = _portable(raised)
        except KeyboardInterrupt:
            yield place, None, KeyboardInterrupt()
            return
        yield place, value, error


def _portable(error: Exception) -> Exception:
    """Return the error itself if it survives the way, else one with its name and text."""
    if isinstance(error, MemoryError):
        return UserError(f"there was not enough memory on {platform.node()}: do less at once.")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    # The frames behind it would travel with it.
    return error.with_traceback(None)
