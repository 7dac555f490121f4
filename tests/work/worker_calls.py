"""Calls for test_workers.py: a worker process finds them by the name of this module."""

import os
import signal
import time

import torch

from iclens.errors import UserError


def square(x, tell):
    tell(x, "squaring")
    if x < 0:
        raise UserError(f"{x} is negative.")
    return x * x, os.getpid(), torch.get_num_threads()


def endless(path, tell):
    path.write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)
        tell("still here")


def killed(x, tell):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(x, place, tell):
    if x == place:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def short_of_memory(x, tell):
    if x == 1:
        raise MemoryError
    return x


def deaf(path, tell):
    path.write_text(str(os.getpid()))
    time.sleep(600)


def patient(folder, place, tell):
    """Waits until it may go on; how often it was begun."""
    begun = folder / str(place)
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not (folder / "go on").exists():
        time.sleep(0.05)
        tell("waiting")
    return len(begun.read_text().split())
