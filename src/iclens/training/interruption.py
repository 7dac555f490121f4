"""Ctrl-C that waits for a good moment: a state in the middle of a step is no state to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether Ctrl-C was pressed, and a place where it takes effect.

    Attributes:
        pressed: whether it was.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def held_interrupts(signals: Sequence[signal.Signals] = (signal.SIGINT,)) -> Iterator[Interruption]:
    """Inside, Ctrl-C takes effect where the yielded object is called, at the latest at the end; a second one at once.

    Outside the main thread, which alone gets signals, nothing is held.

    Args:
        signals: what counts as Ctrl-C.

    Yields:
        what raises `KeyboardInterrupt` if Ctrl-C was pressed.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def hold(_number: int, _frame: FrameType | None) -> None:
        interruption()
        interruption.pressed = True

    before = {one: signal.signal(one, hold) for one in signals}
    try:
        yield interruption
    finally:
        for one, handler in before.items():
            # None: a handler that was not set by Python cannot be set again by it.
            default = signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL
            signal.signal(one, default if handler is None else handler)
    interruption()
