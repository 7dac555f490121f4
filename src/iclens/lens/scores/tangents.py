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

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.model.session import AttentionCall, attending
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.attend import fast
from iclens.lens.read.attention_tangents import Piece, attend, ready
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
                begins = [self.begins[i] for i in some[:count]]
                piece = Piece(start, end, some[:count], begins, self.how, self.calls, tangents)
                changes.append(self._through(piece))
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

        def read(call: AttentionCall) -> Tensor:
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
            for one in (attending(self.lens_model, read), fused_activations(self.lens_model), torch.enable_grad()):
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

    def _through(self, piece: Piece) -> Float[Tensor, "n_sources rows width"]:
        """Push the tangents of a piece through the model: those of the unembedding's inputs."""
        ids, places = (one[:, piece.start : piece.end] for one in (self.tokens.ids, self.tokens.places))
        here = next(iter(self.calls.values())).k
        basis = torch.eye(len(self.begins), dtype=here.dtype, device=here.device)[list(piece.sources)]

        def hidden(weights: Tensor) -> Tensor:
            seen: list[Tensor] = []

            def keep(module: nn.Module, args: Any) -> Any:
                seen.append(args[0])
                return args[0][:, :0], *args[1:]

            handle = self.head.register_forward_pre_hook(keep)
            inside = attending(self.lens_model, lambda call: attend(call, weights, piece), places=places)
            try:
                with inside, fused_activations(self.lens_model):
                    run(self.lens_model, ids, position_ids=places)
            finally:
                handle.remove()
            return seen[0]

        def push(change: Tensor) -> Tensor:
            tangent: Tensor = torch.func.jvp(hidden, (torch.zeros_like(basis[0]),), (change,))[1]
            return tangent

        ready()
        with torch.no_grad():
            found: Tensor = torch.func.vmap(push)(basis)
        return found[:, 0]


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
