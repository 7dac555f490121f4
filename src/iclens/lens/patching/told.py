"""The patches in numbers: how large each source's update is in each block, and how alike they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.model.placed import doubled
from iclens.lens.patching.update import TERMS, Patch


class Sizes(NamedTuple):
    """The terms of one block's update at one token; the last axis is of (term, source) as in `labels`.

    Attributes:
        size: |ΔW_term|, the Frobenius norm over all matrices that are told, relative to |W|.
        share: ⟨ΔW_term, ΔW⟩ / |ΔW|²: the shares of all terms sum to 1; zeros where there is no update.
        offset: |offset's term| relative to |offset|.
        cosines: between the sources' parts of ΔW; zeros where one is zero.
        total: |ΔW| / |W|.
    """

    size: Float[Tensor, " n_terms"]
    share: Float[Tensor, " n_terms"]
    offset: Float[Tensor, " n_terms"]
    cosines: Float[Tensor, "n_sources n_sources"]
    total: Float[Tensor, ""]


def labels(n_sources: int) -> list[tuple[str, int | None]]:
    """The terms of a change, in the order of `Sizes`: (term, source), with None for those of no source."""
    of_sources = [(term, source) for term in TERMS[:2] for source in range(n_sources)]
    return [*of_sources, *((term, None) for term in TERMS[2:])]


def sizes(patch: Patch, token: int = -1) -> Sizes:
    """Measure one block's update at one token that stays, in float64.

    Raises:
        UserError: there is no such token.
    """
    split = patch.left(token=token)
    left = _rows(split.each())
    whole = left.sum(0)
    norm_of_right = doubled(patch.right_norm[token]).cpu()
    weight = torch.stack([patch.matrix(name).norm().double().cpu() for name in patch.told]).norm()
    offsets = _rows(patch.offsets.at(token).each())
    total = whole.norm()
    unit = _divided(left[: patch.n_sources], left[: patch.n_sources].norm(dim=-1, keepdim=True))
    return Sizes(
        left.norm(dim=-1) * norm_of_right / weight,
        _divided(left @ whole, total.square()),
        _divided(offsets.norm(dim=-1), offsets.sum(0).norm()),
        unit @ unit.T,
        total * norm_of_right / weight,
    )


def rows_of(patches: Iterable[Patch], tokens: Sequence[int]) -> list[dict[str, Any]]:
    """One dictionary for every block, token and term: the long table of `Patches.to_rows`."""
    found: list[dict[str, Any]] = []
    for patch in patches:
        for token in tokens:
            measured = sizes(patch, token)
            numbers = zip(*(part.tolist() for part in measured[:3]), strict=True)
            for (term, source), (size, share, offset) in zip(labels(patch.n_sources), numbers, strict=True):
                found.append(
                    {
                        "layer": patch.layer,
                        "position": int(patch.positions[token]),
                        "matrices": "+".join(patch.told),
                        "term": term,
                        "source": source,
                        "size": size,
                        "share": share,
                        "offset": offset,
                    }
                )
    return found


def _rows(terms: Iterable[Tensor]) -> Tensor:
    """Terms of sources (n_sources, width) and of none (width) as rows of one matrix, in float64 in memory."""
    return torch.cat([doubled(term).cpu().reshape(-1, term.shape[-1]) for term in terms])


def _divided(x: Tensor, by: Tensor) -> Tensor:
    return torch.where(by > 0, x / torch.where(by > 0, by, 1.0), 0.0)
