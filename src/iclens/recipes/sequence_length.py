"""Ren & Liu's first open question: softmax against linear attention as the sequence grows, in accuracy and cost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from iclens.attention.linear import linear_attention
from iclens.attention.softmax import softmax_attention, softmax_attention_naive
from iclens.intervals import Estimate
from iclens.recipes.figures import band, log_ticks, new_figure
from iclens.recipes.lab_runs import final_error, train_all
from iclens.recipes.recipe import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.seed_curves import seed_curve, seed_mean
from iclens.recipes.selection import over_seeds
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER = "Ren & Liu 2024"
_QUESTION = f"{_PAPER}, what the paper leaves open: how softmax attention scales with the sequence"

BETTER = Claim(
    "On long sequences trained softmax attention learns in context with a smaller error than trained linear attention.",
    _QUESTION,
    "asked",
)
WIDENS = Claim("The longer the sequence, the larger softmax attention's advantage in error.", _QUESTION, "asked")
TIME = Claim(
    "Softmax attention takes more time than linear attention, by a factor that grows with the sequence.",
    _QUESTION,
    "asked",
)
MEMORY = Claim(
    "Softmax attention takes more memory than linear attention, by a factor that grows with the sequence.",
    _QUESTION,
    "asked",
)

SOFTMAX, LINEAR, ELU = "softmax", "linear", "linear, elu + 1"
_OTHERS = (LINEAR, ELU)
FUSED, MATRIX = "softmax, fused", "softmax, whole matrix"

_KERNELS: dict[str, Callable[..., Tensor]] = {
    FUSED: softmax_attention,
    MATRIX: softmax_attention_naive,
    LINEAR: linear_attention,
}
# VmHWM, not getrusage: the latter begins with the peak of the process that started this one.
_PEAK = """
import json, sys, torch
from iclens.recipes.sequence_length import attend_once

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


@dataclass(frozen=True)
class LengthSettings:
    """The lengths, the models and the timing."""

    lengths: tuple[int, ...] = chosen((16, 64, 256, 1024, 4096), "demonstrations that one layer is trained with")
    lengths_two: tuple[int, ...] = chosen((16, 64, 256), "and two layers, which attend from every token to every other")
    d: int = chosen(5, "width of the inputs of the linear task")
    noise: float = chosen(0.5, "standard deviation of the labels' noise: more demonstrations then always help")
    n_model_heads: int = chosen(2, "of the models: bare tokens (x, y) as the residual stream, no norm, no FFN")
    steps: int = chosen(2000, "Adam with a cosine schedule, clipped at 1")
    learning_rate: float = chosen(0.005, "at its start")
    batch: int = chosen(32)
    n_seeds: int = chosen(5, "of weights and prompts, the same for all attentions")
    cost_lengths: tuple[int, ...] = chosen((256, 512, 1024, 2048, 4096), "tokens, each attending to all")
    n_pairs: int = chosen(15, "timed pairs of softmax and linear attention, one after the other")
    n_heads: int = chosen(4, "of the timed attention")
    head_width: int = chosen(64, "of the timed attention, float32, one thread")


