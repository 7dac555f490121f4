"""How every token of a response depends on every source: the derivatives of its log-probability, at one weight vector.

    matrix[t, i] = ∂ log p_t / ∂ log w_i

One backward pass gives these for one number, so that T tokens would cost T of them. Forward derivatives go the other
way: a tangent for each of S sources is pushed through the model along with its own numbers, and at the end each one is
contracted with the T directions that matter there, so that no logit of a tangent is formed. A source's tangent is zero
before the first token that sees it by a weighted edge: texts run in pieces, each with the tangents of the sources
before it alone, and keys and values of earlier pieces are kept. That is about half as many passes as there are
sources.

Whichever costs less is taken: forward derivatives, or a backward pass for each token.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled, wide
from iclens.lens.model.rotary import longest_alike
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.attend import MOST_SCORES, fast, scores_of, weigh
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens, take, unembedding_only
from iclens.lens.read.weighted import Edges, Weighting, weighted

_LEAST = 48
"""Tokens of a piece, at least: a shorter one costs more by itself than it saves."""

_BACKWARD = 2.5
"""What a backward pass costs, in forward passes."""

_TANGENT = 1.25
"""What a tangent costs, in forward passes of its tokens."""


@dataclass(frozen=True)
class TokenInfluence:
    """Derivatives of the log-probability of every token of one prompt's response.

    Attributes:
        by_source: ∂ log p_t / ∂ log w_i, in float64.
        log_probabilities: log p_t at these weights.
        forward: whether forward derivatives gave them, rather than a backward pass for each token.
        cost: forward and backward passes.
        fallback: why forward derivatives, which would cost less, did not go through the model; or empty.
    """

    by_source: Float[Tensor, "n_tokens n_sources"]
    log_probabilities: Float[Tensor, " n_tokens"]
    forward: bool
    cost: tuple[float, float]
    fallback: str = ""


def token_influence(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    edges: Edges,
    weights: Float[Tensor, "1 n"],
    n_sources: int,
    *,
    forward: bool | None = None,
) -> TokenInfluence:
    """Differentiate the log-probability of every term of one prompt's read-out by the weight of every source.

    Args:
        lens_model: a causal model.
        tokens: the prompt with its response, a batch of one.
        readouts: what is read: its terms name the response's tokens.
        edges: which attention edges carry the weights; their groups are the sources.
        weights: positive weights of the tokens, 1 for tokens without one.
        n_sources: how many sources there are.
        forward: take forward derivatives, or a backward pass for each token; the cheaper one when None.
    """
    how = Weighting(edges, doubled(weights).log())
    n, n_read = tokens.ids.shape[1], readouts.term_rows.shape[1]
    begins = _begins(edges, n_sources, n)
    if forward is None:
        forward = 1 + _TANGENT * sum(n - begin for begin in begins) / n < 1 + _BACKWARD * n_read
    if not forward:
        return _backward(lens_model, tokens, readouts, how, n_sources)
    if longest_alike(lens_model) is not None:
        fallback = "its positions depend on the length of the text"
    else:
        try:
            return _Push(lens_model, tokens, readouts, how, begins).matrix()
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            fallback = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return replace(_backward(lens_model, tokens, readouts, how, n_sources), fallback=fallback)


def _begins(edges: Edges, n_sources: int, n: int) -> list[int]:
    """The first token that sees each source by an edge that carries its weight; n where none does."""
    groups, start = edges.groups[0].cpu(), int(edges.starts[0])
    places, found = torch.arange(n), []
    for i in range(n_sources):
        own = groups == i
        first = int(own.int().argmax()) if bool(own.any()) else n
        later = ~own & (places > first) & (places >= start)
        found.append(int(later.int().argmax()) if bool(later.any()) else n)
    return found


def _backward(
    lens_model: LensModel, tokens: PaddedTokens, readouts: Readouts, how: Weighting, n_sources: int
) -> TokenInfluence:
    """One forward pass, and a backward pass for each token."""
    with (
        weighted(lens_model, how),
        unembedding_only(lens_model, readouts.positions),
        fused_activations(lens_model),
    ):
        log_ps = readouts.token_log_probabilities(run(lens_model, tokens.ids, position_ids=tokens.places))[0]
    rows = []
    for t in range(len(log_ps)):
        how.found.clear()
        with torch.enable_grad():
            log_ps[t].backward(retain_graph=t + 1 < len(log_ps))
        by_token = torch.stack([doubled(one).cpu().sum(1) for one in how.found.values()]).sum(0)
        rows.append(by_source(by_token, how.edges.groups.cpu(), n_sources)[0, :-1])
    return TokenInfluence(torch.stack(rows), doubled(log_ps.detach()).cpu(), False, (1.0, float(len(rows))))


class _Push:
    """Forward derivatives through one prompt: its own pass, which is kept, and the pieces that carry tangents."""

    def __init__(
        self,
        lens_model: LensModel,
        tokens: PaddedTokens,
        readouts: Readouts,
        how: Weighting,
        begins: Sequence[int],
    ) -> None:
        self.lens_model, self.tokens, self.readouts, self.how, self.begins = lens_model, tokens, readouts, how, begins
        self.n = tokens.ids.shape[1]
        self.calls: dict[str, AttentionCall] = {}
        head = lens_model.anatomy.head
        assert head is not None
        self.head: nn.Module = head

    def matrix(self) -> TokenInfluence:
        """Push every source's tangent through the text, and read it at the positions that are read."""
        log_ps, directions = self._own_pass()
        order = sorted((i for i, begin in enumerate(self.begins) if begin < self.n), key=self.begins.__getitem__)
        found = torch.zeros(log_ps.shape[-1], len(self.begins), dtype=torch.float64)
        cost = 1.0
        for some in self._groups(order):
            first = self.begins[some[0]]
            tangents = {name: self._room(call, len(some)) for name, call in self.calls.items()}
            changes = []
            for start, end, count in _pieces([self.begins[i] for i in some], self.n):
                changes.append(_Piece(self, start, end, some[:count], tangents).run())
                cost += (1 + _TANGENT * count) * (end - start) / self.n
            rows = torch.cat([nn.functional.pad(one, (0, 0, 0, 0, 0, len(some) - len(one))) for one in changes], 1)
            read = rows[:, (self.readouts.positions[0] - first).to(rows.device)]
            found[:, some] = doubled(torch.einsum("kpd,tpd->tk", read, directions.to(read))).cpu()
        return TokenInfluence(found, doubled(log_ps).cpu(), True, (cost, 0.0))

    def _groups(self, order: list[int]) -> Iterator[list[int]]:
        """Sources whose tangents of keys and values fit beside each other in the room that the weights take."""
        size = sum((call.k.numel() + call.v.numel()) * call.k.element_size() for call in self.calls.values())
        room = sum(one.numel() * one.element_size() for one in self.lens_model.model.parameters())
        step = max(1, room // max(1, size))
        for at in range(0, len(order), step):
            yield order[at : at + step]

    def _room(self, call: AttentionCall, count: int) -> tuple[Tensor, Tensor]:
        return call.k.new_zeros(count, *call.k.shape[1:]), call.v.new_zeros(count, *call.v.shape[1:])

    def _own_pass(self) -> tuple[Tensor, Tensor]:
        """The pass at these weights: every token's log-probability, and its direction at the unembedding's input."""

        def attend(call: AttentionCall) -> Tensor:
            k, v = (x.clone() if x.untyped_storage().nbytes() > x.nbytes else x for x in (call.k, call.v))
            self.calls[call.name] = replace(call, q=call.q[:, :, :0], k=k, v=v)
            return fast(call, bias=None if self.how.plain else self.how.bias)

        hidden: list[Tensor] = []

        def keep(module: nn.Module, args: Any) -> Any:
            hidden.append(take(args[0], self.readouts.positions).detach().requires_grad_())
            return hidden[0], *args[1:]

        with ExitStack() as stack:
            for parameter in self.lens_model.model.parameters():
                if parameter.requires_grad:
                    stack.callback(parameter.requires_grad_, True)
                    parameter.requires_grad_(False)
            stack.callback(self.head.register_forward_pre_hook(keep).remove)
            for one in (attending(self.lens_model, attend), fused_activations(self.lens_model), torch.enable_grad()):
                stack.enter_context(one)
            logits = run(self.lens_model, self.tokens.ids, position_ids=self.tokens.places)
            log_ps = self.readouts.token_log_probabilities(logits)[0]
            # Every prediction depends on its own position alone, so that one pass back gives all of them.
            (gradient,) = torch.autograd.grad(log_ps.sum(), hidden)
        rows = self.readouts.term_rows[0].to(gradient.device)
        places = torch.arange(len(rows), device=gradient.device)
        directions = gradient.new_zeros(len(rows), *gradient.shape[1:])
        directions[places, rows] = gradient[0, rows]
        return log_ps.detach(), directions


@dataclass
class _Piece:
    """A piece of the text, through which the tangents of some sources are pushed.

    `tangents` of keys and values, of every attention module by its name, are known before the piece, and are written in
    it.
    """

    whole: _Push
    start: int
    end: int
    sources: Sequence[int]
    tangents: dict[str, tuple[Tensor, Tensor]]

    def run(self) -> Float[Tensor, "n_sources rows width"]:
        """The tangents of the unembedding's inputs."""
        whole, n_sources = self.whole, len(self.whole.begins)
        ids, places = whole.tokens.ids[:, self.start : self.end], whole.tokens.places[:, self.start : self.end]
        here = next(iter(whole.calls.values())).k
        basis = torch.eye(n_sources, dtype=here.dtype, device=here.device)[list(self.sources)]

        def piece(weights: Tensor) -> Tensor:
            seen: list[Tensor] = []

            def keep(module: nn.Module, args: Any) -> Any:
                seen.append(args[0])
                return args[0][:, :0], *args[1:]

            handle = whole.head.register_forward_pre_hook(keep)

            def attend(call: AttentionCall) -> Tensor:
                about = replace(call, q=call.q[:0], k=call.k[:0], v=call.v[:0])
                return _Attention.apply(call.q, call.k, call.v, weights, _Attending(self, about))

            try:
                with attending(whole.lens_model, attend, places=places), fused_activations(whole.lens_model):
                    run(whole.lens_model, ids, position_ids=places)
            finally:
                handle.remove()
            return seen[0]

        def push(change: Tensor) -> Tensor:
            tangent: Tensor = torch.func.jvp(piece, (torch.zeros_like(basis[0]),), (change,))[1]
            return tangent

        _ready()
        with torch.no_grad():
            found: Tensor = torch.func.vmap(push)(basis)
        return found[:, 0]


class _Attending:
    """Attention of a piece to all that is before it and to itself, and how its output changes.

    With α the attention weights, s the scores and out a head's output, the tangent of a query's output is

        Σ_j α_j (ds_j + dlog w_j) (v_j − out) + Σ_j α_j dv_j,        ds_j = scale · (⟨dq, k_j⟩ + ⟨q, dk_j⟩)
    """

    def __init__(self, piece: _Piece, call: AttentionCall) -> None:
        self.piece, self.call, self.own = piece, call, piece.whole.calls[call.name]

    def output(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The heads' output (1, heads, rows, d_v)."""
        start, keys = self.piece.start, self.own
        self.q = q
        self.k, self.v = (torch.cat([x[:, :, :start], y], 2) for x, y in ((keys.k, k), (keys.v, v)))
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
        groups = piece.whole.how.edges.groups[0, : piece.end].to(self.q.device)
        begins = [piece.whole.begins[i] for i in piece.sources]
        values = nn.functional.pad(wide(self.v[0]), (0, 1), value=1.0)
        outputs = []
        for rows, alpha, carrying, slope in self._blocks():
            q, out = self._folded(self.q[:, :, rows])[0] * scale, self._folded(self.out[:, :, rows])[0]
            own = None if dq is None else self._folded(dq[:, 0, :, rows]) * scale
            key_heads, n_rows, end = alpha.shape
            found = alpha.new_empty(count, key_heads, n_rows, self.v.shape[-1])
            # One source and key head at a time, so that what is formed stays in the fast part of memory.
            change = alpha.new_empty(n_rows, end)
            for i, (source, begin) in enumerate(zip(piece.sources, begins, strict=True)):
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
        piece, q, how = self.piece, self.q, self.piece.whole.how
        heads, n_rows, end = q.shape[1], q.shape[2], self.k.shape[2]
        edges, call = how.edges.to(q.device), replace(self.call, k=wide(self.k))
        step = max(1, MOST_SCORES // (len(piece.sources) * heads * end))
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
def _ready() -> None:
    """Have PyTorch load what forward derivatives need, which warns of a part of its own that is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))


def _pieces(begins: Sequence[int], n: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of a text (start, end) with how many of the sources, sorted by where they begin, have a tangent there."""
    start, at = begins[0], 0
    while start < n:
        end = next((b for b in begins[at:] if b >= start + _LEAST), n)
        # What is left would be too short for a piece.
        end = n if n - end < _LEAST else end
        count = sum(b < end for b in begins)
        yield start, end, count
        start, at = end, count
