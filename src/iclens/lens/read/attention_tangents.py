"""Attention of a piece of a text, with the tangents of several sources pushed through it side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from iclens.lens.model.placed import wide
from iclens.lens.model.session import AttentionCall
from iclens.lens.read.attend import MOST_SCORES, scores_of, weigh
from iclens.lens.read.weighted import Weighting


@dataclass(frozen=True)
class Piece:
    """A piece of a text, through which the tangents of some sources are pushed.

    Attributes:
        start, end: its tokens, `end` not included.
        sources: the sources with a tangent, by their numbers.
        begins: the first token that sees each of them.
        how: the weights of the sources.
        calls: masks of the whole text, of every attention module by its name, with room for its keys and values; these
            are known before the piece, and are written in it.
        tangents: of these keys and values, likewise.
    """

    start: int
    end: int
    sources: Sequence[int]
    begins: Sequence[int]
    how: Weighting
    calls: Mapping[str, AttentionCall]
    tangents: Mapping[str, tuple[Tensor, Tensor]]


def attend(call: AttentionCall, weights: Tensor, piece: Piece) -> Tensor:
    """The heads' output of a piece, which forward derivatives with respect to `weights`, one a source, go through."""
    about = replace(call, q=call.q[:0], k=call.k[:0], v=call.v[:0])
    output: Tensor = _Attention.apply(call.q, call.k, call.v, weights, _Attending(piece, about))
    return output


class _Attending:
    """Attention of a piece to all that is before it and to itself, and how its output changes.

    With α the attention weights, s the scores and out a head's output, the tangent of a query's output is

        Σ_j α_j (ds_j + dlog w_j) (v_j − out) + Σ_j α_j dv_j,        ds_j = scale · (⟨dq, k_j⟩ + ⟨q, dk_j⟩)
    """

    def __init__(self, piece: Piece, call: AttentionCall) -> None:
        self.piece, self.call, self.own = piece, call, piece.calls[call.name]

    def output(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the heads' output (1, heads, rows, d_v)."""
        start, end = self.piece.start, self.piece.end
        for known, new in ((self.own.k, k), (self.own.v, v)):
            known[:, :, start:end] = new
        self.q, self.k, self.v = q, self.own.k[:, :, :end], self.own.v[:, :, :end]
        pieces = [(alpha @ wide(self.v[0])).unflatten(1, (self.groups, -1)) for _, alpha, _, _ in self._blocks()]
        self.out = torch.cat(pieces, 2).flatten(0, 1)[None].to(v.dtype)
        return self.out

    def tangent(self, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None, count: int) -> Tensor:
        """Its tangents (count, 1, heads, rows, d_v), from those of q, k and v, which are None where they are zero."""
        piece, scale = self.piece, self.call.scale
        known_k, known_v = piece.tangents[self.call.name]
        for known, new in ((known_k, dk), (known_v, dv)):
            if new is not None:
                known[:count, :, piece.start : piece.end] = new[:, 0]
        groups = piece.how.edges.groups[0, : piece.end].to(self.q.device)
        values = nn.functional.pad(wide(self.v[0]), (0, 1), value=1.0)
        outputs = []
        for rows, alpha, carrying, slope in self._blocks():
            q, out = self._folded(self.q[:, :, rows])[0] * scale, self._folded(self.out[:, :, rows])[0]
            own = None if dq is None else self._folded(dq[:, 0, :, rows]) * scale
            key_heads, n_rows, end = alpha.shape
            found = alpha.new_empty(count, key_heads, n_rows, self.v.shape[-1])
            # One source and key head at a time, so that what is formed stays in the fast part of memory.
            change = alpha.new_empty(n_rows, end)
            for i, (source, begin) in enumerate(zip(piece.sources, piece.begins, strict=True)):
                keys = (groups == source).nonzero().flatten()
                first, last = int(keys[0]), int(keys[-1]) + 1
                weighted = carrying[:, first:last] * (groups[first:last] == source)
                for head in range(key_heads):
                    if own is None:
                        change.zero_()
                    else:
                        torch.mm(own[i, head], wide(self.k[0, head]).T, out=change)
                    if dk is not None and begin < end:
                        change[:, begin:].addmm_(q[head], wide(known_k[i, head, begin:end]).T)
                    if slope is not None:
                        change *= slope[head]
                    change[:, first:last] += weighted
                    change *= alpha[head]
                    summed = change @ values[head]
                    torch.addcmul(summed[:, :-1], summed[:, -1:], out[head], value=-1, out=found[i, head])
                    if dv is not None and begin < end:
                        found[i, head].addmm_(alpha[head, :, begin:], wide(known_v[i, head, begin:end]))
            outputs.append(found.unflatten(2, (self.groups, -1)).flatten(1, 2))
        return torch.cat(outputs, 2)[:, None].to(self.out.dtype)

    @property
    def groups(self) -> int:
        """Query heads that share one key head."""
        return self.q.shape[1] // self.k.shape[1]

    def _folded(self, x: Tensor) -> Tensor:
        """(batch, query heads, rows, d) -> (batch, key heads, query heads of each · rows, d)."""
        return wide(x).unflatten(1, (-1, self.groups)).flatten(2, 3)

    def _blocks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        """Rows of the piece, their attention weights, which edges carry weights, and the slope of a soft cap."""
        piece, q, how = self.piece, self.q, self.piece.how
        heads, n_rows, end = q.shape[1], q.shape[2], self.k.shape[2]
        edges, call = how.edges.to(q.device), replace(self.call, k=wide(self.k))
        step = max(1, MOST_SCORES // (max(1, len(piece.sources)) * heads * end))
        for first in range(0, n_rows, step):
            rows = slice(first, min(n_rows, first + step))
            places = slice(piece.start + rows.start, piece.start + rows.stop)
            carrying = edges.rows(places)[..., :end]
            scores = scores_of(replace(call, q=q), wide(q[:, :, rows]))
            bias = None if how.plain else how.on(edges.rows(places), scores)[..., :end]
            mask = self.own.seen.rows(places.start, places.stop)[..., :end].to(q.device)
            alpha = weigh(scores, mask, call.softcap, call.sinks, bias)
            slope = None if call.softcap is None else self._beside(1 - (scores / call.softcap).tanh().square())
            carried = carrying[0].to(alpha).repeat(1, self.groups, 1)[0]
            yield rows, self._beside(alpha), carried, slope

    def _beside(self, x: Tensor) -> Tensor:
        return x[0].unflatten(0, (-1, self.groups)).flatten(1, 2)


class _Attention(Function):
    """Attention with a forward derivative: a tangent at a time by its own rule, all of a batch at once by another."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, weights: Tensor, attending: _Attending) -> Tensor:
        return attending.output(q, k, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.attending = inputs[-1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, None]:
        # The text itself is the same for every tangent.
        return _Attention.forward(*inputs), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _Tangents.apply(*tangents[:4], ctx.attending)


class _Tangents(Function):
    """The tangents of attention, as an operation that `vmap` hands all tangents at once."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise NotImplementedError("tangents are pushed side by side, by vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        *tangents, _, attending = inputs
        # What the weights do not reach yet, as in the first layer, has no tangent, or one that is not of the batch.
        pushed = [None if d is None else x.movedim(d, 0) for x, d in zip(tangents, in_dims, strict=False)]
        return attending.tangent(*pushed, info.batch_size), 0


@cache
def ready() -> None:
    """Have PyTorch load what forward derivatives need, which warns of a deprecated part of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
