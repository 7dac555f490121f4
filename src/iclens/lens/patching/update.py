"""One block's patch: rank-1 updates of its MLP's matrices and an offset, and what each source adds to them.

With the context a block's stream before its MLP is s, without it s0, and the MLP reads a = n(s), or a0 = n(s0). For
every token that stays,

    ΔW = W (a − a0) a0ᵀ / |a0|²   for every matrix W that reads a,        offset = s − s0,

make the block give without the context what it gives with it: (W + ΔW) a0 = W a, and the offset is added to its sum.
The offset fits in a weight as well: ΔW_down = (s − s0) hᵀ / (m |h|²) with h the input of the last matrix and m the
branch's factor, or Δg = (s − s0) / (m û) where a norm ends the branch and û is its normalised input.

Both are linear in attention's change, with the norms' scales held: the parts of the sources and of the rest add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.errors import UserError
from iclens.lens.model.anatomy import matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import centre, gate
from iclens.lens.model.placed import at_hand, wide
from iclens.lens.patching.block import Block
from iclens.lens.patching.states import Attended, State, check

TERMS = ("part", "displaced", "rest", "states", "norms")
"""What the change of a block is made of: what each source's tokens give, and what they take from the tokens that stay;
what other tokens that were taken away give and take; changed states of the tokens that stay; changed scales of norms.
"""


class Update(NamedTuple):
    """A rank-1 update of one matrix at every token that stays: W + left_t right_tᵀ.

    Attributes:
        name: the linear map's path in the layer.
        left: (n_kept, width out).
        right: (n_kept, width in).
    """

    name: str
    left: Float[Tensor, "n_kept d_out"]
    right: Float[Tensor, "n_kept d_in"]


@dataclass(frozen=True)
class Split:
    """A change at the tokens that stay, in its terms; the names are those of `TERMS`.

    Attributes:
        part, displaced: of each source.
        rest, states, norms: of none.
    """

    part: Float[Tensor, "n_sources *n_kept width"]
    displaced: Float[Tensor, "n_sources *n_kept width"]
    rest: Float[Tensor, "*n_kept width"]
    states: Float[Tensor, "*n_kept width"]
    norms: Float[Tensor, "*n_kept width"]

    def at(self, token: int) -> Split:
        """The change at one token: tensors without their axis of tokens."""
        return Split(*(term[..., token, :] for term in self.each()))

    @property
    def by_source(self) -> Float[Tensor, "n_sources *n_kept width"]:
        """What each source gives and takes."""
        return self.part + self.displaced

    @property
    def remainder(self) -> Float[Tensor, "*n_kept width"]:
        """What is left of the change without the sources' parts."""
        return self.displaced.sum(0) + self.of_none

    @property
    def of_none(self) -> Float[Tensor, "*n_kept width"]:
        """The terms of no source."""
        return self.rest + self.states + self.norms

    @property
    def total(self) -> Float[Tensor, "*n_kept width"]:
        """The sum of all terms."""
        return self.part.sum(0) + self.remainder

    def each(self) -> Iterator[Tensor]:
        """All terms, in order."""
        yield from (self.part, self.displaced, self.rest, self.states, self.norms)


