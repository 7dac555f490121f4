"""How sources depend on each other, and what they do to the weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class PairEffects:
    """How the influence of one demonstration changes with the weight of another, near the weights of the influence.

    Attributes:
        matrix: ∂²M/∂w_i∂w_j, symmetric, shrunk towards zero where few gradients tell of it.
        noise: standard error of each entry.
        redundant: groups of demonstrations that say the same: another one takes at least half of each one's effect.
        dependent: pairs of which either adds at least half of the smaller effect to the other.
        error: root mean square error with which subsets are predicted, on random halves of the demonstrations, in nats.
        spread: standard deviation of the margin over these halves.
        n_vectors: weight vectors at which the gradient was taken.
    """

    matrix: tuple[tuple[float, ...], ...] = field(repr=False)
    noise: tuple[tuple[float, ...], ...] = field(repr=False)
    redundant: tuple[tuple[int, ...], ...]
    dependent: tuple[tuple[int, int], ...]
    error: float
    spread: float
    n_vectors: int


@dataclass(frozen=True)
class SourceUpdate:
    """A source's part of the weight updates that stand for the context, where the answer begins.

    Attributes:
        size: |ΔW_i| / |W|, the mean over layers.
        share: ⟨ΔW_i, ΔW⟩ / |ΔW|², the mean over layers: which part of the update it is; negative where it opposes it.
        displaced: the same of what it takes from the tokens that stay, whose attention it draws.
        largest_in: the layer where |ΔW_i| / |W| is largest.
        alike: the source whose part is most like it, or None for a single one.
        cosine: how much it is, the mean over layers of the cosines.
        by_layer: |ΔW_i| / |W| in each layer; empty where an older file is read.
    """

    size: float
    share: float
    displaced: float
    largest_in: int
    alike: int | None
    cosine: float | None
    by_layer: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class PatchEffects:
    """The context as an update of rank 1 of every block's MLP, at the token where the answer begins.

    Attributes:
        off_of_blocks: the worst difference of a patched block's output from what it is with the context, relative.
        n_kept: how many tokens stay without the sources, and run alone with patched weights.
        by_layer: |ΔW| / |W| of each layer.
        sources: each source's part.
        shares: of what belongs to no source, by its name in `iclens.lens.patching.update.TERMS`; with what the sources
            give and displace they sum to 1.
        cosines: between the sources' parts, means over layers; empty where an older file is read.

    Raises:
        ValueError: parts of another number of layers, or cosines of another number of sources.
    """

    off_of_blocks: float
    n_kept: int
    by_layer: tuple[float, ...] = field(repr=False)
    sources: tuple[SourceUpdate, ...]
    shares: dict[str, float]
    cosines: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        n = len(self.sources)
        if any(len(one.by_layer) not in (0, len(self.by_layer)) for one in self.sources):
            raise ValueError(f"the sizes of a part are not of {len(self.by_layer)} layers")
        if self.cosines and (len(self.cosines) != n or any(len(row) != n for row in self.cosines)):
            raise ValueError(f"'cosines' is no table of {n} × {n}")
