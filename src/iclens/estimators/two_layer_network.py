"""A network with one hidden layer, trained on the prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import checked_points
from iclens.tasks.options import require_at_least_zero, require_counts, require_positive
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels

_ELEMENTS = 2**23
"""Most hidden activations held at once (64 MiB in float64)."""


@ESTIMATORS.register("two-layer-network")
@dataclass(frozen=True)
class TwoLayerNetwork(Estimator):
    """ŷ = aᵀ relu(Wx + b) + c after `n_steps` of Adam on the mean squared error of all points.

    One network for every prompt, prefix and output, all from the same start (uniform ± fan_in^(−1/2)) and trained side
    by side: what a prompt is answered does not depend on its batch. Without gradient.

    Source: Garg et al. 2022, the baseline of their two-layer networks, whose defaults these are.

    Attributes:
        hidden_size: hidden units.
        n_steps: steps of Adam, not negative.
        learning_rate: Adam's rate, positive.
        seed: seed of the start.

    Raises:
        UserError: an option out of its range.
    """

    hidden_size: int = 100
    n_steps: int = 100
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(hidden_size=self.hidden_size)
        require_at_least_zero(n_steps=self.n_steps)
        require_positive(learning_rate=self.learning_rate)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:  # noqa: D102
        return self._answers(inputs, labels, first=0)

    def predict(self, prompt: PromptBatch) -> Float[Tensor, "*batch d_y"]:  # noqa: D102
        return self._answers(prompt.inputs, prompt.labels, first=prompt.n_context).squeeze(-2)

    def _answers(self, inputs: Tensor, labels: Tensor, first: int) -> Tensor:
        """Predictions at the points from number `first` on, (..., n_points − first, d_y)."""
        inputs, labels = checked_points(inputs, labels)
        n = inputs.shape[-2]
        # The outputs join the prompts: each has a network of its own.
        x = inputs.detach().unsqueeze(-3).expand(*labels.mT.shape, inputs.shape[-1]).reshape(-1, *inputs.shape[-2:])
        y = labels.detach().mT.reshape(-1, n)
        at_once = max(1, _ELEMENTS // (n * (n - first) * self.hidden_size))
        answers = [self._trained(*some, first) for some in zip(x.split(at_once), y.split(at_once), strict=True)]
        return torch.cat(answers).reshape(*labels.mT.shape[:-1], n - first).mT

    def initial(self, d: int) -> list[Tensor]:
        """W (hidden_size, d), b (hidden_size), a (hidden_size) and c () at the start, in float64."""
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(fan_in: int, *shape: int) -> Tensor:
            return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / fan_in**0.5

        h = self.hidden_size
        return [uniform(d, h, d), uniform(d, h), uniform(h, h), uniform(h)]

    def _trained(self, x: Tensor, y: Tensor, first: int) -> Tensor:
        """Answers of the trained networks, (prompts, n_points − first)."""
        batch, n, d = x.shape
        before = torch.ones(n, n, dtype=x.dtype, device=x.device).tril(-1)[first:]
        counts = before.sum(-1, keepdim=True).clamp_min(1)
        # Axes: prompt, prefix, then the parameter's own.
        parameters = [
            start.to(x).expand(batch, n - first, *start.shape).clone().requires_grad_() for start in self.initial(d)
        ]
        w, b, a, c = parameters
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate)

        def outputs(points: Tensor) -> Tensor:
            hidden = (points @ w.mT + b.unsqueeze(-2)).relu()
            return (hidden @ a.unsqueeze(-1)).squeeze(-1) + c.unsqueeze(-1)

        with torch.enable_grad():
            for _ in range(self.n_steps):
                optimizer.zero_grad()
                # The sum over networks of their means: each gets the gradient of its own.
                ((outputs(x.unsqueeze(1)) - y.unsqueeze(1)).square() * before / counts).sum().backward()
                optimizer.step()
        with torch.no_grad():
            answers = outputs(x[:, first:].unsqueeze(2)).squeeze(-1)
        return answers * before.any(-1)
