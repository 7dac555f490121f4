"""Ren & Liu's first open question: softmax against linear attention as the sequence grows, in accuracy and cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from iclens.papers.ren_liu_2024.attention_cost import (
    KERNELS,
    LINEAR,
    memory_rows,
    memory_verdict,
    peaks_in_a_process,
    slope_over_length,
    time_rows,
    time_verdict,
)
from iclens.recipes.best_of_many import over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, log_ticks, new_figure
from iclens.recipes.lab_answers import double_model, excess_error
from iclens.recipes.lab_runs import query_run, train_all
from iclens.recipes.seed_curves import seed_curve
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.config import RunConfig

_PAPER = "Ren & Liu 2024"
_QUESTION = f"{_PAPER}, what the paper leaves open: how softmax attention scales with the sequence"
_asked = partial(Claim, source=_QUESTION, trust="asked")

BETTER = _asked(
    "On long sequences trained softmax attention learns in context with a smaller error than trained linear attention."
)
WIDENS = _asked("The longer the sequence, the larger softmax attention's advantage in error.")
TIME = _asked("Softmax attention takes more time than linear attention, by a factor that grows with the sequence.")
MEMORY = _asked("Softmax attention takes more memory than linear attention, by a factor that grows with the sequence.")

SOFTMAX, ELU = "softmax", "linear, elu + 1"
_OTHERS = (LINEAR, ELU)


@dataclass(frozen=True)
class LengthSettings:
    """The lengths, the models and the timing."""

    lengths: tuple[int, ...] = chosen((16, 64, 256, 1024, 4096), "demonstrations that one layer is trained with")
    lengths_two: tuple[int, ...] = chosen((16, 64, 256), "and two layers, which attend from every token to every other")
    d: int = chosen(5, "width of the inputs of the linear task")
    noise: float = chosen(0.5, "standard deviation of the labels' noise: more demonstrations then always help")
    n_model_heads: int = chosen(2, "of the models: bare tokens (x, y) as the residual stream, no norm, no FFN")
    steps: int = chosen(1200, "Adam with a cosine schedule after a twelfth of warm-up, clipped at 1")
    learning_rate: float = chosen(0.03, "softmax and elu + 1; of 0.005 to 0.06 the best for softmax with 64")
    learning_rate_linear: float = chosen(0.01, "identity features; with two layers a third more error at 0.03")
    batch: int = chosen(32)
    n_seeds: int = chosen(5, "of weights and prompts, the same for all attentions")
    n_prompts: int = chosen(4000, "fresh prompts a seed, on which answers are compared with wᵀx")
    cost_lengths: tuple[int, ...] = chosen((256, 512, 1024, 2048, 4096), "tokens, each attending to all")
    n_pairs: int = chosen(15, "timed pairs of softmax and linear attention, one after the other")
    n_heads: int = chosen(4, "of the timed attention")
    head_width: int = chosen(64, "of the timed attention, float32, one thread")


@recipe("softmax-against-linear")
class SequenceLength(Recipe[LengthSettings]):
    """Error of one- and two-layer models trained at every length, and time and memory of the attention alone.

    Linear regression with noise, tokens (x, y), and the error above the noise: E(ŷ − wᵀx)² on fresh prompts, the same
    for all attentions, in float64.
    Linear attention has identity features, or elu + 1 features and a normaliser; its models train with the same seeds
    and steps as softmax attention's, with identity features from smaller weights at smaller rates, as N^(−1/4), since
    nothing divides by N there. Softmax attention with one layer has not fully converged after so few steps, so that a
    larger error of it is one of this training. Time is forward and backward of attention over all tokens, softmax
    and linear one after the other so that both meet the same machine; memory is the peak of its own process above
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
    paper = Preset(LengthSettings(), seconds=1300)
    revision = 3
    peaks = staticmethod(peaks_in_a_process)

    def parts(self, settings: LengthSettings) -> list[Part]:
        """Return one part per depth, length and attention, one per length for the time, and one for the memory."""
        deep = {1: settings.lengths, 2: settings.lengths_two}
        trained: list[Part] = [
            {"what": "error", "n_layers": n_layers, "length": length, "attention": attention}
            for n_layers, lengths in deep.items()
            for length in lengths
            for attention in (SOFTMAX, *_OTHERS)
        ]
        timed: list[Part] = [{"what": "cost", "length": length} for length in settings.cost_lengths]
        return [*trained, *timed, {"what": "memory"}]

    def alone(self, part: Part, settings: LengthSettings) -> bool:
        """Return whether the part is timed."""
        return part["what"] == "cost"

    def measure(self, part: Part, settings: LengthSettings, progress: Progress) -> Table:
        """Errors above the noise by seed, or times by pair and peaks of memory."""
        if part["what"] == "memory":
            return memory_rows(settings.cost_lengths, settings.n_heads, settings.head_width, progress, self.peaks)
        if part["what"] == "cost":
            length = int(part["length"] or 0)
            return time_rows(length, settings.n_pairs, settings.n_heads, settings.head_width, progress)
        configs = [_config(part, settings, seed) for seed in range(settings.n_seeds)]
        rows = []
        for run in train_all(configs, progress):
            seed, task, n = run.config.seed, run.config.make_task(), run.config.training.n_context
            error = excess_error(double_model(run), task, seed, settings.n_prompts, n)
            rows.append({"seed": seed, "error": error, "relative": error / settings.d})
        return Table(rows)

    def check(self, table: Table, settings: LengthSettings) -> list[Verdict]:
        """Paired by seed, or by pair of timings; on logarithms, with 95 % intervals."""
        times, peaks = table.where(what="cost"), table.where(what="memory")
        return [*_accuracy(table.where(what="error")), time_verdict(TIME, times), memory_verdict(MEMORY, peaks)]

    def plot(self, table: Table, settings: LengthSettings) -> Figure:
        """Errors of one and two layers, time, and memory, against the length."""
        figure = new_figure(15.0, 4.0)
        axes = figure.subplots(1, 4)
        errors = table.where(what="error")
        for ax, n_layers in zip(axes, (1, 2), strict=False):
            for attention in (SOFTMAX, *_OTHERS):
                curve = seed_curve(errors.where(n_layers=n_layers, attention=attention), "length", "relative")
                band(ax, curve, attention, least=curve.mean / 100, marker="o", ms=4)
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
            for kernel, look in zip(KERNELS, ("C0o-", "C3s-", "C1^-"), strict=True):
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
    rate = settings.learning_rate_linear if attention == LINEAR else settings.learning_rate
    task = {"name": "linear", "d": settings.d, "noise_std": settings.noise}
    sizes = {"n_layers": int(part["n_layers"] or 1), "n_heads": settings.n_model_heads, "head_width": settings.d + 1}
    bare = {"width": settings.d + 1, "norm": "none", "tokens": "joint", "embed": False, "bias": False}
    variant = {
        "attention": "softmax" if attention == SOFTMAX else "linear",
        "attention_options": {"features": "elu"} if attention == ELU else {},
    }
    model = {"name": "transformer", **sizes, **bare, **variant, "init_std": 0.3 * shrink}
    changed = {"n_context": length, "learning_rate": rate * shrink, "warmup": settings.steps // 12}
    return query_run(settings, seed, task, model, **changed)


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
        slope = slope_over_length(lengths, gains, len(depths))
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
            "the 95 % interval of the slope over log₁₀ of the length, by seed and corrected for both depths, lies "
            "above 0",
            "" if len(widens) == len(depths) else f"there is {' or '.join(widens)}",
        ),
    ]


def _gain(rows: Table) -> np.ndarray:
    """By seed; the linear attention with the smaller mean is the rival."""
    found = {name: rows.where(attention=name).sorted_by("seed").column("relative") for name in (SOFTMAX, *_OTHERS)}
    rival = min(_OTHERS, key=lambda name: float(found[name].mean()))
    return np.log10(found[rival] / found[SOFTMAX])
