"""Sums of what tokens do over the sources that they belong to."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def by_source(
    values: Float[Tensor, "*any n"], groups: Int[Tensor, "*batch n"], n_sources: int
) -> Float[Tensor, "*any n_sources_and_rest"]:
    """Sum the last axis (tokens) within each source; the last entry is the sum over the tokens of none.

    `groups` is the source of each token, −1 for none. Where it has axes of prompts, they come first in `values`, too.
    """
    slots = torch.where(groups < 0, n_sources, groups).to(values.device)
    between = values.ndim - groups.ndim
    slots = slots.reshape(*groups.shape[:-1], *(1,) * between, groups.shape[-1]).expand_as(values)
    return values.new_zeros(*values.shape[:-1], n_sources + 1).scatter_add(-1, slots, values)
