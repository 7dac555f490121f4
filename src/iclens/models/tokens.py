"""Prompts as tokens: an input and its label beside each other, or one after the other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from iclens.tasks.shapes import Inputs, Labels


def interleaved(inputs: Inputs, labels: Labels) -> Float[Tensor, "*batch n_tokens width"]:
    """x_1, y_1, x_2, …, y_n, x_{n+1}, each padded with zeros to max(d, d_y); n_tokens = 2 n_points − 1.

    The last label is left out: nothing may depend on it. Points are answered at the tokens 0, 2, 4, …

    Source: Garg et al. 2022.
    """
    width = max(inputs.shape[-1], labels.shape[-1])
    pairs = torch.stack([pad(inputs, (0, width - inputs.shape[-1])), pad(labels, (0, width - labels.shape[-1]))], -2)
    return pairs.flatten(-3, -2)[..., :-1, :]


def joint(inputs: Inputs, labels: Labels) -> Float[Tensor, "*batch n_points width"]:
    """(x_1, y_1) … (x_n, y_n), (x_{n+1}, 0), of width d + d_y; the last point is the query.

    Source: von Oswald et al. 2023; Ahn et al. 2023.
    """
    shown = torch.cat([labels[..., :-1, :], torch.zeros_like(labels[..., -1:, :])], -2)
    return torch.cat([inputs, shown], -1)


def pairs(inputs: Inputs, labels: Labels) -> Float[Tensor, "*batch n_tokens width"]:
    """(x_1, 0), (x_1, y_1), (x_2, 0), …, (x_n, y_n), (x_{n+1}, 0), of width d + d_y; n_tokens = 2 n_points − 1.

    Joint tokens for a causal mask: points are answered at the tokens 0, 2, 4, …, each from the pairs before it. A token
    holds its input and its label at once, so that no layer is spent on bringing them together.
    """
    shown = torch.stack([torch.zeros_like(labels), labels], -2)
    both = torch.cat([torch.stack([inputs, inputs], -2), shown], -1)
    return both.flatten(-3, -2)[..., :-1, :]
