"""What attention alone costs as the sequence grows: time in interleaved pairs, peak memory in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iclens.attention.linear import linear_attention
from iclens.attention.softmax import softmax_attention, softmax_attention_naive
from iclens.intervals import Estimate
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Progress
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

LINEAR = "linear"
FUSED, MATRIX = "softmax, fused", "softmax, whole matrix"

KERNELS: dict[str, Callable[..., Tensor]] = {
    FUSED: softmax_attention,
    MATRIX: softmax_attention_naive,
    LINEAR: linear_attention,
}
"""What is timed and weighed: softmax as PyTorch's fused kernel computes it, with the whole matrix, and linear."""

# VmHWM, not getrusage: the latter begins with the peak of the process that started this one.
_PEAK = """
import json, sys, torch
from iclens.papers.ren_liu_2024.attention_cost import attend_once

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
name, heads, width, *lengths = sys.argv[1], *map(int, sys.argv[2:])
attend_once(name, 32, heads, width)
peaks = [peak()]
for length in lengths:
    attend_once(name, length, heads, width)
    peaks.append(peak())
print(json.dumps([found - peaks[0] for found in peaks[1:]]))
"""


def attend_once(name: str, length: int, n_heads: int, width: int) -> float:
    """Forward and backward of one attention on random numbers.

    Args:
        name: of the kernel.
        length: number of tokens.
        n_heads: number of heads.
        width: of a head.

    Returns:
        seconds.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, n_heads, length, width, generator=generator, dtype=torch.float32).requires_grad_()
        for _ in range(3)
    )
    options = {"scale": 1 / length} if name == LINEAR else {}
    start = time.perf_counter()
    KERNELS[name](q, k, v, **options).sum().backward()
    return time.perf_counter() - start


def time_rows(length: int, n_pairs: int, n_heads: int, width: int, progress: Progress) -> Table:
    """Milliseconds of every kernel on one thread, one kernel after the other in every round.

    Args:
        length: number of tokens.
        n_pairs: rounds.
        n_heads: number of heads.
        width: of a head.
        progress: called after each round.
    """
    sizes = (length, n_heads, width)
    threads = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    try:
        torch.set_num_threads(1)
        for name in KERNELS:
            attend_once(name, *sizes)
        for pair in range(n_pairs):
            progress(pair, n_pairs + 1, f"timing {length} tokens")
            # Every other round in reverse, so that none is always first.
            names = list(KERNELS)[:: -1 if pair % 2 else 1]
            rows += [{"kernel": name, "pair": pair, "milliseconds": 1e3 * attend_once(name, *sizes)} for name in names]
    finally:
        torch.set_num_threads(threads)
    return Table(rows)


def memory_rows(
    lengths: Sequence[int],
    n_heads: int,
    width: int,
    progress: Progress,
    peaks: Callable[[str, Sequence[int], int, int], list[float]],
) -> Table:
    """Peaks of memory of every kernel above its start; no such column where they cannot be read.

    Args:
        lengths: numbers of tokens.
        n_heads: number of heads.
        width: of a head.
        progress: called after each kernel.
        peaks: how they are measured, e.g. `peaks_in_a_process`.
    """
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(KERNELS):
        progress(place, len(KERNELS), f"memory of {name}")
        found = peaks(name, sorted(lengths), n_heads, width)
        rows += [
            {"kernel": name, "length": n, "mebibytes": mib} for n, mib in zip(sorted(lengths), found, strict=False)
        ]
    return Table(rows or [{"kernel": "none"}])


def peaks_in_a_process(name: str, lengths: Sequence[int], n_heads: int, width: int) -> list[float]:
    """Measure the peaks of memory of one kernel's forward and backward passes in one new process.

    Args:
        name: of the kernel.
        lengths: numbers of tokens, ascending.
        n_heads: number of heads.
        width: of a head.

    Returns:
        MiB above the start, one a length; nothing where memory cannot be read.
    """
    if not sys.platform.startswith("linux"):
        return []
    sizes = map(str, (n_heads, width, *lengths))
    done = subprocess.run([sys.executable, "-c", _PEAK, name, *sizes], capture_output=True, text=True, check=True)
    return [float(peak) for peak in json.loads(done.stdout)]


def slope_over_length(lengths: Sequence[float], values: np.ndarray, n_chosen_from: int = 1) -> Estimate:
    """Least-squares slope over log₁₀ of the lengths, over the columns of `values`.

    Args:
        lengths: ascending.
        values: (lengths, seeds).
        n_chosen_from: the number of slopes that are judged at once (Bonferroni).
    """
    return over_seeds(torch.from_numpy(np.polyfit(np.log10(lengths), values, 1)[0]), n_chosen_from)


def _ratios(cost: Table, kernel: str, length: float) -> np.ndarray:
    """log₁₀ of the time of softmax over linear attention, by pair."""
    rows = cost.where(length=int(length)).only("pair")
    times = [rows.where(kernel=name).sorted_by("pair").column("milliseconds") for name in (kernel, LINEAR)]
    return np.log10(times[0] / times[1])


def time_verdict(claim: Claim, cost: Table) -> Verdict:
    """Return whether softmax takes more time, by a factor that grows with the length."""
    lengths = cost.numbers("length")
    held, numbers = [], []
    for kernel in (FUSED, MATRIX):
        logs = np.stack([_ratios(cost, kernel, length) for length in lengths])
        last, slope = seed_mean(logs[-1]), slope_over_length(lengths, logs)
        numbers.append(
            f"{kernel}: × {10**last.mean:.2g} [{10**last.low:.2g}, {10**last.high:.2g}] at {int(lengths[-1])} tokens, "
            f"the ratio grows as tokens to the power {slope:.2f}"
        )
        if last.low > 0 and slope.low > 0.5:
            held.append(kernel)
    return claim.judged(
        bool(held),
        "; ".join(numbers),
        "in interleaved pairs the ratio at the longest length lies above 1, and its power of the length above 0.5",
        "" if len(held) == 2 else f"softmax is computed as {held[0] if held else ''}",
    )


def memory_verdict(claim: Claim, peaks: Table) -> Verdict:
    """Return whether softmax takes more memory, by a factor that grows with the length."""
    if "mebibytes" not in peaks.names:
        return claim.untested("The peak of memory of a process is read on Linux only.")
    lengths = peaks.numbers("length")
    held, numbers = [], []
    for kernel in (FUSED, MATRIX):
        ratios = [
            float(peaks.where(kernel=kernel, length=int(length)).column("mebibytes")[0])
            / max(float(peaks.where(kernel=LINEAR, length=int(length)).column("mebibytes")[0]), 0.1)
            for length in (lengths[0], lengths[-1])
        ]
        ends = f"{int(lengths[0])} and {int(lengths[-1])} tokens"
        numbers.append(f"{kernel}: × {ratios[0]:.2g} and × {ratios[1]:.2g} linear attention's at {ends}")
        if ratios[1] > 2 and ratios[1] > 2 * ratios[0]:
            held.append(kernel)
    return claim.judged(
        bool(held),
        "; ".join(numbers),
        "at the longest length more than twice linear attention's, and that factor more than twice the shortest's",
        "" if len(held) == 2 else f"softmax is computed as {held[0] if held else ''}",
    )
