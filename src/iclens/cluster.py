"""Calls on the machines of a Ray cluster, to the contract of `iclens.workers.each`."""

from __future__ import annotations

import inspect
import math
import os
import pickle
import platform
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any, TypeVar

from iclens.errors import UserError
from iclens.workers import Ended, torch_threads, usable_cores

T = TypeVar("T")

_PER_SLOT = 2
"""Tasks in flight for every one that can run: a free slot finds one waiting, and the driver does not hold them all."""

_LEAST_IN_FLIGHT = 8
"""Tasks in flight on however small a cluster, so that one which grows on demand sees the demand."""

_LOOK = 0.25
"""Seconds of one wait: Ctrl-C takes effect between two."""

_WORDS_A_SECOND = 1000.0
"""Words of progress that the board takes a second, from all tasks together."""

_BOARD_ANSWERS = 0.1
"""Seconds that a call waits for the board before it begins."""

_SLOTS_HOLD = 5.0
"""Seconds after which the size of the cluster is looked at again."""

_GRACE = 15.0
"""Seconds that running calls have for their end after Ctrl-C, before their processes are killed."""


@dataclass(frozen=True)
class Cluster:
    """Where calls run, and what each is given there.

    Attributes:
        address: `local` starts Ray on this machine alone and ends it again; `auto` is the cluster that this machine
            belongs to; `host:port` is the one with that head, of which this machine must be a node as well.
        cpus: CPUs of a task, ≥ 0, fractions allowed.
        gpus: GPUs of a task; a fraction below 1 shares one GPU, above 1 they are whole.
        retries: how often a call is begun anew after its process or its machine died.

    Raises:
        UserError: a value out of its range.
    """

    address: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        for name, value in (("CPUs", self.cpus), ("GPUs", self.gpus)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{value} {name} a task: it must be a number from 0.")
        if self.cpus == self.gpus == 0:
            raise UserError("a task needs some CPU or some GPU, or all would run at once.")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise UserError(f"{self.gpus} GPUs a task: above 1 they are whole.")
        if self.retries < 0:
            raise UserError(f"{self.retries} retries: it must be at least 0.")
        if self.address not in ("local", "auto"):
            host, _, port = self.address.rpartition(":")
            if not host or "/" in host or not port.isdigit():
                raise UserError(
                    f"{self.address!r} is no address of a Ray cluster: local, auto or host:port, on one of its nodes."
                )


def each_on_cluster(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    *,
    cluster: Cluster,
    threads: int = 1,
    together: Sequence[Sequence[int]] | None = None,
    report: Callable[..., None] | None = None,
) -> Generator[Ended[T], None, None]:
    """`function(*call, tell)` for every call, in the order in which they end, on a Ray cluster.

    As `iclens.workers.each`: on Ctrl-C, and when the iteration is left, `tell` raises KeyboardInterrupt in every call
    that runs, and calls that wait are not begun; a call that does not end within some seconds then is killed. A call
    whose process or machine dies is begun anew elsewhere. Calls and results travel by the network: nothing is assumed
    of the disks. `calls` is read as tasks are submitted, a bounded number ahead of those that run, so that a sequence
    may make its items when they are asked for.

    Args:
        function: a function of a module that every machine can import.
        calls: arguments of every call; they must pickle, and so must what the function gives.
        cluster: where, and with what.
        threads: torch threads of each call.
        together: the places of the calls of every task, which run one after another in it, each ending on its own;
            every place once. When left out, every call is a task.
        report: called in this process as `report(place, *said)` with what a call told; a call that tells often is heard
            now and then.

    Raises:
        UserError: Ray is missing, there is no such cluster, none of its machines has what a task needs, or they do not
            run the same versions.
    """
    with connected(cluster):
        tasks = together if together is not None else ([place] for place in range(len(calls)))
        yield from _Driver(function, calls, cluster, threads, report).ends(tasks)


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Connected to the cluster inside; a connection that is there already is used and left as it is.

    Raises:
        UserError: see `each_on_cluster`.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    _connect(ray, cluster)
    try:
        yield
    finally:
        ray.shutdown()


def slots(cluster: Cluster) -> int:
    """How many tasks can run at once on the cluster that this process is connected to, as it is now."""
    return sum(_room(node["Resources"], cluster) for node in _ray().nodes() if node["Alive"])


def _ray() -> Any:
    # Neither the user's nor a cluster's habits are for others to know.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed: `pip install 'iclens[ray]'` brings it.") from None
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if cluster.address == "local":
        # Else a busy machine would starve these processes, and no others of this package.
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            with _on_loopback():
                ray.init(address="local", num_cpus=usable_cores(), include_dashboard=False, **quiet)
        # Ray raises bare ones, as on a machine so busy that its processes are not up in time.
        except Exception as error:
            ray.shutdown()
            raise UserError(f"Ray could not be started on this machine: {_first_line(error)}") from error
        if not all(node["NodeManagerAddress"].startswith("127.") for node in ray.nodes()):
            ray.shutdown()
            raise UserError(
                f"Ray {ray.__version__} does not keep to this machine's loopback address; start it with `ray start"
                " --head` as you want it, and use the address auto."
            )
        return
    if cluster.address == "auto":
        missing = "no Ray cluster runs on this machine: start one with `ray start --head`, or use the address local."
    else:
        missing = f"no Ray cluster answers at {cluster.address}."
        host, _, port = cluster.address.rpartition(":")
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError):
            raise UserError(missing) from None
    try:
        ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"{missing} Ray says: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Inside, Ray listens on the loopback address alone.

    It offers that only where it takes no machine for part of a cluster, so inside it is made to.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _room(resources: dict[str, float], cluster: Cluster) -> int:
    needs = (("CPU", cluster.cpus), ("GPU", cluster.gpus))
    return min(int(resources.get(name, 0.0) / need + 1e-6) for name, need in needs if need > 0)


