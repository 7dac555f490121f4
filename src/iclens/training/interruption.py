"""Ctrl-C that waits for a good moment: a state in the middle of a step is no state to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_interrupts() -> Iterator[Callable[[], None]]:
    """Inside, Ctrl-C takes effect where the yielded function is called, at the latest at the end; a second one at once.

    Outside the main thread, which alone gets signals, nothing is held.

    Yields:
        a function that raises `KeyboardInterrupt` if Ctrl-C was pressed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    pressed = False

    def hold(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    def release() -> None:
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield release
    finally:
        # None: a handler that was not set by Python cannot be set again by it.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    release()
