"""Yang et al. 2024, Fig. 5: how many heads a 4-layer transformer needs, in a fixed time and in fixed steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from iclens.intervals import Estimate
from iclens.papers.yang_2024.deep_runs import SMALL, DeepSettings, deep_rows
from iclens.papers.yang_2024.runs import SOURCE, TOKENS, judged_by_tokens, log_band
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, log_ticks, new_figure
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

BEST = Claim("After a fixed time by the clock, 4 heads have the lowest training loss.", f"{SOURCE}, Fig. 5a", "stated")
SLOWER = Claim("32 and 64 heads are slower: their loss after that time is higher.", f"{SOURCE}, Fig. 5", "stated")
NO_NEED = Claim(
    "A deep model does not need a large number of heads: few heads end as low as many.", f"{SOURCE}, Fig. 5", "stated"
)
BY_STEPS = Claim(
    "Also after a fixed number of steps 4 heads have the lowest training loss.",
    "our question: the clock charges many heads for their time",
    "asked",
)


@dataclass(frozen=True)
class ClockSettings(DeepSettings):
    """Fig. 5."""

    n_heads: tuple[int, ...] = chosen((1, 2, 4, 8, 16, 32, 64), "H; stated: 4, 32 and 64 among them")
    seconds: float = stated(100.0, "by the clock")
    steps: int = chosen(0, "least number of steps; the comparison at fixed steps takes what every run reached")


@recipe("yang-fig-5")
class YangFig5(Recipe[ClockSettings]):
    """The 4-layer model of Fig. 2b with different numbers of heads, each run alone for the same time.

    The heads share the width, so that the number of parameters is the same. The training loss is that of the first 512
    training prompts. The same runs are compared a second time at the largest number of steps that all of them reached.
    What the clock says depends on the machine. Float32.

    Losses are compared by their differences, paired by seed, as the paper plots the losses themselves; that was the
    first choice. Ratios, tried later, were given up, since they were chosen with results in view.
    """

    title = "A 4-layer transformer does not need many heads"
    reference = f"{SOURCE} (arXiv 2408.10147), Figs 5a and 5b"
    claims = (BEST, SLOWER, NO_NEED, BY_STEPS)
    quick = Preset(ClockSettings(**SMALL, every=10, n_heads=(1, 4, 32), seconds=3.0), seconds=100)
    paper = Preset(ClockSettings(every=20), seconds=7300, needs_gpu="100 s are about 20 steps on a CPU core")

    def parts(self, settings: ClockSettings) -> list[Part]:
        """Return one part per run: with others beside it in one model, its time would not be its own."""
        return [
            {"normalised": normalised, "n_heads": heads, "seed": seed}
            for normalised in TOKENS
            for seed in range(settings.n_seeds)
            for heads in settings.n_heads
        ]

    def alone(self, part: Part, settings: ClockSettings) -> bool:
        """Training is stopped by the clock."""
        return True

    def measure(self, part: Part, settings: ClockSettings, progress: Progress) -> Table:
        """Return the curve of one run."""
        seed, heads, normalised = part["seed"], part["n_heads"], bool(part["normalised"])
        assert isinstance(seed, int)
        assert isinstance(heads, int)
        device = self.device(settings)
        rows = deep_rows(settings, normalised, heads, [seed], settings.steps, settings.seconds, device, progress)
        return Table({name: cell for name, cell in row.items() if name != "seed"} for row in rows)

    def check(self, table: Table, settings: ClockSettings) -> list[Verdict]:
        """Losses after the time, and after the steps that every run reached."""
        many = [heads for heads in settings.n_heads if heads >= 32]
        few = [heads for heads in settings.n_heads if heads <= 4]

        def best_by(losses: dict[int, np.ndarray]) -> tuple[bool, str]:
            means = {heads: float(values.mean()) for heads, values in losses.items()}
            right = all(heads == 4 or _above(losses[heads], losses[4]).low > 0 for heads in means)
            return right, ", ".join(f"H = {heads}: {mean:.4f}" for heads, mean in means.items())

        def best(rows: Table) -> tuple[bool, str]:
            return best_by(_last(rows))

        def slower(rows: Table) -> tuple[bool, str]:
            losses = _last(rows)
            above = {heads: _above(losses[heads], losses[4]) for heads in many}
            numbers = ", ".join(f"H = {heads} minus H = 4: {difference:.4f}" for heads, difference in above.items())
            return all(difference.low > 0 for difference in above.values()), numbers

        def no_need(rows: Table) -> tuple[bool, str]:
            losses = _last(rows)
            lowest = {
                name: min(float(losses[heads].mean()) for heads in group)
                for name, group in (("H ≤ 4", few), ("H ≥ 32", many))
            }
            numbers = ", ".join(f"{name}: {value:.4f}" for name, value in lowest.items())
            return lowest["H ≤ 4"] <= 1.05 * lowest["H ≥ 32"], f"lowest mean loss, {numbers}"

        def by_steps(rows: Table) -> tuple[bool, str]:
            step = _common_step(rows)
            right, numbers = best_by(_at_step(rows, step))
            return right, f"at {step} steps, {numbers}"

        lowest = "the 95 % intervals over seeds of the other losses minus that of H = 4 lie above 0"
        return [
            judged_by_tokens(BEST, table, best, f"{lowest}, after {settings.seconds:g} s"),
            judged_by_tokens(SLOWER, table, slower, "the 95 % intervals over seeds of these differences lie above 0"),
            judged_by_tokens(
                NO_NEED, table, no_need, "the lowest mean loss of H ≤ 4 is at most 5 % above that of H ≥ 32"
            ),
            judged_by_tokens(BY_STEPS, table, by_steps, lowest),
        ]

    def plot(self, table: Table, settings: ClockSettings) -> Figure:
        """Left: the last losses by H (5a). Right: losses against time with raw tokens (5b)."""
        figure = new_figure(9.0, 4.0)
        left, right = figure.subplots(1, 2)
        for index, normalised in enumerate(TOKENS):
            rows = table.where(normalised=normalised)
            for line, losses, text in (
                ("o-", _last(rows), f"{settings.seconds:g} s"),
                ("s--", _at_step(rows, _common_step(rows)), f"{_common_step(rows)} steps"),
            ):
                means = [values.mean() for values in losses.values()]
                left.plot(list(losses), means, line, color=f"C{index}", label=f"{TOKENS[normalised]}, {text}")
        left.set(xlabel="heads H", ylabel="training loss at the end", xscale="log", yscale="log")
        log_ticks(left.xaxis, settings.n_heads)
        left.legend(fontsize="small")
        raw = table.where(normalised=False)
        for heads in settings.n_heads:
            log_band(right, _by_clock(raw.where(n_heads=heads), settings.seconds), "seconds", "loss", f"H = {heads}")
        right.set(xlabel="seconds", ylabel="training loss", yscale="log", title=TOKENS[False])
        right.legend(ncols=2, fontsize="small")
        return figure


def _last(rows: Table) -> dict[int, np.ndarray]:
    """Return the last loss, by H and seed."""
    return _each(rows, lambda own: float(own.column("loss")[-1]))


def _common_step(rows: Table) -> int:
    """Return the largest measured step that every run reached."""
    ends = [
        rows.where(n_heads=heads, seed=seed).column("step").max()
        for heads in rows.unique("n_heads")
        for seed in rows.unique("seed")
    ]
    steps = rows.column("step")
    return int(steps[steps <= min(ends)].max())


def _by_clock(rows: Table, seconds: float) -> Table:
    """Return the loss measured last at 50 times, the same for all seeds: every seed measures at times of its own."""
    found = []
    for seed in rows.unique("seed"):
        own = rows.where(seed=seed).only("loss").sorted_by("step")
        times, losses = own.column("seconds"), own.column("loss")
        for time in np.linspace(0, seconds, 51)[1:]:
            done = np.flatnonzero(times <= time)
            if len(done):
                found.append({"seed": seed, "seconds": float(time), "loss": float(losses[done[-1]])})
    return Table(found)


def _at_step(rows: Table, step: int) -> dict[int, np.ndarray]:
    """Return the loss measured last up to a step, by H and seed."""

    def value(own: Table) -> float:
        steps, losses = own.column("step"), own.column("loss")
        return float(losses[steps <= step][-1])

    return _each(rows, value)


def _each(rows: Table, value) -> dict[int, np.ndarray]:  # type: ignore[no-untyped-def]
    found: dict[int, np.ndarray] = {}
    for heads in rows.unique("n_heads"):
        assert isinstance(heads, int)
        own = rows.where(n_heads=heads)
        seeds = own.unique("seed")
        found[heads] = np.array([value(own.where(seed=seed).only("loss").sorted_by("step")) for seed in seeds])
    return found


def _above(losses: np.ndarray, others: np.ndarray) -> Estimate:
    """Mean over seeds of losses minus others, with its 95 % interval; a seed has its dictionary in both."""
    return seed_mean(losses - others)
