"""Calls submitted to a cluster as tasks, and what they give as it comes."""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from iclens.errors import UserError
from iclens.work.cluster.connection import Cluster, connected, ray_module, slots
from iclens.work.cluster.task import Board, task, versions
from iclens.work.workers import Ended

T = TypeVar("T")

TASK_SECONDS = 10.0
"""Work that a task is given at least: beside it, what Ray needs to start one is nothing."""

_PER_SLOT = 2
"""Tasks in flight for every one that can run: a free slot finds one waiting, and the driver does not hold them all."""

_LEAST_IN_FLIGHT = 8
"""Tasks in flight on however small a cluster, so that one which grows on demand sees the demand.

Its first machine must be there: without room for one task, `_check_room` refuses before any is submitted, because it
cannot know of machines to come.
"""

_LOOK = 0.25
"""Seconds of one wait: Ctrl-C takes effect between two."""

_WORDS_A_SECOND = 1000.0
"""Words of progress that the board takes a second, from all tasks together."""

_SLOTS_HOLD = 5.0
"""Seconds after which the size of the cluster is looked at again."""


def each_on_cluster(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    *,
    cluster: Cluster,
    threads: int = 1,
    together: Sequence[Sequence[int]] | None = None,
    report: Callable[..., None] | None = None,
    grace: float = 15.0,
) -> Generator[Ended[T], None, None]:
    """`function(*call, tell)` for every call, in the order in which they end, on a Ray cluster.

    As `iclens.work.workers.each`: on Ctrl-C, and when the iteration is left, `tell` raises KeyboardInterrupt in every
    call that runs, and calls that wait are not started; a call that does not end within `grace` seconds is then killed.
    A call whose process or machine dies is started again elsewhere. Calls and results travel by the network: nothing is
    assumed of the disks. `calls` is read as tasks are submitted, a bounded number ahead of those that run, so that a
    sequence may make its items when they are asked for.

    Args:
        function: a function of a module that every machine can import.
        calls: arguments of every call; they must pickle, and so must what the function gives.
        cluster: where, and with what.
        threads: torch threads of each call.
        together: the places of the calls of every task, which run one after another in it, each ending on its own;
            every place once. When left out, every call is a task.
        report: called in this process as `report(place, *said)` with what a call told; a call that tells often is heard
            now and then.
        grace: seconds that running calls have to end after Ctrl-C, before their processes are killed.

    Raises:
        UserError: Ray is missing, there is no such cluster, none of the machines that it has now has what a task needs,
            though others might be started on demand, or they do not run the same versions.
    """
    with connected(cluster):
        tasks = together if together is not None else ([place] for place in range(len(calls)))
        yield from _Driver(function, calls, cluster, threads, report, grace).ends(tasks)


def tasks_of(seconds: Sequence[float], least: float = TASK_SECONDS) -> list[range]:
    """Cut consecutive calls into tasks, each of at least the given seconds, except perhaps the last."""
    tasks, start, total = [], 0, 0.0
    for place, one in enumerate(seconds):
        total += one
        if total >= least:
            tasks.append(range(start, place + 1))
            start, total = place + 1, 0.0
    if start < len(seconds):
        tasks.append(range(start, len(seconds)))
    return tasks


@dataclass(eq=False)
class _Running:
    """A task in flight: the places of its calls that have not ended, the one that runs first."""

    left: deque[int]


