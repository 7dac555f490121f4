"""Ctrl-C that waits for a good moment: a state in the middle of a step is no state to go on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)
"""A terminal stops a process by the first; Slurm, Kubernetes and torchrun by the second."""


class Interruption:
    """Whether Ctrl-C was pressed, and a place where it takes effect.

    Attributes:
        pressed: whether it was, or SIGTERM came.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed."""
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def held_interrupts(*, pass_on: bool = True) -> Iterator[Interruption]:
    """Inside, Ctrl-C and SIGTERM take effect where the yielded object is called, at the latest at the end.

    A Ctrl-C after that takes effect at once. Another SIGTERM does not: they are sent by programs, more than once, which
    kill what does not end in time. Outside the main thread, which alone gets signals, nothing is held.

    Args:
        pass_on: at the end, the former handler of SIGTERM gets the one that was held: where there was none, it ends the
            process, as it is meant to.

    Yields:
        what raises `KeyboardInterrupt` if Ctrl-C was pressed.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    came: set[int] = set()

    def hold(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            interruption()
        came.add(number)
        interruption.pressed = True

    before = {one: signal.signal(one, hold) for one in _HELD}
    try:
        yield interruption
    finally:
        for one, handler in before.items():
            # None: a handler that was not set by Python cannot be set again by it.
            default = signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL
            signal.signal(one, default if handler is None else handler)
        if pass_on and signal.SIGTERM in came:
            signal.raise_signal(signal.SIGTERM)
    interruption()
