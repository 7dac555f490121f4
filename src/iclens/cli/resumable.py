"""What a command that can be stopped and goes on says when it is stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from iclens.cli.output import note


@contextmanager
def resumable() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost; SIGTERM, by which Slurm and Kubernetes end a process, is one as well."""
    try:
        with _stopped_by_sigterm():
            yield
    except KeyboardInterrupt:
        note("stopped; the same command goes on from here")
        raise


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread may; None: a handler that was not set by Python cannot be set again by it.
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
