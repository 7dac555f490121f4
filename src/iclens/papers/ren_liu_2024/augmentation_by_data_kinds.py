"""Kinds of data for in-context learning, and the augmentation g that each suggests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from iclens.attention.augmentations import ParallelAdapter, TokenConvolution
from iclens.language.words import WORDS_PER_CATEGORY
from iclens.models.products import affine
from iclens.tasks.draws import normal
from iclens.tasks.task import build_task

_SIDE = 8
_WORDS = 6


class Points(NamedTuple):
    """Prompts (batch, n + 1, …); the last point is the query."""

    inputs: Float[Tensor, "batch n_points d"]
    labels: Float[Tensor, "batch n_points d_y"]


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        draw: prompts from (generator, batch, n_context, held_out).
        d: width of the inputs.
        d_y: width of the labels.
        classes: whether labels are one-hot.
        designed: the name of the g that this kind suggests.
        augmentations: name to a maker of g from (width of a token, number of tokens).
    """

    draw: Callable[[torch.Generator, int, int, bool], Points]
    d: int
    d_y: int
    classes: bool
    designed: str
    augmentations: Mapping[str, Callable[[int, int], nn.Module]]


class PixelConvolution(nn.Module):
    """g(x) = x + conv(ReLU(conv(x))) on the first 64 channels as an image of 8 × 8, with zeros in the last conv.

    The convolutions are computed as products with their matrices over all pixels, which takes a third of the time of
    `nn.Conv2d` on images as small as these, and is the same.

    Args:
        hidden: channels between the two 3 × 3 convolutions.
        shuffled: the pixels change places before and after, so that neighbours are no neighbours: the control.
    """

    order: Tensor

    def __init__(self, hidden: int = 4, shuffled: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, 1, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]
        n = _SIDE * _SIDE
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(n)
        self.order = order
        # Pixel order[i] of the data stands at place i of the image.
        places = order.argsort()
        self.shifts = _shifts()[:, places][:, :, places].flatten(1)

    def forward(self, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n width"]:  # noqa: D102
        n_pixels = _SIDE * _SIDE
        images = x[..., :n_pixels].reshape(1, -1, n_pixels)
        change = self._convolved(self.second, torch.relu(self._convolved(self.first, images)))
        return x + pad(change.reshape(*x.shape[:-1], n_pixels), (0, x.shape[-1] - n_pixels))

    def _convolved(self, convolution: nn.Conv2d, images: Tensor) -> Tensor:
        """Return the convolution of rows (1, n, channels · pixels)."""
        weight, bias, n_pixels = convolution.weight, convolution.bias, _SIDE * _SIDE
        assert bias is not None
        n_out, n_in = weight.shape[:2]
        matrix = (weight.reshape(n_out * n_in, 9) @ self.shifts.to(weight)).reshape(n_out, n_in, n_pixels, n_pixels)
        matrix = matrix.permute(1, 2, 0, 3).reshape(1, n_in * n_pixels, n_out * n_pixels)
        return affine(images, matrix, bias.repeat_interleave(n_pixels).unsqueeze(0))


@cache
def _shifts() -> Float[Tensor, "9 n_pixels n_pixels"]:
    """For each of the nine weights of a kernel, row by row: 1 where it takes a pixel (row) to another (column)."""
    line = torch.arange(_SIDE)
    # One axis: 1 where the pixel is the other's neighbour at −1, 0 or +1; there is nothing beyond the edge.
    along = torch.stack([(line.unsqueeze(1) == line + step).double() for step in (-1, 0, 1)])
    return torch.einsum("arp,bsq->abrspq", along, along).reshape(9, _SIDE * _SIDE, _SIDE * _SIDE)


class MessagePassing(nn.Module):
    """g(x)_i = x_i + W · (mean of x over the neighbours of token i), with W = 0 at the start.

    Args:
        width: of a token.
        neighbours: rows that sum to 1, (n, n).
    """

    mixes_tokens = True
    causal = False

    def __init__(self, width: int, neighbours: Float[Tensor, "n n"]) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(width, width))
        self.neighbours = neighbours

    def forward(self, x: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n width"]:  # noqa: D102
        return x + (self.neighbours.to(x) @ x) @ self.W.mT


def graph(n: int, seed: int = 0) -> Float[Tensor, "n n"]:
    """Return a random graph: a ring of all nodes in random order with n // 2 chords; every row its neighbours' mean."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[order, order.roll(1)] = 1
    chords = torch.randint(n, (n // 2, 2), generator=generator)
    adjacency[chords[:, 0], chords[:, 1]] = 1
    adjacency = ((adjacency + adjacency.mT) > 0).double().fill_diagonal_(0)
    return adjacency / adjacency.sum(-1, keepdim=True)


def _registered(name: str, **options: object) -> Callable[[torch.Generator, int, int, bool], Points]:
    def draw(generator: torch.Generator, batch: int, n_context: int, held_out: bool) -> Points:
        split = {"split": "held-out" if held_out else "train"} if name == "digits" else {}
        prompt = build_task(name, **options, **split).sample(generator, batch, n_context)
        return Points(prompt.inputs, prompt.labels)

    return draw


def _nodes(generator: torch.Generator, batch: int, n_context: int, held_out: bool) -> Points:
    """The nodes of one graph with features x_i; y_i = w·(x_i + the mean of its neighbours' x), w of the prompt."""
    d = 4
    x = normal(generator, batch, n_context + 1, d)
    w = normal(generator, batch, d, 1)
    return Points(x, (x + graph(n_context + 1).to(x) @ x) @ w / d**0.5)


def _text(generator: torch.Generator, batch: int, n_context: int, held_out: bool) -> Points:
    """Words one-hot, six of each of four categories, and the category's label of this prompt; pairs are held out.

    As in `iclens.language.words`, word number w of category c never carries the label (w + c) mod 4 in training; a
    held-out prompt asks for exactly such a pair.
    """
    n_labels = 4
    assert _WORDS <= WORDS_PER_CATEGORY
    label_of = torch.randint(n_labels, (batch, n_labels), generator=generator)
    categories = torch.randint(n_labels, (batch, n_context + 1), generator=generator)
    labels = label_of.gather(1, categories)
    # Words whose number is free to carry this label; the query's is the one that is not, when held out.
    draws = torch.rand(batch, n_context + 1, _WORDS, generator=generator, dtype=torch.float64)
    held = (torch.arange(_WORDS) + categories.unsqueeze(-1)) % n_labels == labels.unsqueeze(-1)
    if held_out:
        held[:, -1] = ~held[:, -1]
    words = draws.masked_fill(held, -1.0).argmax(-1)
    dtype = torch.get_default_dtype()
    return Points(
        one_hot(categories * _WORDS + words, n_labels * _WORDS).to(dtype), one_hot(labels, n_labels).to(dtype)
    )


ADAPTER, TOKENS, SHUFFLED = "adapter", "convolution over tokens", "shuffled"
_BOTH: Mapping[str, Callable[[int, int], nn.Module]] = {
    ADAPTER: lambda width, n: ParallelAdapter(width, 1, hidden=8),
    TOKENS: lambda width, n: TokenConvolution(width, 1, size=3, causal=False),
}

KINDS: Mapping[str, Kind] = {
    "regression": Kind(_registered("linear", d=4), 4, 1, False, ADAPTER, _BOTH),
    "images": Kind(
        _registered("digits", n_classes=3),
        64,
        3,
        True,
        "convolution over pixels",
        {
            **_BOTH,
            "convolution over pixels": lambda width, n: PixelConvolution(),
            SHUFFLED: lambda width, n: PixelConvolution(shuffled=True),
        },
    ),
    "graphs": Kind(
        _nodes,
        4,
        1,
        False,
        "message passing",
        {
            **_BOTH,
            "message passing": lambda width, n: MessagePassing(width, graph(n)),
            SHUFFLED: lambda width, n: MessagePassing(width, graph(n, seed=1)),
        },
    ),
    "text": Kind(_text, 4 * _WORDS, 4, True, TOKENS, _BOTH),
}
"""Shuffled: the designed g with the data's structure taken away (pixels, graph), the parameters as many."""
