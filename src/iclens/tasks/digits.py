"""Handwritten digits, classified in context."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from iclens.errors import UserError
from iclens.tasks.draws import fixed_normal, integers, subsets, uniform
from iclens.tasks.function_first import BEST_MEASURED, FunctionFirst
from iclens.tasks.options import require_one_of
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal

SPLITS = ("train", "held-out", "all")
N_DIGITS = 10


@functools.cache
def _images() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 images of 8 × 8 pixels in [0, 1], in float64, and their digits."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    return torch.from_numpy(pixels / 16), torch.from_numpy(digits.astype(np.int64))


@TASKS.register("digits")
class Digits(FunctionFirst):
    """Images of `n_classes` of the ten digits; which digit has which label is drawn for every prompt.

    Inputs are the 64 pixels in [0, 1] of scikit-learn's bundled digits, labels are one-hot. Every point draws its
    digit uniformly; within a prompt no image comes twice before all of its digit have come. `function` holds `digits`,
    (*batch, n_classes): the digit of each label.

    Args:
        n_classes: digits of a prompt, 2 to 10; d_y is the same.
        split: `train` or `held-out` images, or `all`.
        held_out: share of the images of each digit that is held out, between 0 and 1.
        seed: of the split.

    Raises:
        UserError: an option out of its range, or a share that leaves a digit without images.
    """

    d = 64

    def __init__(self, *, n_classes: int = 5, split: str = "train", held_out: float = 0.2, seed: int = 0) -> None:
        require_one_of("split", split, SPLITS)
        if not 2 <= n_classes <= N_DIGITS:
            raise UserError(f"n_classes={n_classes} must lie between 2 and {N_DIGITS}.")
        if not 0 < held_out < 1:
            raise UserError(f"held_out={held_out} is a share: it must lie between 0 and 1.")
        self.d_y = self.n_classes = n_classes
        self.split, self.held_out, self.seed = split, held_out, seed
        self.images, self.digits = _images()
        self._members, self._counts = self._split()
        # An image is found again by one number: its product with a random vector.
        self._probe = fixed_normal(0, self.d)
        self._keys, self._order = (self.images @ self._probe).sort()

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`digits`: (*batch, n_classes)."""
        return {"digits": subsets(N_DIGITS, self.n_classes, generator, *batch)}

    def sample_inputs_of(  # noqa: D102
        self, generator: torch.Generator, function: Mapping[str, Tensor], batch: tuple[int, ...], n_points: int
    ) -> Inputs:
        slots = integers(self.n_classes, generator, *batch, n_points)
        digits = function["digits"]
        # How many earlier points of the prompt are of the same digit: the next image of a random order of its images.
        slot_of = one_hot(slots, self.n_classes)
        earlier = (slot_of.cumsum(-2) - slot_of).gather(-1, slots.unsqueeze(-1)).squeeze(-1)
        counts = self._counts.to(digits.device)[digits]
        keys = uniform(generator, *batch, self.n_classes, self._members.shape[-1])
        absent = torch.arange(keys.shape[-1], device=keys.device) >= counts.unsqueeze(-1)
        orders = keys.masked_fill_(absent, 2.0).argsort(-1)
        rank = earlier % counts.gather(-1, slots)
        place = orders.flatten(-2).gather(-1, slots * orders.shape[-1] + rank)
        chosen = self._members.to(digits.device)[digits.gather(-1, slots), place]
        return self.images.to(digits.device, torch.get_default_dtype())[chosen]

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:
        """Return the label of the image's digit; zeros for a digit that the prompt has no label for.

        Raises:
            UserError: an input that is none of the images.
        """
        digits = self.digits.to(inputs.device)[self.indices(inputs)]
        return (digits.unsqueeze(-1) == function["digits"].unsqueeze(-2)).to(inputs)

    def indices(self, inputs: Inputs) -> Tensor:
        """Which of scikit-learn's images each input is, (*batch, n_points).

        Raises:
            UserError: an input that is none of them.
        """
        keys = inputs.cpu().double() @ self._probe
        after = torch.searchsorted(self._keys, keys - 1e-9).clamp_(max=len(self._keys) - 1)
        if not ((self._keys[after] - keys).abs() < 1e-9).all():
            raise UserError("an input is none of scikit-learn's digits, so that it has no label.")
        return self._order[after].to(inputs.device)

    def optimal(self) -> Optimal:
        """Three nearest neighbours, the nearer the heavier; not the Bayes predictor."""
        options = {"n_neighbors": 3, "weights": "distance"}
        return Optimal("nearest-neighbours", options, source=BEST_MEASURED)

    def _split(self) -> tuple[Tensor, Tensor]:
        """Indices of each digit's images in this split, (10, most), filled up with 0, and how many there are."""
        generator = torch.Generator().manual_seed(self.seed)
        chosen = []
        for digit in range(N_DIGITS):
            own = (self.digits == digit).nonzero().squeeze(-1)
            own = own[torch.randperm(len(own), generator=generator)]
            first = round(len(own) * self.held_out)
            chosen.append({"held-out": own[:first], "train": own[first:], "all": own}[self.split])
        if not all(len(own) for own in chosen):
            raise UserError(f"held_out={self.held_out} leaves a digit without images in the split {self.split!r}.")
        counts = torch.tensor([len(own) for own in chosen])
        return torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True), counts