@recipe("softmax-against-linear")
class SequenceLength(Recipe[LengthSettings]):
    """Error of one- and two-layer models trained at every length, and time and memory of the attention alone.

    Linear regression with noise, tokens (x, y), the error of the query on fresh prompts above the noise's variance.
    Linear attention has identity features, or elu + 1 features and a normaliser; its models train with the same seeds
    and steps as softmax attention's, with identity features from smaller weights at smaller rates, as N^(−1/4), since
    nothing divides by N there. Time is forward and backward of attention over all tokens, softmax
    and linear one after the other so that both meet the same machine; memory is the peak of a process of its own above
    its start. Softmax attention is timed as PyTorch's fused kernel computes it and with the whole matrix of weights.
    """

    title = "Softmax against linear attention as the sequence grows"
    reference = f"{_PAPER} (arXiv 2310.13220), open question"
    claims = (BETTER, WIDENS, TIME, MEMORY)
    quick = Preset(
        LengthSettings(
            lengths=(8, 32, 128),
            lengths_two=(8, 32),
            steps=300,
            n_seeds=4,
            cost_lengths=(256, 1024, 4096),
            n_pairs=5,
            n_heads=1,
        ),
        seconds=50,
    )
    paper = Preset(LengthSettings(), seconds=3000)

    def parts(self, settings: LengthSettings) -> list[Part]:
        """One a depth, length and attention; one a length for the time; one for the memory."""
        deep = {1: settings.lengths, 2: settings.lengths_two}
        trained: list[Part] = [
            {"what": "error", "n_layers": n_layers, "length": length, "attention": attention}
            for n_layers, lengths in deep.items()
            for length in lengths
            for attention in (SOFTMAX, *_OTHERS)
        ]
        timed: list[Part] = [{"what": "cost", "length": length} for length in settings.cost_lengths]
        return [*trained, *timed, {"what": "memory"}]

    def measure(self, part: Part, settings: LengthSettings, progress: Progress) -> Table:
        """Errors above the noise by seed, or times by pair and peaks of memory."""
        if part["what"] == "memory":
            return _memory_rows(settings, progress)
        if part["what"] == "cost":
            return _cost(int(part["length"] or 0), settings, progress)
        configs = [_config(part, settings, seed) for seed in range(settings.n_seeds)]
        noise = settings.noise**2
        runs = train_all(configs, progress)
        return Table(
            {"seed": seed, "error": final_error(run) - noise, "relative": (final_error(run) - noise) / settings.d}
            for seed, run in enumerate(runs)
        )

    def check(self, table: Table, settings: LengthSettings) -> list[Verdict]:
        """Paired by seed, or by pair of timings; on logarithms, with 95 % intervals."""
        times, peaks = table.where(what="cost"), table.where(what="memory")
        return [*_accuracy(table.where(what="error")), _time(times), _memory(peaks)]

    def plot(self, table: Table, settings: LengthSettings) -> Figure:
        """Errors of one and two layers, time, and memory, against the length."""
        figure = new_figure(15.0, 4.0)
        axes = figure.subplots(1, 4)
        errors = table.where(what="error")
        for ax, n_layers in zip(axes, (1, 2), strict=False):
            for attention in (SOFTMAX, *_OTHERS):
                curve = seed_curve(errors.where(n_layers=n_layers, attention=attention), "length", "relative")
                # A lower end at or below 0 has no place on a logarithmic axis.
                low = np.maximum(curve.low, curve.mean / 100)
                band(ax, curve.x, low, curve.mean, curve.high, attention, marker="o", ms=4)
            log_ticks(ax.xaxis, errors.where(n_layers=n_layers).numbers("length"))
            ax.set(
                xlabel="demonstrations",
                yscale="log",
                ylabel="error above the noise / that of predicting 0" if n_layers == 1 else "",
                title=f"{n_layers} layer{'s' * (n_layers > 1)}, trained at each length",
            )
            ax.legend()
        for ax, what, name, unit in (
            (axes[2], "cost", "milliseconds", "milliseconds"),
            (axes[3], "memory", "mebibytes", "peak, MiB"),
        ):
            rows = table.where(what=what)
            ax.set(xlabel="tokens", ylabel=unit, title="forward and backward of attention")
            if name not in rows.names:
                continue
            for kernel, look in zip(_KERNELS, ("C0o-", "C3s-", "C1^-"), strict=True):
                curve = seed_curve(rows.where(kernel=kernel), "length", name)
                ax.plot(curve.x, np.maximum(curve.mean, 0.1), look, ms=4, label=kernel)
            ax.set_yscale("log")
            log_ticks(ax.xaxis, rows.numbers("length"))
            ax.legend()
        return figure


def _config(part: Part, settings: LengthSettings, seed: int) -> RunConfig:
    length, attention = int(part["length"] or 0), part["attention"]
    # Without a normaliser the sum over demonstrations grows with their number: four factors share the difference.
    shrink = (8 / length) ** 0.25 if attention == LINEAR else 1.0
    return RunConfig.from_dict(
        {
            "seed": seed,
            "task": {"name": "linear", "d": settings.d, "noise_std": settings.noise},
            "model": {
                "name": "transformer",
                "n_layers": int(part["n_layers"] or 1),
                "n_heads": settings.n_model_heads,
                "width": settings.d + 1,
                "head_width": settings.d + 1,
                "norm": "none",
                "tokens": "joint",
                "embed": False,
                "bias": False,
                "init_std": 0.3 * shrink,
                "attention": "softmax" if attention == SOFTMAX else "linear",
                "attention_options": {"features": "elu"} if attention == ELU else {},
            },
            "training": {
                "steps": settings.steps,
                "batch": settings.batch,
                "n_context": length,
                "loss": "query",
                "learning_rate": settings.learning_rate * shrink,
                "schedule": "cosine",
                "clip": 1.0,
                "evaluate_every": 0,
                "evaluation_prompts": 1000,
            },
        }
    )


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
    _KERNELS[name](q, k, v, **options).sum().backward()
    return time.perf_counter() - start


def _cost(length: int, settings: LengthSettings, progress: Progress) -> Table:
    sizes = (length, settings.n_heads, settings.head_width)
    threads = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    try:
        torch.set_num_threads(1)
        for name in _KERNELS:
            attend_once(name, *sizes)
        for pair in range(settings.n_pairs):
            progress(pair, settings.n_pairs + 1, f"timing {length} tokens")
            # Every other round in reverse, so that none is always first.
            names = list(_KERNELS)[:: -1 if pair % 2 else 1]
            rows += [{"kernel": name, "pair": pair, "milliseconds": 1e3 * attend_once(name, *sizes)} for name in names]
    finally:
        torch.set_num_threads(threads)
    return Table(rows)