@dataclass(frozen=True, eq=False, repr=False)
class Patch:
    """The context's effect on one block, at every token that stays when it is taken away.

    Attributes:
        layer: the block's number.
        positions: where the tokens that stay are in the whole text; the last entry is the last token of the query.
        updates: of the matrices that read the MLP's input; their left factors are zero where that input does not
            depend on the block's own attention (parallel branches).
        offset: added to the block's output (before a norm on the stream, where one ends it).
        inputs: a − a0 in its terms; `matrix @ term` is the term's left factor.
        offsets: the offset in its terms.
        read_alone: a0.
        hidden: h, the input of the last matrix, with the context.
        last: the last matrix's path in the layer.
        gain: Δg, the offset as a change of the gain of the norm that ends the branch; None without such a norm.
        parallel: whether the MLP reads the block's input, beside the attention.
        block: the block's modules.
        scale: m, a constant factor of the branch.
    """

    layer: int
    positions: Int[Tensor, " n_kept"]
    updates: tuple[Update, ...]
    offset: Float[Tensor, "n_kept width"]
    inputs: Split
    offsets: Split
    read_alone: Float[Tensor, "n_kept width"]
    hidden: Float[Tensor, "n_kept d_ff"]
    last: str
    gain: Float[Tensor, "n_kept width"] | None
    parallel: bool
    block: Block
    scale: float

    def __repr__(self) -> str:
        matrices = ", ".join(self.matrices)
        return f"Patch(layer {self.layer}, {len(self.positions)} tokens, {self.n_sources} sources, of {matrices})"

    @property
    def n_sources(self) -> int:
        """How many sources have a part."""
        return len(self.offsets.part)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices that are updated: those that read the input, and the one that can take the offset."""
        return (*(update.name for update in self.updates), self.last)

    @property
    def offset_update(self) -> Update:
        """The offset as an update of the last matrix: W_down + (s − s0) hᵀ / (m |h|²).

        Raises:
            UserError: a norm ends the branch (its gain takes the offset), or h is zero.
        """
        if self.gain is not None:
            raise UserError(
                f"a norm ends the MLP of layer {self.layer}, so that no update of {self.last} adds an offset: take "
                "`gain`, the change of that norm's gain."
            )
        return Update(self.last, self.offset / self.scale, _dual(self.hidden, f"the input of {self.last}", self.layer))

    def dense(self, token: int = -1) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """ΔW of every updated matrix at one token, written out: matrix -> (width out, width in), of rank 1.

        The offset is in the last matrix, or, where a norm ends the branch, left out: see `gain`.

        Raises:
            UserError: there is no such token.
        """
        token = self._token(token)
        updates = self.updates if self.gain is not None else (*self.updates, self.offset_update)
        return {update.name: torch.outer(update.left[token], update.right[token]) for update in updates}

    def left(self, name: str | None = None, token: int | None = None) -> Split:
        """The left factor of one matrix's update in its terms, (…, n_kept, width out).

        Every term of ΔW is a term of this times the one right factor, so that sizes and cosines of updates are those of
        left factors, times `right_norm`.

        Args:
            name: a matrix that reads the MLP's input, or the last one, whose update holds the offset; None for all that
                read the input, one below the other, and where these do not change (parallel branches), the last one.
            token: one token that stays, whose axis is left out; None for all.

        Raises:
            UserError: there is no such matrix or token.
        """
        inputs, offsets = self.inputs, self.offsets
        if token is not None:
            inputs, offsets = (one.at(self._token(token)) for one in (inputs, offsets))
        if name == self.last or (name is None and self.parallel):
            return Split(*(term / self.scale for term in offsets.each()))
        chosen = self.told if name is None else (name,)
        weights = [self.matrix(one) for one in chosen]
        return Split(*(torch.cat([term @ W.T for W in weights], -1) for term in inputs.each()))

    def matrix(self, name: str) -> Float[Tensor, "d_out d_in"]:
        """W of one matrix, as the model has it, in no less than single precision.

        Raises:
            UserError: there is no such matrix.
        """
        if name not in self.matrices:
            raise UserError(f"layer {self.layer} has no matrix {name!r} to patch: it has {', '.join(self.matrices)}.")
        with at_hand(self.block.linears[name]):
            return wide(matrix(self.block.linears[name]).detach()).to(self.offset.device)

    @property
    def told(self) -> tuple[str, ...]:
        """The matrices whose update `left()` splits."""
        return (self.last,) if self.parallel else self.matrices[:-1]

    @property
    def right_norm(self) -> Float[Tensor, " n_kept"]:
        """|right| of the updates that `left()` splits: 1/|a0|, or 1/|h| with parallel branches."""
        return 1 / (self.hidden if self.parallel else self.read_alone).norm(dim=-1)

    def scaled(self, weights: Float[Tensor, " n_sources"]) -> Patch:
        """Return the patch in which every source counts several times; gradients flow back to the weights.

        What a source gives and what it takes from the tokens that stay is scaled, with the norms' scales held: ones
        give the patch itself, zeros what the context does beside the sources.

        Raises:
            UserError: another number of weights than sources.
        """
        if weights.shape != (self.n_sources,):
            raise UserError(f"weights of shape {tuple(weights.shape)} are given for {self.n_sources} sources.")
        updates = []
        for update in self.updates:
            left = self.left(update.name)
            updates.append(update._replace(left=_weighed(left, weights)))
        return replace(self, updates=tuple(updates), offset=_weighed(self.offsets, weights), gain=None)

    def _token(self, token: int) -> int:
        n = len(self.positions)
        if not -n <= token < n:
            raise UserError(
                f"there is no token {token}: {n} tokens stay when the context is taken away, numbered from 0, and from "
                "−1 backwards."
            )
        return token


def patch_of(
    lens_model: LensModel, block: Block, state: State, below: State, positions: Tensor, n_sources: int
) -> Patch:
    """The patch of one block.

    Args:
        lens_model: the model.
        block: the block.
        state: what it computed with the context.
        below: what it computed in a pass over the tokens that stay alone, its input and its attention's output.
        positions: of the tokens that stay.
        n_sources: how many of the context's parts are sources; one more is all the rest.

    Raises:
        UserError: a block that is not built of linear maps, or an input that is zero.
    """
    check(lens_model, block, state)
    layer, attended, m = block.layer, state.attended, lens_model.family.branch_scale
    assert attended is not None
    stream, A, A0 = below.stream, state.attention, below.attention
    change = _attention_change(attended, A0, n_sources)
    B, B0, change = _through(layer.norm_after_attention, A, A0, change)
    u, u0 = state.stream + m * B, stream + m * B0
    moved = state.stream - stream
    change = Split(*(m * term for term in change.each()))
    change = replace(change, states=change.states + moved)
    s, s0, change = _through(layer.norm_on_stream_after_attention, u, u0, change)
    parallel = state.before_norm is not None and torch.equal(state.before_norm, state.stream)
    if parallel:
        nothing = torch.zeros_like(change.part)
        reading = Split(nothing, nothing, nothing.new_zeros(moved.shape), moved, torch.zeros_like(moved))
        given, given0 = state.stream, stream
    else:
        reading, given, given0 = change, s, s0
    norm = None if state.norm is layer.norm_on_stream_after_attention else state.norm
    a, a0, reading = _through(norm, given, given0, reading)
    _same(lens_model, block, a, state.read)
    right = _dual(a0, "the MLP's input", block.index)
    updates = []
    for name in state.first:
        with at_hand(block.linears[name]):
            updates.append(Update(name, (a - a0) @ wide(matrix(block.linears[name]).detach()).T, right))
    gain = None
    if layer.norm_after_mlp is not None:
        gain = _gain(layer.norm_after_mlp, state.before_end, (s - s0) / m, block.index)
    return Patch(
        block.index, positions, tuple(updates), s - s0, reading, change, a0, state.hidden, state.last, gain, parallel,
        block, m,
    )  # fmt: skip


def _attention_change(attended: Attended, A0: Tensor, n_sources: int) -> Split:
    """A − A0 in its terms."""
    both = attended.by_slot + attended.displaced
    return Split(
        attended.by_slot[:n_sources], attended.displaced[:n_sources], both[n_sources:].sum(0), attended.alone - A0,
        torch.zeros_like(A0),
    )  # fmt: skip


def _through(norm: nn.Module | None, x: Tensor, x0: Tensor, change: Split) -> tuple[Tensor, Tensor, Split]:
    """Both inputs through a norm, and their difference in its terms, with the scale held at the first."""
    if norm is None:
        return x, x0, change
    with at_hand(norm):
        # The class's forward, because calling the module would run hooks; in the norm's own precision.
        own = next((one.dtype for one in norm.parameters()), None)
        y, y0 = (wide(type(norm).forward(norm, one if own is None else one.to(own))) for one in (x, x0))
        g, g0 = gate(norm, x, y), gate(norm, x0, y0)
        held = Split(*(g * centre(norm, term) for term in change.each()))
        return y, y0, replace(held, norms=held.norms + (g - g0) * centre(norm, x0))


def _weighed(split: Split, weights: Tensor) -> Tensor:
    return torch.einsum("i,ind->nd", weights.to(split.part), split.by_source) + split.of_none


def _dual(x: Tensor, what: str, layer: int) -> Tensor:
    """x / |x|², so that ⟨x, result⟩ = 1."""
    size = x.square().sum(-1, keepdim=True)
    if not bool((size > 0).all()):
        raise UserError(f"{what} of layer {layer} is zero at a token, so that no update of rank 1 changes its product.")
    return x / size


def _gain(norm: nn.Module, x: Tensor, offset: Tensor, layer: int) -> Tensor:
    """The change of a norm's gain at the input x that adds an offset to its output."""
    normalised = units(norm, x)
    if bool(((normalised == 0) & (offset != 0)).any()):
        raise UserError(
            f"the input of the norm that ends the MLP of layer {layer} has an entry that is zero, so that no gain adds "
            'the offset to it: run with form="offset".'
        )
    return torch.where(offset == 0, 0.0, offset / normalised)


def units(norm: nn.Module, x: Tensor) -> Tensor:
    """û of a norm's output g ⊙ û + b: what a change of its gain multiplies."""
    with at_hand(norm):
        weight = norm._parameters["weight"]
        assert weight is not None
        try:
            # Families count the gain from 0 or from 1; the difference of two gains that are 1 apart is û in both.
            found = []
            for filled in (torch.ones_like(weight), torch.zeros_like(weight)):
                norm._parameters["weight"] = filled  # type: ignore[assignment]
                found.append(type(norm).forward(norm, x.to(weight.dtype)))
        finally:
            norm._parameters["weight"] = weight
    return wide(found[0] - found[1])


def _same(lens_model: LensModel, block: Block, ours: Tensor, own: Tensor) -> None:
    tolerance = 1e-3 if lens_model.dtype in (torch.float32, torch.float64) else 0.1
    if float((ours - own).abs().max()) > tolerance * float(own.abs().max()):
        raise UserError(
            f"the MLP of layer {block.index} of {lens_model.name} reads something else than the stream behind its "
            "attention, or beside it: it cannot be patched."
        )
