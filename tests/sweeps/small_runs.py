"""Runs that were never trained: a configuration with a key, a few numbers."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import torch

from iclens.sweeps.index import Index
from iclens.sweeps.result import Result


@dataclass(frozen=True)
class SmallConfig:
    seed: int = 0
    learning_rate: float = 1e-3
    task: str = "linear"

    def to_dict(self):
        return {
            "seed": self.seed,
            "task": {"name": self.task, "d": 5},
            "training": {"learning_rate": self.learning_rate, "betas": (0.9, 0.999), "rates": {}},
            "shift": None,
        }

    def key(self):
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def tensors_of(seed, size=4):
    generator = torch.Generator().manual_seed(seed)
    return {
        "layers.0.W_Q": torch.randn(size, size, generator=generator, dtype=torch.float32),
        "gain": torch.randn((), generator=generator, dtype=torch.float64),
    }


def metrics_of(seed):
    curve = [(step, "loss", None, math.exp(-step) + seed) for step in (0, 1, 2)]
    return curve + [(step, "error", prefix, 1.0 / (1 + step + prefix)) for step in (0, 2) for prefix in range(4)]


def result_of(**changes):
    return Result(**{"status": "finished", "seconds": 0.5, "last_finite_step": 2, **changes})


def add(store, seed=0, **changes):
    """Add the run of a seed; its key."""
    config = SmallConfig(seed, **changes)
    store.add(config, tensors_of(seed), metrics_of(seed), result_of())
    return config.key()


def index_of(folder):
    """The index of the store in a folder."""
    return Index(folder / "index.sqlite")
