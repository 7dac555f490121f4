"""Trainings by several processes, for `test_distributed.py`: `torchrun … together.py FOLDER` writes what each saw."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from tests.training.tiny_runs import tiny

from iclens.errors import UserError
from iclens.training.distributed import Processes, joined, launched
from iclens.training.ensemble import Ensemble
from iclens.training.loop import train

# 7 prompts are 3 and 4 for two processes. Adam would magnify the rounding of biases that have no effect.
PLAIN = {"steps": 30, "batch": 7, "evaluate_every": 10, "optimizer": "sgd", "momentum": 0.9, "clip": 1.0}
SEVERAL = [
    tiny(seed=seed, training={**PLAIN, "learning_rate": rate}, curriculum={"every": 9, "d_start": 2, "n_start": 2})
    for seed, rate in ((0, 0.01), (1, 0.03))
]
ADAM = {dtype: [tiny(training={**PLAIN, "dtype": dtype, "optimizer": "adam"})] for dtype in ("float64", "float32")}
QUERY = [tiny(model={"tokens": "joint"}, training={**PLAIN, "optimizer": "gd", "loss": "query", "n_context": 4})]
WILD = [tiny(seed=seed, training={**PLAIN, "clip": 0.0, "learning_rate": rate}) for seed, rate in ((0, 1e9), (1, 0.01))]
STOPPED_AT = 12


def seen(runs):
    """What can be compared of trained runs, with plain numbers and tensors only."""
    return [
        {
            "tensors": one.tensors,
            "metrics": [tuple(row) for row in one.metrics],
            "status": one.status,
            "diverged_at": one.diverged_at or -1,
        }
        for one in runs
    ]


def refused(configs, processes, **options):
    try:
        train(configs, processes=processes, **options)
    except UserError as error:
        return str(error)
    return ""


def stopped(configs, processes, path, number):
    """Train until a process gets a signal in the middle of a step; whether this one was interrupted."""
    plain = Processes.sum

    def pressed(self, *arguments):
        if ensemble_steps[0] == STOPPED_AT - 2 and self.rank == 1:
            os.kill(os.getpid(), number)
        ensemble_steps[0] += 1
        return plain(self, *arguments)

    ensemble_steps = [0]
    Processes.sum = pressed
    try:
        train(configs, processes=processes, checkpoint=path)
    except KeyboardInterrupt:
        return True
    finally:
        Processes.sum = plain
    return False


def not_finite_in_one(configs, processes):
    """Train with a loss that is not finite for the prompts of the second process, at step 5."""
    plain = Ensemble.losses

    def losses(self, inputs, labels, step):
        found = plain(self, inputs, labels, step)
        return found * float("nan") if step == 5 and processes.rank == 1 else found

    Ensemble.losses = losses
    try:
        return seen(train(configs, processes=processes))
    finally:
        Ensemble.losses = plain


def main(folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with joined(launched()) as processes:
        found = {
            "several": seen(train(SEVERAL, processes=processes)),
            **{dtype: seen(train(configs, processes=processes)) for dtype, configs in ADAM.items()},
            "query": seen(train(QUERY, processes=processes)),
            "wild": seen(train(WILD, processes=processes)),
            "nan": not_finite_in_one(SEVERAL[:1], processes),
            "from one": seen(train(SEVERAL, processes=processes, checkpoint=folder / "one.safetensors")),
            "interrupted": [
                stopped(SEVERAL, processes, folder / f"{number.name}.safetensors", number)
                for number in (signal.SIGINT, signal.SIGTERM)
            ],
            "handlers": [signal.getsignal(one) == signal.SIG_DFL for one in (signal.SIGTERM,)],
            "different": refused([tiny(seed=processes.rank)], processes),
            "few": refused([tiny(training={"batch": 1})], processes),
            "damaged": refused([tiny()], processes, checkpoint=folder / "damaged.safetensors"),
        }
        again = folder / "SIGTERM.safetensors"
        if processes.first:
            (folder / "kept.safetensors").write_bytes(again.read_bytes())
        found["again"] = seen(train(SEVERAL, processes=processes, checkpoint=again))
    torch.save(found, folder / f"{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
