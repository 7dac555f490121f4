"""Ren & Liu's Fig. 2: the dual model's step as representation learning, beside methods made for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from iclens.features import JointMercer
from iclens.intervals import Estimate
from iclens.kernels import SoftmaxKernel
from iclens.papers.ren_liu_2024.softmax_layer import Layer, random_layer
from iclens.recipes.contract import Part, Preset, Progress, Recipe, recipe
from iclens.recipes.figures import Figure, band, new_figure
from iclens.recipes.seed_curves import seed_curve, seed_estimate, seed_mean
from iclens.recipes.settings import chosen, stated
from iclens.recipes.table import Table
from iclens.recipes.verdict import Claim, Verdict

_PAPER = "Ren & Liu 2024"

POSITIVES = Claim(
    "The dual's training is representation learning on two views: it moves the prediction W φ(W_K x) towards its "
    "positive W_V x, the other view of the same token.",
    f"{_PAPER}, Fig. 2",
    "stated",
)
COLLAPSE = Claim(
    "Without negatives the dual's predictions do not collapse: they are no more alike than their positives.",
    f"{_PAPER}, Fig. 2: no negatives, as in SimSiam and BYOL",
    "asked",
)
OTHERS = Claim(
    "The dual's single step aligns its pairs as well as SimSiam's training does.",
    f"{_PAPER}, Fig. 2: the paper likens the dual to SimSiam (Chen & He 2021)",
    "asked",
)
UNIFORM = Claim(
    "Contrastive kernel learning, which has negatives, spreads the representations more evenly than the dual.",
    f"{_PAPER}, Fig. 2: the paper likens the dual to contrastive kernel learning (Esser et al. 2024)",
    "asked",
)

DUAL, SIMSIAM, NO_STOP, CONTRASTIVE, TARGETS = (
    "dual model",
    "SimSiam",
    "SimSiam, no stop-gradient",
    "contrastive kernel",
    "the positives themselves",
)


@dataclass(frozen=True)
class ContrastiveSettings:
    """The pairs, and the training of the methods beside the dual."""

    n_demonstrations: int = stated(15, "the synthetic experiments")
    d: int = chosen(11, "width of a token (x, y); the paper's could not be read")
    logit_scale: float = chosen(1.0, "factor of the scores beside d^(−1/2), and of the kernel of all methods")
    steps: int = chosen(300, "of SimSiam's training, by Adam")
    learning_rate: float = chosen(0.01, "of SimSiam's training")
    n_points: int = chosen(13, "moments of a training at which it is measured")
    n_seeds: int = chosen(50)


@recipe("ren-liu-fig-2")
class ContrastiveView(Recipe[ContrastiveSettings]):
    """Alignment, uniformity and collapse of the dual's step, of SimSiam and of contrastive kernel learning.

    All train on the same pairs (W_K x_i, W_V x_i) of a random softmax layer with the same kernel. The dual puts W on
    the key view alone, and its values are fixed targets. SimSiam puts W on both, with a linear predictor and
    stop-gradient. Contrastive kernel learning, in closed form, takes the orthonormal W with the largest mean inner
    product of positives minus that of all other pairs.

    Alignment: mean cosine of the two sides of a pair. Uniformity: −log mean exp(−2 ‖u_i − u_j‖²) over unit vectors, 0
    when all coincide. Collapse: length of the mean unit vector, 1 when all coincide.
    """

    title = "The dual's step aligns its pairs, beside SimSiam and contrastive kernel learning"
    reference = f"{_PAPER} (arXiv 2310.13220), Fig. 2"
    claims = (POSITIVES, COLLAPSE, OTHERS, UNIFORM)
    quick = Preset(ContrastiveSettings(n_seeds=20), seconds=9)
    paper = Preset(ContrastiveSettings(), seconds=25)

    def parts(self, settings: ContrastiveSettings) -> list[Part]:
        """Return one part per seed."""
        return [{"seed": seed} for seed in range(settings.n_seeds)]

    def measure(self, part: Part, settings: ContrastiveSettings, progress: Progress) -> Table:
        """Return the three measures of every method along its training, as a share of it from 0 to 1."""
        generator = torch.Generator().manual_seed(int(part["seed"] or 0))
        layer = random_layer(generator, settings.n_demonstrations, settings.d)
        kernel = SoftmaxKernel(settings.logit_scale * settings.d**-0.5)
        k, v = layer.k[:-1], layer.v[:-1]
        rows: list[dict[str, Any]] = [{"method": TARGETS, "share": 1.0} | _measures(v, v)]
        for share in torch.linspace(0, 1, settings.n_points, dtype=torch.float64).tolist():
            rows.append({"method": DUAL, "share": share} | _measures(_dual(layer, kernel, share), v))
        # One basis for both views, of unit length as the kernel's correlation has it.
        pair = JointMercer().pair(k, v, kernel)
        views = pair.phi_q, pair.phi_k.squeeze(-3)
        for name, stop in ((SIMSIAM, True), (NO_STOP, False)):
            for step, left, right in _simsiam(views, settings, generator, stop):
                rows.append({"method": name, "share": step / settings.steps} | _measures(left, right))
        left, right = _contrastive_kernel(views, settings.d)
        rows.append({"method": CONTRASTIVE, "share": 1.0} | _measures(left, right))
        return Table(rows)

    def check(self, table: Table, settings: ContrastiveSettings) -> list[Verdict]:
        """Differences paired by layer."""

        def of(method: str, share: float = 1.0) -> Table:
            return table.where(method=method, share=share).sorted_by("seed")

        def difference(one: Table, other: Table, name: str) -> Estimate:
            return seed_mean(one.column(name) - other.column(name))

        dual, start, simsiam, contrastive, targets = of(DUAL), of(DUAL, 0.0), of(SIMSIAM), of(CONTRASTIVE), of(TARGETS)
        rise = difference(dual, start, "alignment")
        alike = difference(dual, targets, "collapse")
        behind = difference(dual, simsiam, "alignment")
        spread = difference(contrastive, dual, "uniformity")
        no_stop = seed_estimate(of(NO_STOP), "collapse")
        return [
            POSITIVES.judged(
                rise.low > 0,
                f"alignment {seed_estimate(start, 'alignment'):.2f} before the step and "
                f"{seed_estimate(dual, 'alignment'):.2f} after it, difference {rise:.2f}",
                "the interval of the difference, paired by layer, lies above 0",
            ),
            COLLAPSE.judged(
                alike.high <= 0.02,
                f"collapse {seed_estimate(dual, 'collapse'):.2f}, the positives' own "
                f"{seed_estimate(targets, 'collapse'):.2f}, difference {alike:.2f}; SimSiam "
                f"{seed_estimate(simsiam, 'collapse'):.2f}, without stop-gradient {no_stop:.2f}",
                "the interval of the difference to the positives, paired by layer, lies below 0.02",
            ),
            OTHERS.judged(
                behind.low >= -0.05,
                f"alignment {seed_estimate(dual, 'alignment'):.2f} against {seed_estimate(simsiam, 'alignment'):.2f}, "
                f"difference {behind:.2f}",
                "the interval of the difference, paired by layer, lies above −0.05",
            ),
            UNIFORM.judged(
                spread.low > 0,
                f"uniformity {seed_estimate(contrastive, 'uniformity'):.2f} against "
                f"{seed_estimate(dual, 'uniformity'):.2f}, difference {spread:.2f}",
                "the interval of the difference, paired by layer, lies above 0",
            ),
        ]

    def plot(self, table: Table, settings: ContrastiveSettings) -> Figure:
        """Return the three measures along training; methods without a course are lines."""
        figure = new_figure(11.0, 4.2)
        labels = {
            "alignment": "alignment: mean cosine of pairs",
            "uniformity": "uniformity (0: all coincide)",
            "collapse": "collapse (1: all coincide)",
        }
        for ax, (name, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
            for method in (DUAL, SIMSIAM, NO_STOP):
                band(ax, seed_curve(table.where(method=method), "share", name), method)
            for index, method in ((3, CONTRASTIVE), (4, TARGETS)):
                if name == "alignment" and method == TARGETS:
                    continue
                end = seed_estimate(table.where(method=method), name)
                ax.axhline(end.mean, color=f"C{index}", linestyle="--", label=method)
            ax.set(xlabel="share of the training", ylabel=label)
            ax.set_ylim(-0.05 if name == "alignment" else 0, 1.05 if name != "uniformity" else None)
        handles, names = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)
        return figure


def _measures(left: Float[Tensor, "n d"], right: Float[Tensor, "n d"]) -> dict[str, float]:
    """Alignment of the pairs; uniformity and collapse of the left side."""
    unit = normalize(left, dim=-1)
    distances = torch.pdist(unit).square()
    return {
        "alignment": float(cosine_similarity(left, right, dim=-1).mean()),
        "uniformity": float(-(-2 * distances).exp().mean().log()),
        "collapse": float(unit.mean(0).norm()),
    }


def _dual(layer: Layer, kernel: SoftmaxKernel, share: float) -> Float[Tensor, "N d"]:
    """W φ(k_i) at the demonstrations, W having gone this share of the step from W_0; lengths do not matter."""
    weights = kernel.log(layer.k[:-1], layer.k)[0]
    weights = (weights - weights.amax(-1, keepdim=True)).exp()
    return share * weights[:, :-1] @ layer.v[:-1] + weights[:, -1:] * layer.v[-1]


def _simsiam(
    views: tuple[Tensor, Tensor], settings: ContrastiveSettings, generator: torch.Generator, stop: bool
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, predictions of one side, representations of the other) at some moments of the training."""
    d, n_features = settings.d, views[0].shape[-1]
    W = torch.randn(d, n_features, generator=generator, dtype=torch.float64) / n_features**0.5
    P = torch.eye(d, dtype=torch.float64) + torch.randn(d, d, generator=generator, dtype=torch.float64) / d
    W.requires_grad_(), P.requires_grad_()
    optimizer = torch.optim.Adam([W, P], lr=settings.learning_rate)
    moments = set(torch.linspace(0, settings.steps, settings.n_points).round().int().tolist())
    for step in range(settings.steps + 1):
        left, right = (view @ W.mT for view in views)
        if step in moments:
            yield step, (left @ P.mT).detach(), right.detach()
        sides = (right.detach(), left.detach()) if stop else (right, left)
        loss = -sum(
            cosine_similarity(z @ P.mT, other, dim=-1).mean() for z, other in zip((left, right), sides, strict=True)
        )
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()


def _contrastive_kernel(views: tuple[Tensor, Tensor], d: int) -> tuple[Tensor, Tensor]:
    """Representations W φ of both views, W's rows orthonormal and best at telling positives from other pairs."""
    left, right = views
    n = len(left)
    positives = left.mT @ right / n
    others = (torch.outer(left.sum(0), right.sum(0)) - n * positives) / (n * (n - 1))
    contrast = positives - others
    vectors = torch.linalg.eigh((contrast + contrast.mT) / 2).eigenvectors[:, -d:]
    return left @ vectors, right @ vectors