class _Driver:
    """Submits tasks, gathers what their calls give, and submits again what was lost."""

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        cluster: Cluster,
        threads: int,
        report: Callable[..., None] | None,
        grace: float,
    ) -> None:
        self.ray = ray_module()
        self.function, self.calls, self.cluster, self.threads = function, calls, cluster, threads
        self.report, self.grace = report, grace
        self.running: dict[Any, _Running] = {}
        self.deaths: Counter[int] = Counter()
        self.lost: deque[deque[int]] = deque()
        self.slots, self.slots_seen = 0, -math.inf
        self.board: Any = None
        self.news: Any = None
        self.news_seen = -math.inf

    def ends(self, together: Iterable[Sequence[int]]) -> Generator[Ended[Any], None, None]:
        waiting = filter(None, together)
        self.lost.extend(deque(places) for places in islice(waiting, 1))
        if not self.lost:
            return
        self._check_room()
        affinity = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = self.ray.get_runtime_context().get_node_id()
        # On this machine, so that it dies with no other.
        self.board = self.ray.remote(Board).options(num_cpus=0, scheduling_strategy=affinity(here, soft=False)).remote()
        # Around a function whose types are checked at run time, Ray would not see the generator.
        begin = self.ray.remote(inspect.unwrap(task)).options(
            num_cpus=self.cluster.cpus, num_gpus=self.cluster.gpus, max_retries=0, num_returns="streaming"
        )
        ours = versions()
        try:
            while True:
                while len(self.running) < self._most_in_flight():
                    places = self.lost.popleft() if self.lost else deque(next(waiting, ()))
                    if not places:
                        break
                    numbered = [(place, self.calls[place]) for place in places]
                    pause = max(0.1, self.slots / _WORDS_A_SECOND)
                    ends = begin.remote(self.function, numbered, self.threads, self.board, pause, ours)
                    self.running[ends] = _Running(places)
                if not self.running:
                    return
                for one in self._ready():
                    yield from self._taken(one)
                self._hear()
        finally:
            self._stop()

    def _check_room(self) -> None:
        if slots(self.cluster) > 0:
            return
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        most: dict[str, float] = max(nodes, key=lambda one: (one.get("GPU", 0), one.get("CPU", 0)), default={})
        raise UserError(
            f"no machine of the Ray cluster has the {self.cluster.cpus:g} CPUs and {self.cluster.gpus:g} GPUs that a"
            f" task was to be given; the largest of {len(nodes)} has {most.get('CPU', 0):g} CPUs and"
            f" {most.get('GPU', 0):g} GPUs."
        )

    def _most_in_flight(self) -> int:
        now = time.monotonic()
        if now - self.slots_seen > _SLOTS_HOLD:
            self.slots, self.slots_seen = slots(self.cluster), now
        return max(_LEAST_IN_FLIGHT, _PER_SLOT * self.slots)

    def _ready(self) -> list[Any]:
        """Tasks with something new; as many as there are, because a look at all of them takes time."""
        flying = list(self.running)
        found, _ = self.ray.wait(flying, num_returns=1, timeout=_LOOK)
        if found and len(flying) > 1:
            found, _ = self.ray.wait(flying, num_returns=len(flying), timeout=0)
        return found

    def _taken(self, ends: Any) -> Generator[Ended[Any], None, None]:
        """What a task has given since the last look, or its loss."""
        errors = self.ray.exceptions
        task = self.running[ends]
        try:
            place, value, error = self.ray.get(next(ends))
        except StopIteration:
            del self.running[ends]
            yield from self._lost(task)
            return
        except errors.RayTaskError as raised:
            # Errors of a call are values: this one is of the task around it.
            raise UserError(
                "a machine of the Ray cluster cannot run the calls; all need the same Python, Ray and iclens. It says:"
                f" {str(raised).strip().splitlines()[-1]}"
            ) from raised
        except errors.RayError:
            del self.running[ends]
            yield from self._lost(task)
            return
        task.left.remove(place)
        if error is not None and not isinstance(error, Exception):
            raise error
        yield Ended(place, value, error)

    def _lost(self, task: _Running) -> Generator[Ended[Any], None, None]:
        """End a task: retry the call that ran, if it may be retried, and start the calls after it again."""
        if not task.left:
            return
        place = task.left[0]
        self.deaths[place] += 1
        if self.deaths[place] > self.cluster.retries:
            task.left.popleft()
            times = f"{self.deaths[place]} times" if self.deaths[place] > 1 else "once"
            text = (
                f"a worker process or its machine was killed {times} at the same work, perhaps for want of memory. What"
                " is finished is kept; go on with fewer tasks at once, that is, with more CPUs for each."
            )
            yield Ended(place, None, UserError(text))
        if task.left:
            self.lost.append(task.left)

    def _hear(self) -> None:
        """Pass on what the board has heard; it is asked now and then, and never waited for."""
        if self.report is None:
            return
        if self.news is not None:
            ready, _ = self.ray.wait([self.news], timeout=0)
            if not ready:
                return
            with suppress(self.ray.exceptions.RayError):
                for place, said in self.ray.get(self.news).items():
                    self.report(place, *said)
            self.news = None
        if time.monotonic() - self.news_seen >= _LOOK:
            self.news, self.news_seen = self.board.news.remote(), time.monotonic()

    def _stop(self) -> None:
        """End what runs, by its own doing if it can."""
        if self.running:
            with suppress(self.ray.exceptions.RayError):
                self.ray.get(self.board.stop.remote(), timeout=self.grace)
            over = {ends.completed(): ends for ends in self.running}
            _, deaf = self.ray.wait(list(over), num_returns=len(over), timeout=self.grace, fetch_local=False)
            # To cancel one that has just ended would end this process: Ray does not expect it.
            for one in deaf:
                with suppress(self.ray.exceptions.RayError):
                    self.ray.cancel(over[one], force=True)
        self.running.clear()
        self.ray.kill(self.board)
