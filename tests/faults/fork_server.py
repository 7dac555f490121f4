"""A process that has imported everything, forks the `iclens` command, and kills it at a given moment.

Importing torch takes seconds, so that two hundred kills of new interpreters would take the better part of an hour, and
most of them would hit the imports. A fork begins where `main` begins. For the same reason worker processes are forked
here, where the command itself spawns them: torch has one thread, so there is no state of threads to be shared. Kills of
real `iclens` processes are in `test_kills.py` beside those.

Reads one request a line from standard input (JSON), and answers each with one line.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

CLEAR_SECONDS = 60.0
"""How long what a killed command leaves may take to end."""


def prepare() -> None:
    import torch

    from iclens.work import workers

    # Every process is worth its start here: set before anyone imports the name.
    workers.worth_starting = lambda number, seconds: number
    from iclens.cli.subcommand import discover
    from iclens.recipes.contract import RECIPES
    from iclens.sweeps import sweep

    torch.set_num_threads(1)
    discover()
    fork = multiprocessing.get_context("fork")
    workers.multiprocessing.get_context = lambda _name: fork
    # Every step is a checkpoint.
    sweep.train = partial(sweep.train, checkpoint_seconds=0.0)
    RECIPES.register("fault-dice")(dice())


def dice():
    from iclens.recipes.contract import Preset, Recipe
    from iclens.recipes.figures import new_figure
    from iclens.recipes.settings import chosen
    from iclens.recipes.table import Table
    from iclens.recipes.verdict import Claim

    claim = Claim("Dice are fair.", "a book", "stated")

    @dataclass(frozen=True)
    class Settings:
        n: int = chosen(8)

    class Dice(Recipe[Settings]):
        """Throws of dice, a part each."""

        id = "fault-dice"
        title = "Dice"
        reference = "a book"
        claims = (claim,)
        quick = Preset(Settings(), seconds=1.0)
        paper = Preset(Settings(n=16), seconds=2.0)

        def parts(self, settings):
            return [{"seed": seed} for seed in range(settings.n)]

        def measure(self, part, settings, progress):
            import torch

            generator = torch.Generator().manual_seed(part["seed"])
            rows = []
            for throw in range(5):
                time.sleep(0.01)
                progress(throw, 5, "thrown")
                rows.append({"throw": throw, "value": torch.randn((), generator=generator, dtype=torch.float64)})
            return Table(rows)

        def check(self, table, settings):
            mean = float(table.column("value").mean())
            return [claim.judged(abs(mean) < 1, f"mean {mean}", "|mean| < 1")]

        def plot(self, table, settings):
            figure = new_figure(3, 2)
            figure.subplots().plot(table.column("throw"), table.column("value"), "o")
            return figure

    # Worker processes are sent the recipe by the name of its class.
    for kind in (Settings, Dice):
        kind.__qualname__ = kind.__name__
        globals()[kind.__name__] = kind
    return Dice()


def command(request) -> int:
    """The command, in this process."""
    from iclens.cli.main import main

    os.setsid()
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    warnings.resetwarnings()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_up_fault(request)
    try:
        return main(request["argv"])
    except SystemExit as error:
        return int(error.code or 0)
    except KeyboardInterrupt:  # before `main` could catch it, or after
        return 130
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if "modules" in request:
            with open(request["modules"], "w") as file:
                file.write("\n".join(sys.modules))


def set_up_fault(request) -> None:
    """What is to be different in this process: a limit, or a place at which a fault strikes."""
    for name in request.get("before", []):
        BEFORE[name]()


def little_memory() -> None:
    """A hundred MiB more than this process has."""
    import resource

    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + 100 * 2**20, resource.RLIM_INFINITY))


def as_nobody() -> None:
    os.setgid(65534)
    os.setuid(65534)


def clock_jumps() -> None:
    """The wall clock goes back by a day at every other look, and ahead by a year; the monotonic ones go on."""
    from datetime import datetime

    from iclens.recipes import reproduce
    from iclens.sweeps import result

    real, looks = time.time, []

    def jumping() -> float:
        looks.append(1)
        return real() + (-86_400.0 if len(looks) % 2 else 366 * 86_400.0)

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(jumping(), tz)

    time.time = jumping
    result.datetime = Jumping
    reproduce.datetime = Jumping


def one_task_is_killed() -> None:
    """The runs of seed 1 end their process, as one that is out of memory does."""
    from iclens.sweeps import sweep

    plain = sweep.train

    def train(configs, **rest):
        if any(one.seed == 1 for one in configs):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(configs, **rest)

    sweep.train = train


def one_task_lacks_memory() -> None:
    """The runs of seed 1 are refused their memory."""
    from iclens.sweeps import sweep

    plain = sweep.train

    def train(configs, **rest):
        if any(one.seed == 1 for one in configs):
            raise MemoryError
        return plain(configs, **rest)

    sweep.train = train


BEFORE = {
    "little memory": little_memory,
    "as nobody": as_nobody,
    "clock jumps": clock_jumps,
    "one task is killed": one_task_is_killed,
    "one task lacks memory": one_task_lacks_memory,
}


def members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(name))
    return found


def begun(request) -> int:
    """The command in a process of its own, a new session."""
    child = os.fork()
    if child == 0:
        status = 71
        try:
            status = command(request)
        finally:
            os._exit(status)
    return child


def send(number: int, child: int, whole: bool) -> None:
    for process in members(child) if whole else [child]:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def serve(request) -> dict:
    start = time.perf_counter()
    children = [begun(request) for _ in range(request.get("copies", 1))]
    if request["signal"]:
        time.sleep(request["after"])
        send(getattr(signal, f"SIG{request['signal']}"), children[0], request["whole"])
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    seconds = time.perf_counter() - start
    until = time.monotonic() + CLEAR_SECONDS
    while (left := [one for child in children for one in members(child)]) and time.monotonic() < until:
        time.sleep(0.01)
    for process in left:
        os.kill(process, signal.SIGKILL)
    if "modules" in request:
        # What the command imported on its way, so that the next ones begin with it.
        with open(request["modules"]) as file:
            for name in file.read().split():
                if name not in sys.modules:
                    with suppress(Exception):
                        importlib.import_module(name)
    return {"statuses": statuses, "seconds": seconds, "orphans": len(left)}


if __name__ == "__main__":
    prepare()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()
