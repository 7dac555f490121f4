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
