"""Classification of Gaussian clusters in context."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from iclens.errors import UserError
from iclens.tasks.draws import fixed_normal, integers, normal, subsets
from iclens.tasks.function_first import BEST_MEASURED, FunctionFirst
from iclens.tasks.options import require_at_least_zero, require_counts, require_positive
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal


@TASKS.register("clusters")
class Clusters(FunctionFirst):
    """Inputs around one of `n_classes` centres, x = c_k + ς z; the label is the nearest centre, one-hot.

    Centres are N(0, s² I), s = `separation`: fresh in every prompt, or, with `n_clusters`, drawn without replacement
    from as many fixed ones, in random order, so that a label means another cluster in every prompt. `function` holds
    `centres`, (*batch, n_classes, d), in the order of the labels. The nearest centre is almost always the one that x
    was drawn around while ς is small beside s √(d/2).

    Args:
        d: width of the inputs.
        n_classes: clusters of a prompt, at least 2; d_y is the same.
        cluster_std: ς, 0 for inputs that are centres.
        separation: s, positive.
        n_clusters: size of the fixed set of clusters, at least `n_classes`; 0 for fresh ones.
        seed: of the fixed set.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(
        self,
        *,
        d: int = 8,
        n_classes: int = 4,
        cluster_std: float = 0.5,
        separation: float = 1.0,
        n_clusters: int = 0,
        seed: int = 0,
    ) -> None:
        require_counts(d=d, n_classes=n_classes)
        require_at_least_zero(cluster_std=cluster_std, n_clusters=n_clusters)
        require_positive(separation=separation)
        if n_classes < 2:
            raise UserError("n_classes=1 leaves nothing to tell apart: give at least 2.")
        if 0 < n_clusters < n_classes:
            raise UserError(f"n_clusters={n_clusters} must be 0 or at least n_classes={n_classes}.")
        self.d = d
        self.d_y = self.n_classes = n_classes
        self.cluster_std, self.separation, self.n_clusters, self.seed = cluster_std, separation, n_clusters, seed
        self._fixed = separation * fixed_normal(seed, n_clusters, d)

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`centres`: (*batch, n_classes, d)."""
        if self.n_clusters == 0:
            return {"centres": self.separation * normal(generator, *batch, self.n_classes, self.d)}
        chosen = subsets(self.n_clusters, self.n_classes, generator, *batch)
        return {"centres": self._fixed.to(chosen.device, torch.get_default_dtype())[chosen]}

    def sample_inputs_of(  # noqa: D102
        self, generator: torch.Generator, function: Mapping[str, Tensor], batch: tuple[int, ...], n_points: int
    ) -> Inputs:
        around = integers(self.n_classes, generator, *batch, n_points, 1).expand(*batch, n_points, self.d)
        return function["centres"].gather(-2, around) + self.cluster_std * normal(generator, *around.shape)

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:  # noqa: D102
        centres = function["centres"]
        closeness = inputs @ centres.mT - centres.square().sum(-1).unsqueeze(-2) / 2
        return one_hot(closeness.argmax(-1), self.n_classes).to(inputs)

    def optimal(self) -> Optimal:
        """Return the label of the nearest demonstration; not the Bayes predictor."""
        return Optimal("nearest-neighbours", {"n_neighbors": 1}, source=BEST_MEASURED)
