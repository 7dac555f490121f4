"""Ctrl-C in this process, in the moment that a test names."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager


@contextmanager
def interrupted_when(condition):
    """Send SIGINT to this process from a thread once the condition holds."""
    over = threading.Event()
    # A shell's background job, such as a test run may be, is started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait():
        while not over.is_set() and not condition():
            time.sleep(0.02)
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