def _versions() -> dict[str, str]:
    """What must be the same on all machines for results to be the same."""
    found = {"Python": platform.python_version()}
    for name in ("iclens", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@dataclass(eq=False)
class _Running:
    """A task in flight: the places of its calls that have not ended, the one that runs first."""

    left: deque[int]


class _Driver:
    """Submits tasks, gathers what their calls give, and submits anew what was lost."""

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        cluster: Cluster,
        threads: int,
        report: Callable[..., None] | None,
    ) -> None:
        self.ray = _ray()
        self.function, self.calls, self.cluster, self.threads = function, calls, cluster, threads
        self.report = report
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
        self.board = (
            self.ray.remote(_Board).options(num_cpus=0, scheduling_strategy=affinity(here, soft=False)).remote()
        )
        # Around a function whose types are checked at run time, Ray would not see the generator.
        task = self.ray.remote(inspect.unwrap(_task)).options(
            num_cpus=self.cluster.cpus, num_gpus=self.cluster.gpus, max_retries=0, num_returns="streaming"
        )
        versions = _versions()
        try:
            while True:
                while len(self.running) < self._most_in_flight():
                    places = self.lost.popleft() if self.lost else deque(next(waiting, ()))
                    if not places:
                        break
                    numbered = [(place, self.calls[place]) for place in places]
                    pause = max(0.1, self.slots / _WORDS_A_SECOND)
                    ends = task.remote(self.function, numbered, self.threads, self.board, pause, versions)
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
        """A task is over: the call that ran, if one did, is begun anew if it may, and the calls behind it are."""
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
                self.ray.get(self.board.stop.remote(), timeout=_GRACE)
            over = {ends.completed(): ends for ends in self.running}
            _, deaf = self.ray.wait(list(over), num_returns=len(over), timeout=_GRACE, fetch_local=False)
            # To cancel one that has just ended would end this process: Ray does not expect it.
            for one in deaf:
                with suppress(self.ray.exceptions.RayError):
                    self.ray.cancel(over[one], force=True)
        self.running.clear()
        self.ray.kill(self.board)


class _Board:
    """Hears all tasks and tells them whether to stop."""

    def __init__(self) -> None:
        self.heard: dict[int, tuple[Any, ...]] = {}
        self.stopped = False

    def tell(self, place: int, said: tuple[Any, ...]) -> bool:
        """Keep the last word of a call; whether it is to stop."""
        self.heard[place] = said
        return self.stopped

    def is_stopped(self) -> bool:
        """Whether calls are to stop."""
        return self.stopped

    def news(self) -> dict[int, tuple[Any, ...]]:
        """What was heard since the last time."""
        heard, self.heard = self.heard, {}
        return heard

    def stop(self) -> None:
        """Tell all calls to stop."""
        self.stopped = True


class _Tell:
    """What a call is given to tell its progress with, in the process of its task."""

    def __init__(self, board: Any, place: int, pause: float) -> None:
        self.ray = _ray()
        self.board, self.place, self.pause = board, place, pause
        self.last = -math.inf
        self.answer: Future[bool] | None = None

    def is_stopped(self) -> bool:
        """Whether a call that has waited need not begin; a board that is not up yet is not waited for."""
        return self._said_to_stop(self.board.is_stopped.remote().future())

    def __call__(self, *said: Any) -> None:
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


def _task(
    function: Callable[..., Any],
    calls: list[tuple[int, tuple[Any, ...]]],
    threads: int,
    board: Any,
    pause: float,
    versions: dict[str, str],
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Calls one after another in a worker process: place, value and error of each as it ends."""
    ours = _versions()
    if ours != versions:
        different = ", ".join(f"{name} {ours[name]} instead of {versions[name]}" for name in ours if ours != versions)
        raise UserError(f"{platform.node()} has {different}.")
    for place, call in calls:
        tell = _Tell(board, place, pause)
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
    """The error itself if it survives the way, else one with its name and text."""
    if isinstance(error, MemoryError):
        return UserError(f"there was not enough memory on {platform.node()}: do less at once.")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    # The frames behind it would travel with it.
    return error.with_traceback(None)
