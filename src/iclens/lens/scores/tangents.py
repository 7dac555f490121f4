"""How every token of a response depends on every source: the derivatives of its log-probability, at one weight vector.

    matrix[t, i] = ∂ log p_t / ∂ log w_i

One backward pass gives these for one number, so that T tokens would cost T of them. Forward derivatives go the other
way: a tangent for each of S sources is pushed through the model along with its own numbers, and at the end each one is
contracted with the T directions that matter there, so that no logit of a tangent is formed. Since a tangent is zero
before its source (`pushing`), that is about half as many passes as there are sources.

Whichever costs less is taken: forward derivatives, or a backward pass for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.lens.model.loading import LensModel
from iclens.lens.model.placed import doubled
from iclens.lens.model.rotary import longest_alike
from iclens.lens.prompt.tokens import by_source
from iclens.lens.read.capture import run
from iclens.lens.read.fused import fused_activations
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import PaddedTokens, unembedding_only
from iclens.lens.read.weighted import Edges, Weighting, weighted
from iclens.lens.scores.pushing import TANGENT, Push, TokenInfluence

_BACKWARD = 2.5
"""What a backward pass costs, in forward passes."""


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
            return Push(lens_model, tokens, readouts, how, begins).matrix()
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            fallback = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return replace(_backward(lens_model, tokens, readouts, how, n_sources), fallback=fallback)


def cheaper(lens_model: LensModel, edges: Edges, n_sources: int, n_read: int) -> tuple[bool, float]:
    """Return whether forward derivatives cost less than a backward pass for each of `n_read` tokens, and what it costs.

    In forward passes, by an estimate; a text that cannot be cut into pieces takes the second way.
    """
    forward, costs = _ways(edges, n_sources, n_read)
    forward = forward and longest_alike(lens_model) is None
    return forward, costs[0] if forward else costs[1]


def _ways(edges: Edges, n_sources: int, n_read: int) -> tuple[bool, tuple[float, float]]:
    n = edges.groups.shape[1]
    tangents = 1 + TANGENT * sum(n - begin for begin in _begins(edges, n_sources, n)) / n
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
    """Return the first token that sees each source by an edge that carries its weight; n where none does."""
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
