"""Forward derivatives of a response's tokens by every source, pushed through a text a piece at a time.

A source's tangent is zero before the first token that sees it by a weighted edge: texts run in pieces, each with the
tangents of the sources before it alone, and keys and values of earlier pieces are kept. A piece of which nothing is
read ends where its last keys and values are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.anatomy import is_linear
from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.read.attend import fast
from iclens.lens.read.attention_tangents import Piece, attend, ready
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.margin import Readouts
from iclens.lens.read.module_tangents import few_passes
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.read.weighted import Weighting

_LEAST = 48
"""Tokens of a piece, at least: a shorter one costs more by itself than it saves."""

TANGENT = 1.25
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


class _KeysKnown(Exception):
    """Every layer's keys and values of a piece are known, and nothing else of it is wanted."""


class Push:
    """Forward derivatives through one prompt, a piece of it at a time."""

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
        self.calls = _outline(self.lens_model, self.tokens)
        order = sorted((i for i, begin in enumerate(self.begins) if begin < self.n), key=self.begins.__getitem__)
        positions, found = self.readouts.positions[0].cpu(), []
        hidden, cost = None, 0.0
        # What comes before the first source is read once; what the others of a group come after is known by then.
        for some in self._groups(order):
            tangents = {name: self._room(call, len(some)) for name, call in self.calls.items()}
            own, changes = [], []
            begins = [self.begins[i] for i in some]
            for start, end, count in _pieces(begins, self.n, int(positions.min()), whole=hidden is None):
                piece = Piece(start, end, some[:count], begins[:count], self.how, self.calls, tangents)
                read = positions[(positions >= start) & (positions < end)] - start
                cost += (1 + TANGENT * count) * (end - start) / self.n
                try:
                    primal, change = self._through(piece, read)
                except _KeysKnown:
                    continue
                own.append(primal)
                changes.append(nn.functional.pad(change, (0, 0, 0, 0, 0, len(some) - count)))
            hidden = torch.cat(own, 0) if hidden is None else hidden
            found.append(torch.cat(changes, 1) if changes else hidden.new_zeros(len(some), 0, hidden.shape[-1]))
        assert hidden is not None
        log_ps, directions = self._read(hidden)
        rows = self.readouts.term_rows[0].cpu()
        matrix = torch.zeros(len(rows), len(self.begins), dtype=torch.float64)
        for some, change in zip(self._groups(order), found, strict=True):
            # A later group begins after some of the positions that are read.
            change = nn.functional.pad(change, (0, 0, len(positions) - change.shape[1], 0))
            along = torch.einsum("kpd,pd->pk", change, directions.to(change))
            matrix[:, some] = doubled(along).cpu()[rows]
        return TokenInfluence(matrix, doubled(log_ps).cpu(), True, (cost, 0.0))

    def _groups(self, order: list[int]) -> Iterator[list[int]]:
        """Sources whose tangents of keys and values fit beside each other in the room that the weights take."""
        size = sum((call.k.numel() + call.v.numel()) * call.k.element_size() for call in self.calls.values())
        room = sum(one.numel() * one.element_size() for one in self.lens_model.model.parameters())
        step = max(1, room // max(1, size))
        # Without any source the text is still read.
        for at in range(0, max(1, len(order)), step):
            yield order[at : at + step]

    def _room(self, call: AttentionCall, count: int) -> tuple[Tensor, Tensor]:
        return call.k.new_zeros(count, *call.k.shape[1:]), call.v.new_zeros(count, *call.v.shape[1:])

    def _through(self, piece: Piece, read: Tensor) -> tuple[Tensor, Tensor]:
        """Push a piece and its tangents through the model: the unembedding's inputs in some of its rows, of both.

        Raises:
            _KeysKnown: no row is read; the pass ends where the last keys and values are known.
        """
        ids, places = (one[:, piece.start : piece.end] for one in (self.tokens.ids, self.tokens.places))
        here, last = next(iter(self.calls.values())).k, next(reversed(self.calls))
        basis = torch.eye(len(self.begins), dtype=here.dtype, device=here.device)[list(piece.sources)]

        def hidden(weights: Tensor) -> Tensor:
            seen: list[Tensor] = []

            def keep(module: nn.Module, args: Any) -> Any:
                seen.append(args[0][0, read.to(args[0].device)])
                return args[0][:, :0], *args[1:]

            def known(call: AttentionCall) -> Tensor:
                output = attend(call, weights, piece)
                if call.name == last and not len(read):
                    raise _KeysKnown
                return output

            handle = self.head.register_forward_pre_hook(keep)
            inside = attending(self.lens_model, known, places=places)
            try:
                with inside, few_passes(self.lens_model), fused_activations(self.lens_model):
                    run(self.lens_model, ids, position_ids=places)
            finally:
                handle.remove()
            return seen[0]

        nothing = torch.zeros(len(self.begins), dtype=here.dtype, device=here.device)

        def push(change: Tensor) -> tuple[Tensor, Tensor]:
            pushed = torch.func.jvp(hidden, (nothing,), (change,))
            return pushed[0], pushed[1]

        with torch.no_grad():
            if not len(basis):
                own = hidden(nothing)
                return own, own.new_zeros(0, *own.shape)
            ready()
            # The text itself has no axis of tangents.
            own, found = torch.func.vmap(push, out_dims=(None, 0))(basis)  # type: ignore[arg-type]
        return own, found

    def _read(self, hidden: Float[Tensor, "n_positions width"]) -> tuple[Tensor, Tensor]:
        """Every token's log-probability, and its direction at the unembedding's input."""
        given = hidden[None].requires_grad_()
        handle = self.head.register_forward_pre_hook(lambda module, args: (given, *args[1:]))
        try:
            # One token is run for what a model does to its logits.
            with attending(self.lens_model, fast), torch.enable_grad():
                logits = run(self.lens_model, self.tokens.ids[:, :1], position_ids=self.tokens.places[:, :1])
                log_ps = self.readouts.token_log_probabilities(logits)[0]
            # Every prediction depends on its own position alone, so that one pass back gives all of them.
            (directions,) = torch.autograd.grad(log_ps.sum(), given)
        finally:
            handle.remove()
        return log_ps.detach(), directions[0]


def _outline(lens_model: LensModel, tokens: PaddedTokens) -> dict[str, AttentionCall]:
    """Return what every attention module is asked for in the whole text, with room for its keys and values.

    A pass whose linear maps give zeros: which tokens a layer sees does not depend on numbers, and they cost nothing.
    """
    calls: dict[str, AttentionCall] = {}

    def note(call: AttentionCall) -> Tensor:
        k, v = (x.new_zeros(x.shape) for x in (call.k, call.v))
        calls[call.name] = replace(call, q=call.q[:, :, :0], k=k, v=v)
        return call.q.new_zeros(*call.q.shape[:-1], v.shape[-1])

    anatomy = lens_model.anatomy
    linear = [one for layer in anatomy.layers for one in layer.module.modules() if is_linear(one)]
    chosen = [one for one in linear if "forward" not in vars(one)]
    with unembedding_only(lens_model, tokens.places[:, :0]), attending(lens_model, note), torch.no_grad():
        try:
            for module in chosen:
                width = module.out_features if isinstance(module, nn.Linear) else module.nf
                module.forward = partial(_nothing, width)
            run(lens_model, tokens.ids, position_ids=tokens.places)
        finally:
            for module in chosen:
                vars(module).pop("forward", None)
    return calls


def _nothing(width: Any, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], width)


def _pieces(begins: Sequence[int], n: int, read_from: int, *, whole: bool) -> Iterator[tuple[int, int, int]]:
    """Pieces of a text (start, end) with how many of the sources, sorted by where they begin, have a tangent there.

    Of the whole text, or from the first source on. A piece ends where a source begins or where reading does.
    """
    start, cuts = begins[0] if begins else n, sorted((*begins, read_from))
    if whole and start:
        yield 0, start, 0
    while start < n:
        end = next((cut for cut in cuts if cut >= start + _LEAST), n)
        # What is left would be too short for a piece.
        end = n if n - end < _LEAST else end
        yield start, end, sum(begin < end for begin in begins)
        start = end
