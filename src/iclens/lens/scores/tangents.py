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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.anatomy import is_linear
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
from iclens.lens.read.module_tangents import few_passes
from iclens.lens.read.padded import PaddedTokens, unembedding_only
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
    if forward is None:
        forward, _ = _ways(edges, n_sources, readouts.term_rows.shape[1])
    if not forward:
        return _backward(lens_model, tokens, readouts, how, n_sources)
    begins = _begins(edges, n_sources, tokens.ids.shape[1])
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


def cheaper(lens_model: LensModel, edges: Edges, n_sources: int, n_read: int) -> tuple[bool, float]:
    """Whether forward derivatives cost less than a backward pass for each of `n_read` tokens, and what it costs.

    In forward passes, by an estimate; a text that cannot be cut into pieces takes the second way.
    """
    forward, costs = _ways(edges, n_sources, n_read)
    forward = forward and longest_alike(lens_model) is None
    return forward, costs[0] if forward else costs[1]


def _ways(edges: Edges, n_sources: int, n_read: int) -> tuple[bool, tuple[float, float]]:
    n = edges.groups.shape[1]
    tangents = 1 + _TANGENT * sum(n - begin for begin in _begins(edges, n_sources, n)) / n
    each = 1 + _BACKWARD * n_read
    return tangents < each, (tangents, each)


def influence_on_parts(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    edges: Edges,
    weights: Float[Tensor, "1 n"],
    parts: Sequence[tuple[int, int]],
) -> Float[Tensor, "n_parts n"]:
    """Differentiate the log-probability of some parts of one prompt's response by the weight of every token.

    ∂ Σ_t log p_t / ∂ log w of each token, were its weight its own: one forward pass, and a backward pass for each part.

    Args:
        lens_model: a causal model.
        tokens: the prompt with its response, a batch of one.
        readouts: what is read: its terms name the response's tokens.
        edges: which attention edges carry the weights.
        weights: positive weights of the tokens, 1 for tokens without one.
        parts: the first term of each part, and the one after its last.
    """
    return _pulled(lens_model, tokens, readouts, Weighting(edges, doubled(weights).log()), parts)[0]


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
    n_read = readouts.term_rows.shape[1]
    by_token, log_ps = _pulled(lens_model, tokens, readouts, how, [(t, t + 1) for t in range(n_read)])
    return TokenInfluence(
        by_source(by_token, how.edges.groups[0].cpu(), n_sources)[:, :-1], log_ps, False, (1.0, float(n_read))
    )


def _pulled(
    lens_model: LensModel,
    tokens: PaddedTokens,
    readouts: Readouts,
    how: Weighting,
    parts: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    with (
        weighted(lens_model, how),
        unembedding_only(lens_model, readouts.positions),
        fused_activations(lens_model),
    ):
        log_ps = readouts.token_log_probabilities(run(lens_model, tokens.ids, position_ids=tokens.places))[0]
    rows = []
    for number, (first, last) in enumerate(parts, start=1):
        how.found.clear()
        with torch.enable_grad():
            log_ps[first:last].sum().backward(retain_graph=number < len(parts))
        rows.append(torch.stack([doubled(one).cpu().sum(1)[0] for one in how.found.values()]).sum(0))
    return torch.stack(rows), doubled(log_ps.detach()).cpu()


class _Push:
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
            for start, end, count in _pieces([self.begins[i] for i in some], self.n, whole=hidden is None):
                begins = [self.begins[i] for i in some[:count]]
                piece = Piece(start, end, some[:count], begins, self.how, self.calls, tangents)
                read = positions[(positions >= start) & (positions < end)] - start
                primal, change = self._through(piece, read)
                own.append(primal)
                changes.append(nn.functional.pad(change, (0, 0, 0, 0, 0, len(some) - count)))
                cost += (1 + _TANGENT * count) * (end - start) / self.n
            hidden = torch.cat(own, 0) if hidden is None else hidden
            found.append(torch.cat(changes, 1))
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
        """Push a piece and its tangents through the model: the unembedding's inputs in some of its rows, of both."""
        ids, places = (one[:, piece.start : piece.end] for one in (self.tokens.ids, self.tokens.places))
        here = next(iter(self.calls.values())).k
        basis = torch.eye(len(self.begins), dtype=here.dtype, device=here.device)[list(piece.sources)]

        def hidden(weights: Tensor) -> Tensor:
            seen: list[Tensor] = []

            def keep(module: nn.Module, args: Any) -> Any:
                seen.append(args[0][0, read.to(args[0].device)])
                return args[0][:, :0], *args[1:]

            handle = self.head.register_forward_pre_hook(keep)
            inside = attending(self.lens_model, lambda call: attend(call, weights, piece), places=places)
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
    """What every attention module is asked for in the whole text, with room for its keys and values.

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


def _pieces(begins: Sequence[int], n: int, *, whole: bool) -> Iterator[tuple[int, int, int]]:
    """Pieces of a text (start, end) with how many of the sources, sorted by where they begin, have a tangent there.

    Of the whole text, or from the first source on.
    """
    start, at = begins[0] if begins else n, 0
    if whole and start:
        yield 0, start, 0
    while start < n:
        end = next((b for b in begins[at:] if b >= start + _LEAST), n)
        # What is left would be too short for a piece.
        end = n if n - end < _LEAST else end
        count = sum(b < end for b in begins)
        yield start, end, count
        start, at = end, count
