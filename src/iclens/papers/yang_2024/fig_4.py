"""Yang et al. 2024, Fig. 4: how many heads the one-layer model needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from iclens.papers.yang_2024.runs import SOURCE, TOKENS, TaskSettings, judged_by_tokens, log_band, one_layer_rows
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.seed_curves import seed_curve, seed_estimate
from iclens.recipes.settings import chosen
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

STOPS = Claim(
    "With fewer heads than labelled tokens, H < N, the training loss stops far from its minimum.",
    f"{SOURCE}, Fig. 4",
    "stated",
)
SLOW = Claim("With H = N the training loss falls slowly.", f"{SOURCE}, Fig. 4", "stated")
UNSTABLE = Claim("With very many heads (H = 400 at N = 30) training is unstable.", f"{SOURCE}, Fig. 4", "stated")
ABOVE_FLOOR = Claim(
    "With H < N training of both w and Q ends above the floor that w alone could reach with Q as it starts.",
    "our question: the floor is a property of the initial values",
    "asked",
)
ONE_HEAD = Claim(
    "One head hardly learns: a softmax times a number has entries of one sign.", f"{SOURCE}, softmax heads", "derived"
)


@dataclass(frozen=True)
class HeadSettings(TaskSettings):
    """Fig. 4. The list of H is ours except for 30 and 400."""

    n_heads: tuple[int, ...] = chosen((1, 8, 20, 30, 64, 400), "H; stated: 30 and 400 among them")
    largest_steps: int = chosen(3000, "steps of the largest H, which is asked for its stability only")
    reference_heads: int = chosen(64, "the H of Fig. 2a, which the others are held against")


@recipe("yang-fig-4")
class YangFig4(Recipe[HeadSettings]):
    """The one-layer model of Fig. 2a with different numbers of heads.

    Loss over all training prompts; excess is the population loss above its minimum L*, by Lemma 5. Float32.
    """

    title = "The one-layer model needs as many heads as there are labelled tokens"
    reference = f"{SOURCE} (arXiv 2408.10147), Fig. 4"
    claims = (STOPS, SLOW, UNSTABLE, ABOVE_FLOOR, ONE_HEAD)
    quick = Preset(
        HeadSettings(
            n_prompt=8,
            n_tokens=24,
            d=50,
            n_features=5,
            n_heads=(1, 3, 5, 8, 17, 107),
            reference_heads=17,
            steps=6000,
            largest_steps=6000,
            every=50,
        ),
        seconds=100,
    )
    paper = Preset(HeadSettings(every=50), seconds=3000)

    def parts(self, settings: HeadSettings) -> list[Part]:
        """One for each kind of tokens and H; the seeds of each train together."""
        return [{"normalised": normalised, "n_heads": heads} for normalised in TOKENS for heads in settings.n_heads]

    def measure(self, part: Part, settings: HeadSettings, progress: Progress) -> Table:
        """Curves of all seeds."""
        heads = part["n_heads"]
        assert isinstance(heads, int)
        if heads == max(settings.n_heads):
            settings = dataclasses.replace(settings, steps=settings.largest_steps)
        return one_layer_rows(settings, bool(part["normalised"]), heads, progress)

    def check(self, table: Table, settings: HeadSettings) -> list[Verdict]:
        """Return what becomes of H < N, H = N and the largest H."""
        n, most, reference = settings.n_prompt, max(settings.n_heads), settings.reference_heads
        few = [heads for heads in settings.n_heads if heads < n]

        def stops(rows: Table) -> tuple[bool, str]:
            found, right = [], True
            for heads in few:
                own, best = _ends(rows.where(n_heads=heads)), _ends(rows.where(n_heads=reference))
                falling = _fall(rows.where(n_heads=heads), settings.steps)
                right &= bool((own >= 4 * best).all() and falling <= 0.1)
                found.append(f"H = {heads} ends {own.mean():.3g} above L*, {falling:.0%} less than at 3/4 of the steps")
            return right, f"{', '.join(found)}; H = {reference} ends {_ends(rows.where(n_heads=reference)).mean():.3g}"

        def slow(rows: Table) -> tuple[bool, str]:
            equal, best = _ends(rows.where(n_heads=n)), _ends(rows.where(n_heads=reference))
            falling = _fall(rows.where(n_heads=n), settings.steps)
            numbers = f"H = N ends {equal.mean():.3g} above L*, {falling:.0%} less than at 3/4 of the steps; H = "
            return bool((equal >= 2 * best).all() and falling >= 0.1), f"{numbers}{reference} ends {best.mean():.3g}"

        def unstable(rows: Table) -> tuple[bool, str]:
            rises = {heads: _largest_rise(rows.where(n_heads=heads)) for heads in (reference, most)}
            numbers = ", ".join(f"H = {heads}: {rise:.1%}" for heads, rise in rises.items())
            own = rows.where(n_heads=most)
            left = (_ends(own) / own.where(step=0).sorted_by("seed").column("excess")).mean()
            return rises[most] >= 0.1, (
                f"largest rise of the training loss over an earlier value, {numbers}; after "
                f"{settings.largest_steps} steps H = {most} has {left:.2%} of its first excess left"
            )

        def floors(rows: Table) -> tuple[bool, str]:
            found, right = [], True
            for heads in few:
                start = rows.where(n_heads=heads, step=0).sorted_by("seed").column("floor")
                own = _ends(rows.where(n_heads=heads))
                right &= bool((own > start).all())
                found.append(f"H = {heads} ends {own.mean():.3g}, floor {start.mean():.3g}")
            return right, ", ".join(found)

        def one_head(rows: Table) -> tuple[bool, str]:
            own = rows.where(n_heads=1)
            share = _ends(own) / own.where(step=0).sorted_by("seed").column("excess")
            return bool((share >= 0.5).all()), f"{share.min():.2f} to {share.max():.2f} of the excess at the start"

        verdicts = [
            judged_by_tokens(
                STOPS,
                table,
                stops,
                f"for every H < N and every seed the excess ends at least 4 times above that of H = {reference}, and "
                "its mean fell by at most 10 % over the last quarter of the steps",
            ),
            judged_by_tokens(
                SLOW,
                table,
                slow,
                f"for every seed the excess of H = N ends at least 2 times above that of H = {reference}, and its mean "
                "fell by 10 % or more over the last quarter of the steps",
            ),
            judged_by_tokens(
                UNSTABLE,
                table,
                unstable,
                f"for some seed the training loss of H = {most} rises by 10 % or more over its lowest earlier "
                f"measurement (every {settings.every} steps)",
            ),
            judged_by_tokens(ABOVE_FLOOR, table, floors, "for every H < N and every seed"),
        ]
        if 1 in settings.n_heads:
            verdicts.append(
                judged_by_tokens(ONE_HEAD, table, one_head, "for every seed half of the excess or more remains")
            )
        return verdicts

    def plot(self, table: Table, settings: HeadSettings) -> Figure:
        """Training loss against steps for every H, a panel for each kind of tokens."""
        from matplotlib import colormaps

        figure = new_figure(9.0, 4.2)
        panels = figure.subplots(1, 2, sharey=True)
        shades = colormaps["viridis"](np.linspace(0.1, 0.85, len(settings.n_heads)))
        for axes, normalised in zip(panels, TOKENS, strict=True):
            rows = table.where(normalised=normalised)
            for heads, shade in zip(settings.n_heads, shades, strict=True):
                log_band(axes, rows.where(n_heads=heads), "step", "loss", f"H = {heads}", color=shade)
            least = seed_estimate(rows.where(step=0, n_heads=settings.n_heads[0]), "smallest_loss").mean
            axes.axhline(least, color="gray", linestyle="--", label="L*")
            axes.set(title=TOKENS[normalised], xlabel="steps", yscale="log")
        panels[0].set(ylabel="training loss")
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        return figure


def _ends(rows: Table) -> np.ndarray:
    """Last excess of every seed; infinite where the run diverged."""
    last = rows.where(step=int(rows.column("step").max())).sorted_by("seed").column("excess")
    return np.where(np.isnan(last), np.inf, last)


def _fall(rows: Table, steps: int) -> float:
    """By what share the mean excess fell over the last quarter of the steps."""
    curve = seed_curve(rows, "step", "excess")
    if len(curve.x) < 2 or curve.x[-1] < steps:
        return 0.0
    before = curve.mean[int(np.abs(curve.x - 0.75 * steps).argmin())]
    return float(1 - curve.mean[-1] / before)


def _largest_rise(rows: Table) -> float:
    """Largest rise of the training loss over an earlier measurement, as a share; infinite where a run diverged."""
    rises = []
    for seed in rows.unique("seed"):
        losses = rows.where(seed=seed).only("loss").sorted_by("step").column("loss")
        rises.append(np.inf if np.isnan(losses).any() else (losses / np.minimum.accumulate(losses) - 1).max())
    return float(max(rises))
