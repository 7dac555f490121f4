"""Ren & Liu's open question: which augmentation g suits which kind of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iclens.attention import build
from iclens.intervals import Estimate
from iclens.models.products import affine
from iclens.models.tokens import joint
from iclens.papers.ren_liu_2024.augmentation_by_data_kinds import ADAPTER, KINDS, SHUFFLED, Kind
from iclens.papers.ren_liu_2024.variant_study import LEVEL
from iclens.recipes.best_of_many import max_statistic, over_seeds
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, new_figure
from iclens.recipes.seed_curves import seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict
from iclens.training.default_dtype import default_dtype
from iclens.training.losses import point_losses

_PAPER = "Ren & Liu 2024"

HELPS = Claim(
    "Some augmentation of keys and values lowers the error of one layer of softmax attention.",
    f"{_PAPER}, augmented attention, on other data than the paper's",
    "asked",
)
DESIGNED = Claim(
    "The augmentation should be designed for the data: convolution for images, message passing for graphs, tokens' "
    "neighbours for text do better than the general adapter.",
    f"{_PAPER}, augmented attention: CNN for images, GNN for graphs; the rest is our choice: text, and "
    "the adapter as the rival",
    "derived",
)
STRUCTURE = Claim(
    "What the designed augmentation gains is due to the data's structure: with pixels shuffled, or another graph, it "
    "gains less.",
    "ours: the control that the paper lacks",
    "asked",
)

NORMAL = "normal"
_PLACES = ("g1", "g2", "g1 & g2")
_PAIRS = 2000
"""Prompts of the final error."""


@dataclass(frozen=True)
class AugmentationSettings:
    """The layer and its training."""

    n_context: int = stated(15, "the synthetic experiments")
    kinds: tuple[str, ...] = chosen(tuple(KINDS))
    places: tuple[str, ...] = chosen(_PLACES, "g1 augments values, g2 keys")
    steps: int = chosen(1000, "Adam at 0.005, 32 prompts a step; 1500 change an error by 0 to 6 %, up or down")
    n_seeds: int = chosen(10, "of weights and prompts together, the same for all rows")


@recipe("augmentation-by-data")
class AugmentationByData(Recipe[AugmentationSettings]):
    """One layer of augmented attention on four kinds of data, with general and with designed augmentations.

    Tokens are (x, y), the query's label starts at 0, one head as wide as a token. W_K and W_V start at the identity:
    only so are keys and values still images when g sees them, since g acts on W x, and a W drawn at random has no order
    of pixels (whatever is learned then is as likely with any order). Linear regression; handwritten digits of three
    classes with random labels, asked about held-out images; the nodes of a generated graph with y_i = w·(x_i + its
    neighbours' mean); one-hot words of four categories, asked about pairs of word and label never seen. All rows share
    the seeds, so that differences are paired; p-values are corrected for all rows of a kind.
    """

    title = "Which augmentation suits which kind of data"
    reference = f"{_PAPER} (arXiv 2310.13220), open question"
    claims = (HELPS, DESIGNED, STRUCTURE)
    quick = Preset(AugmentationSettings(places=("g1 & g2",), steps=150, n_seeds=7), seconds=85)
    paper = Preset(AugmentationSettings(), seconds=800)

    def parts(self, settings: AugmentationSettings) -> list[Part]:
        """Return one part per kind and row."""
        return [{"kind": kind, "row": row} for kind in settings.kinds for row in rows_of(kind, settings)]

    def measure(self, part: Part, settings: AugmentationSettings, progress: Progress) -> Table:
        """Return the error on fresh prompts of every seed."""
        kind = KINDS[str(part["kind"])]
        name, place = rows_of(str(part["kind"]), settings)[str(part["row"])]
        found = []
        for seed in range(settings.n_seeds):
            progress(seed, settings.n_seeds, f"{part['kind']}, {part['row']}")
            found.append({"seed": seed, "error": _train(kind, name, place, settings, seed)})
        return Table(found)

    def check(self, table: Table, settings: AugmentationSettings) -> list[Verdict]:
        """Gains over normal attention, over the adapter, and over the control, paired by seed."""
        return [_helps(table, settings), _designed(table, settings), _structure(table, settings)]

    def plot(self, table: Table, settings: AugmentationSettings) -> Figure:
        """Return a panel a kind: every row's error relative to normal's, paired by seed."""
        longest = max(len(rows_of(kind, settings)) for kind in settings.kinds)
        figure = new_figure(4.2 * len(settings.kinds), 1.4 + 0.36 * longest)
        axes = figure.subplots(1, len(settings.kinds), squeeze=False)[0]
        for ax, kind in zip(axes, settings.kinds, strict=True):
            errors = _errors(table, kind, settings)
            for place, (row, values) in enumerate(errors.items()):
                found = seed_mean(values / errors[NORMAL])
                name = rows_of(kind, settings)[row][0]
                colour = "C0" if name == KINDS[kind].designed else "C1" if name == SHUFFLED else "C2"
                reach = [[max(found.mean - found.low, 0.0)], [max(found.high - found.mean, 0.0)]]
                colour = "0.5" if row == NORMAL else colour
                ax.errorbar(found.mean, place, xerr=reach, fmt="o", color=colour, ms=5)
            ax.set_yticks(range(len(errors)), list(errors), fontsize="small")
            ax.invert_yaxis()
            ax.axvline(1.0, color="0.5", linewidth=0.8)
            ax.set(xlabel="error / normal's, by seed", title=kind)
        for colour, label in (("C0", "designed for the data"), ("C1", "its structure shuffled"), ("C2", "others")):
            axes[-1].plot([], [], "o", color=colour, label=label)
        figure.legend(*axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure


def rows_of(kind: str, settings: AugmentationSettings) -> dict[str, tuple[str, str]]:
    """Label to (augmentation, place) of the rows of a kind, normal attention first."""
    rows = {NORMAL: ("", "")}
    for name in KINDS[kind].augmentations:
        rows |= {f"{name}, {place}": (name, place) for place in settings.places}
    return rows


class _Layer(nn.Module):
    """One head on bare tokens; the answer is the label's part of the query's output."""

    def __init__(self, kind: Kind, name: str, place: str, n_tokens: int, seed: int) -> None:
        super().__init__()
        width = kind.d + kind.d_y
        generator = torch.Generator().manual_seed(seed)
        self.W_Q, self.W_O = (
            nn.Parameter(torch.randn(width, width, generator=generator) * width**-0.5) for _ in range(2)
        )
        self.W_K, self.W_V = (nn.Parameter(torch.eye(width)) for _ in range(2))
        with torch.random.fork_rng(devices=[]):
            # The augmentations draw from the global generator.
            torch.manual_seed(seed)
            given: dict[str, Any] = {g: kind.augmentations[name](width, n_tokens) for g in ("g1", "g2") if g in place}
        self.attention = build("augmented" if given else "softmax", n_heads=1, d=width, d_v=width, **given)
        self.d_y = kind.d_y

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            affine(part.reshape(1, -1, part.shape[-1]), W.unsqueeze(0), None).reshape(part.shape).unsqueeze(1)
            for part, W in ((tokens[:, -1:], self.W_Q), (tokens, self.W_K), (tokens, self.W_V))
        )
        out: Tensor = self.attention(q, k, v).squeeze(1) @ self.W_O
        return out[..., -self.d_y :]


def _train(kind: Kind, name: str, place: str, settings: AugmentationSettings, seed: int) -> float:
    """Return the mean loss on fresh prompts after training; augmented or not, a seed has the same prompts and W."""
    loss_kind: Literal["squared", "cross-entropy"] = "cross-entropy" if kind.classes else "squared"
    with default_dtype(torch.float32):
        generator = torch.Generator().manual_seed(1000 + seed)
        layer = _Layer(kind, name, place, settings.n_context + 1, seed)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.005, fused=True)
        batch = 32

        def loss(points: Any) -> Tensor:
            return point_losses(layer(joint(points.inputs, points.labels)), points.labels, loss_kind).mean()

        drawn = None
        for step in range(settings.steps):
            if step % 8 == 0:
                drawn = kind.draw(generator, 8 * batch, settings.n_context, False)
            assert drawn is not None
            chosen_rows = slice(step % 8 * batch, (step % 8 + 1) * batch)
            optimizer.zero_grad()
            loss(type(drawn)(*(part[chosen_rows] for part in drawn))).backward()
            optimizer.step()
        with torch.no_grad():
            fresh = kind.draw(torch.Generator().manual_seed(10**6 + seed), _PAIRS, settings.n_context, True)
            return float(loss(fresh))


def _errors(table: Table, kind: str, settings: AugmentationSettings) -> dict[str, np.ndarray]:
    rows = table.where(kind=kind)
    return {row: rows.where(row=row).sorted_by("seed").column("error") for row in rows_of(kind, settings)}


def _gain(errors: dict[str, np.ndarray], row: str, over: str, n_asked: int = 1) -> Estimate:
    """Return how far `row` lies below `over` in % of normal's mean error, paired by seed; for `n_asked` comparisons."""
    return over_seeds(torch.from_numpy(100 * (errors[over] - errors[row]) / errors[NORMAL].mean()), n_asked)


def _best(errors: dict[str, np.ndarray], settings: AugmentationSettings, name: str) -> str:
    """Return the place at which an augmentation has the smallest mean error."""
    return min((f"{name}, {place}" for place in settings.places), key=lambda row: float(errors[row].mean()))


def _helps(table: Table, settings: AugmentationSettings) -> Verdict:
    won, numbers = [], []
    level = LEVEL / len(settings.kinds)
    for kind in settings.kinds:
        errors = _errors(table, kind, settings)
        rows = [row for row in errors if row != NORMAL]
        gains = np.stack([errors[NORMAL] - errors[row] for row in rows])
        p_values = max_statistic(torch.from_numpy(gains)).numpy()
        place = int(gains.mean(1).argmax())
        p = float(p_values[place])
        numbers.append(f"{kind}: {rows[place]} by {_gain(errors, rows[place], NORMAL):.1f} % (p = {p:.2g})")
        if p < level and gains[place].mean() > 0:
            won.append(kind)
    return HELPS.judged(
        bool(won),
        "; ".join(numbers),
        f"the best row's gain over normal attention, paired by seed, has p < {level:g}, corrected for all rows "
        f"({LEVEL} for all kinds)",
        "" if len(won) == len(settings.kinds) else f"the data are {' or '.join(won)}",
    )


def _designed(table: Table, settings: AugmentationSettings) -> Verdict:
    asked = [kind for kind in settings.kinds if KINDS[kind].designed != ADAPTER]
    if not asked:
        return DESIGNED.untested("No kind of data with an augmentation of its own was asked for.")
    return _against(table, settings, DESIGNED, asked, ADAPTER, "the adapter")


def _structure(table: Table, settings: AugmentationSettings) -> Verdict:
    asked = [kind for kind in settings.kinds if SHUFFLED in KINDS[kind].augmentations]
    if not asked:
        return STRUCTURE.untested("No kind of data whose structure can be shuffled was asked for.")
    return _against(table, settings, STRUCTURE, asked, SHUFFLED, "its shuffled copy", must_gain=True)


def _against(
    table: Table,
    settings: AugmentationSettings,
    claim: Claim,
    asked: list[str],
    rival: str,
    called: str,
    *,
    must_gain: bool = False,
) -> Verdict:
    """The designed augmentation against a rival, each at its best place; with `must_gain` against normal attention too.

    Below a rival that is far worse than normal attention there may be no gain to speak of.
    """
    won, numbers = [], []
    for kind in asked:
        errors = _errors(table, kind, settings)
        designed = _best(errors, settings, KINDS[kind].designed)
        gain = _gain(errors, designed, _best(errors, settings, rival), len(asked))
        above_normal = _gain(errors, designed, NORMAL, len(asked))
        numbers.append(
            f"{kind}: {KINDS[kind].designed} {gain:+.1f} % of normal's error below {called}"
            + (f" and {above_normal:+.1f} % below normal attention" if must_gain else "")
        )
        if gain.low > 0 and (above_normal.low > 0 or not must_gain):
            won.append(kind)
    return claim.judged(
        bool(won),
        "; ".join(numbers),
        "the 95 % interval of the difference, paired by seed and corrected for all kinds (Bonferroni), lies above 0"
        + (", and that of the gain over normal attention too" if must_gain else ""),
        "" if len(won) == len(asked) else f"the data are {' or '.join(won)}",
    )