def _memory_rows(settings: LengthSettings, progress: Progress) -> Table:
    rows: list[dict[str, Any]] = []
    for place, name in enumerate(_KERNELS):
        progress(place, len(_KERNELS), f"memory of {name}")
        found = _peaks(name, settings)
        rows += [
            {"kernel": name, "length": n, "mebibytes": mib}
            for n, mib in zip(sorted(settings.cost_lengths), found, strict=False)
        ]
    return Table(rows or [{"kernel": "none"}])


def _peaks(name: str, settings: LengthSettings) -> list[float]:
    """Peaks in MiB of forward and backward passes, ascending, in one new process; empty where none can be read."""
    if not sys.platform.startswith("linux"):
        return []
    sizes = map(str, (settings.n_heads, settings.head_width, *sorted(settings.cost_lengths)))
    done = subprocess.run([sys.executable, "-c", _PEAK, name, *sizes], capture_output=True, text=True, check=True)
    return [float(peak) for peak in json.loads(done.stdout)]


def _accuracy(errors: Table) -> list[Verdict]:
    """Softmax against the better of the linear attentions, at the longest length and along the lengths."""
    better, widens, numbers, slopes, depths = [], [], [], [], errors.numbers("n_layers")
    for n_layers in depths:
        rows = errors.where(n_layers=int(n_layers))
        lengths = rows.numbers("length")
        gains = np.stack([_gain(rows.where(length=int(length))) for length in lengths])
        name = f"{int(n_layers)} layer{'s' * (n_layers > 1)}"
        last = over_seeds(torch.from_numpy(gains[-1]), len(depths))
        numbers.append(f"{name}, {int(lengths[-1])} demonstrations: {last:+.2f}")
        if last.low > 0:
            better.append(name)
        slope = _slope(lengths, gains)
        slopes.append(f"{name}: {slope:+.2f} a tenfold length")
        if slope.low > 0:
            widens.append(name)
    what = "log₁₀ of the better linear attention's error over softmax's"
    return [
        BETTER.judged(
            bool(better),
            f"{what}: {'; '.join(numbers)}",
            "at the longest length the 95 % interval, paired by seed and corrected for both depths, lies above 0",
            "" if len(better) == len(depths) else f"there is {' or '.join(better)}",
        ),
        WIDENS.judged(
            bool(widens),
            f"slope of that logarithm: {'; '.join(slopes)}",
            "the 95 % interval of the slope over log₁₀ of the length, by seed, lies above 0",
            "" if len(widens) == len(depths) else f"there is {' or '.join(widens)}",
        ),
    ]


def _gain(rows: Table) -> np.ndarray:
    """By seed; the linear attention with the smaller mean is the rival. Errors at or below the noise are cut off."""
    found = {
        name: np.maximum(rows.where(attention=name).sorted_by("seed").column("relative"), 1e-6)
        for name in (SOFTMAX, *_OTHERS)
    }
    rival = min(_OTHERS, key=lambda name: float(found[name].mean()))
    return np.log10(found[rival] / found[SOFTMAX])


def _slope(lengths: list[float], values: np.ndarray) -> Estimate:
    """Least-squares slope of every column of `values` over log₁₀ of the lengths, over the columns."""
    return seed_mean(np.polyfit(np.log10(lengths), values, 1)[0])


def _ratios(cost: Table, kernel: str, length: float) -> np.ndarray:
    """log₁₀ of the time of softmax over linear attention, by pair."""
    rows = cost.where(length=int(length)).only("pair")
    times = [rows.where(kernel=name).sorted_by("pair").column("milliseconds") for name in (kernel, LINEAR)]
    return np.log10(times[0] / times[1])


def _time(cost: Table) -> Verdict:
    lengths = cost.numbers("length")
    held, numbers = [], []
    for kernel in (FUSED, MATRIX):
        logs = np.stack([_ratios(cost, kernel, length) for length in lengths])
        last, slope = seed_mean(logs[-1]), _slope(lengths, logs)
        numbers.append(
            f"{kernel}: × {10**last.mean:.2g} [{10**last.low:.2g}, {10**last.high:.2g}] at {int(lengths[-1])} tokens, "
            f"the ratio grows as tokens to the power {slope:.2f}"
        )
        if last.low > 0 and slope.low > 0.5:
            held.append(kernel)
    return TIME.judged(
        bool(held),
        "; ".join(numbers),
        "in interleaved pairs the ratio at the longest length lies above 1, and its power of the length above 0.5",
        "" if len(held) == 2 else f"softmax is computed as {held[0] if held else ''}",
    )


def _memory(peaks: Table) -> Verdict:
    if "mebibytes" not in peaks.names:
        return MEMORY.untested("The peak of memory of a process is read on Linux only.")
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
    return MEMORY.judged(
        bool(held),
        "; ".join(numbers),
        "at the longest length more than twice linear attention's, and that factor more than twice the shortest's",
        "" if len(held) == 2 else f"softmax is computed as {held[0] if held else ''}",
    )
