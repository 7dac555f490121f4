"""Calls in worker processes: their results as they end, word of their progress, and an end to them on Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Generic, TypeVar

from iclens.errors import UserError, is_out_of_memory

T = TypeVar("T")

Tell = Callable[..., None]
"""Given to every call as its last argument, to be called now and then with word of its progress."""

_SECONDS_PER_WORKER = 20.0
"""Work that one more process is worth: each imports torch again."""

_PAUSE = 0.1
"""Seconds between two words of progress from one process."""

_channel: tuple[Any, Any] | None = None
"""Of a worker process: the queue of its words, and the event that tells it to stop."""


@dataclass(frozen=True)
class Ended(Generic[T]):
    """A call that has ended.

    Attributes:
        place: its index among the calls.
        value: what it gave; None when it failed.
        error: why it failed; None when it did not.
    """

    place: int
    value: T | None
    error: Exception | None = None

    def result(self) -> T:
        """Return what the call gave; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def each(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    threads: int = 1,
    report: Callable[..., None] | None = None,
) -> Generator[Ended[T], None, None]:
    """`function(*call, tell)` for every call, in the order in which they end.

    Where a process is killed, as one that wants too much memory is, the calls that it may have worked on are made again
    one at a time; the one that does not survive that ends with an error, and the others go on.

    On Ctrl-C, and when the iteration is left, `tell` raises KeyboardInterrupt in every call that runs, calls that wait
    are not started, and the processes end.

    Args:
        function: a function of a module, as a new process must find it.
        calls: arguments of every call; they must pickle when there are several workers.
        workers: processes; with 1 all calls run in this one.
        threads: torch threads of each.
        report: called in this process as `report(place, *said)` with what a call told; a call that tells often is heard
            now and then.
    """

    def heard(place: int, *said: Any) -> None:
        if report is not None:
            report(place, *said)

    if min(workers, len(calls)) > 1:
        yield from _in_processes(function, calls, min(workers, len(calls)), threads, heard)
        return
    for place, call in enumerate(calls):
        with torch_threads(threads):
            try:
                ended = Ended(place, _made(function, call, lambda *said, _place=place: heard(_place, *said)))
            except Exception as error:
                ended = Ended(place, None, error)
        yield ended


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_alive(process: int) -> bool:
    """Return whether a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no process has so large a number
        return False
    except OSError:  # it is somebody else's
        return True
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return True
    # One that has ended, but whose parent has not asked how, still has its number.
    return status.rpartition(")")[2].split()[0] not in "ZX"


def worth_starting(workers: int, seconds: float | int) -> int:
    """Count the processes, of those allowed, whose start-up cost the work pays off."""
    return max(1, min(workers, 1 + int(seconds / _SECONDS_PER_WORKER)))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of torch threads for the block; restore it afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    workers: int,
    threads: int,
    heard: Callable[..., None],
) -> Generator[Ended[T], None, None]:
    waiting = list(range(len(calls)))
    any_ended = False
    while waiting:
        left = yield from _in_pool(function, calls, waiting, workers, threads, heard)
        any_ended |= len(left) < len(waiting)
        # Calls are begun in their order: the killed process worked on one of these.
        suspects, waiting = left[:workers], left[workers:]
        for place in suspects:
            if (yield from _in_pool(function, calls, [place], 1, threads, heard)):
                yield Ended(place, None, _killed())
            else:
                any_ended = True
        if suspects and not any_ended:
            # Not these calls, but the processes: no other one would begin either.
            yield from (Ended(place, None, _killed()) for place in waiting)
            return


def _killed() -> UserError:
    return UserError(
        "a worker process was killed, also when it worked alone, perhaps for want of memory. What is finished is kept."
    )


def _in_pool(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    places: Sequence[int],
    workers: int,
    threads: int,
    heard: Callable[..., None],
) -> Generator[Ended[T], None, list[int]]:
    """The calls at these places; returns those that have not ended because a process was killed, in order."""
    left: list[int] = []
    # Forked processes would share the state of torch's threads.
    context = multiprocessing.get_context("spawn")
    words, stop = context.Queue(), context.Event()
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(words, heard, over), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, context, _begin, (threads, words, stop))
    try:
        # Processes begin here and inherit it: Ctrl-C in the middle of their imports would end them with a traceback.
        with _interrupts_blocked():
            waiting: dict[Future[T], int] = {
                pool.submit(_call, function, calls[place], place): place for place in places
            }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                place = waiting.pop(future)
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                if isinstance(error, BrokenProcessPool):
                    left.append(place)
                else:
                    yield Ended(place, None if error else future.result(), error)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        over.set()
        listener.join()
        words.close()
    return sorted(left)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C waits until the end; processes that are started inside never hear of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _made(function: Callable[..., T], call: tuple[Any, ...], tell: Tell) -> T:
    try:
        return function(*call, tell)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("there was not enough memory: do less at once, or with fewer processes.") from error


def _begin(threads: int, words: Any, stop: Any) -> None:
    import torch

    global _channel
    _channel = words, stop
    torch.set_num_threads(threads)
    # The terminal sends it to every process; the event is what ends a worker, where its call can bear it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pool ends its processes by it when one of them was killed, also where the command was started to ignore it.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot say stop, and its workers would go on, or wait for calls, for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _call(function: Callable[..., T], call: tuple[Any, ...], place: int) -> T:
    assert _channel is not None
    words, stop = _channel
    if stop.is_set():
        raise KeyboardInterrupt
    last = 0.0

    def tell(*said: Any) -> None:
        nonlocal last
        if stop.is_set():
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            words.put((place, said))

    return _made(function, call, tell)


def _listen(words: Any, heard: Callable[..., None], over: threading.Event) -> None:
    """Hear every word until the processes have ended, which wait until theirs are taken."""
    while True:
        try:
            place, said = words.get(timeout=0.2)
        except queue.Empty:
            # What was said before the end is heard, also where this thread came late.
            if over.is_set():
                return
            continue
        except (EOFError, OSError):
            return
        try:
            heard(place, *said)
        except Exception as error:
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, None)))
