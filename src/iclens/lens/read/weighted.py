"""Attention whose training examples have weights, and the gradient of whatever is read with respect to them.

A weight w_g on the tokens of group g adds log w_g to the scores on the edges into them, after a soft cap: the head is
the dual model whose loss counts these examples w_g times. For a read-out M and one edge from token t to token j,

    ∂M/∂s_tj = α_tj ⟨v_j − out_t, ∂M/∂out_t⟩

with s the scores, α the attention weights and out the head's output. Summed over the edges that carry a weight it is
∂M/∂log w_g: nothing but the backward pass of attention is needed, whose weights are formed again in blocks of rows. No
score bias takes a gradient, and no n × n tensor is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import Function

from iclens.lens.model.loading import LensModel
from iclens.lens.model.session import AttentionCall, Seen, attending
from iclens.lens.read.attend import MOST_SCORES, blocks, fast, scores_of, weigh
from iclens.lens.read.padded import OfPrompts

NEVER = -1e30
"""The logarithm of a weight of zero: finite, so that differences of scores stay numbers."""

_ROWS = 128
"""Queries of a block of the backward pass: small enough that a causal layer skips most keys that they do not see."""


@dataclass(frozen=True)
class Edges(OfPrompts):
    """Which attention edges carry the training weights of the tokens that they lead to.

    Attributes:
        groups: every token's group, −1 for tokens without a weight, such as the first position of a text.
        starts: the first token of each row that may look by weighted edges: 0 for all later tokens, or the query's
            start for its tokens alone.
    """

    groups: Int[Tensor, "batch n"]
    starts: Int[Tensor, " batch"]

    def rows(self, some: slice) -> Bool[Tensor, "batch 1 rows n"]:
        """Which edges of some query rows carry a weight: into a group, from outside of it."""
        groups, n = self.groups, self.groups.shape[1]
        places = torch.arange(n, device=groups.device)[some]
        inside = groups[:, some, None] == groups[:, None]
        return ((groups >= 0)[:, None] & ~inside & (places >= self.starts[:, None])[..., None])[:, None]

    def to(self, device: torch.device) -> Edges:
        """Return the same on another device."""
        return self if self.groups.device == device else Edges(self.groups.to(device), self.starts.to(device))


@dataclass
class Weighting:
    """Training weights inside a pass, and what its backward pass finds.

    Attributes:
        edges: the edges that carry them.
        log_weights: log w of every token, 0 for tokens without a weight.
        found: an attention module's name -> ∂M/∂log w of each token through each head, after the backward pass.
        off: the name -> how far the weights that the backward pass forms again are from the forward pass, by prompt.
    """

    edges: Edges
    log_weights: Float[Tensor, "batch n"]
    found: dict[str, Float[Tensor, "batch heads n"]] = field(default_factory=dict)
    off: dict[str, Float[Tensor, " batch"]] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether all weights are 1."""
        return not bool(self.log_weights.any())

    def bias(self, some: slice, like: Tensor) -> Tensor:
        """Return what is added to the scores of some query rows, (batch, 1, rows, n)."""
        return self.on(self.edges.to(like.device).rows(some), like)

    def on(self, edges: Bool[Tensor, "batch 1 rows n"], like: Tensor) -> Tensor:
        """Return the logarithms of the weights on the edges that carry them, 0 elsewhere."""
        return self.log_weights.to(like)[:, None, None].masked_fill(~edges, 0.0)


@contextmanager
def weighted(
    lens_model: LensModel,
    weighting: Weighting,
    *,
    grad: bool = True,
    rows: int = _ROWS,
    seeing: Callable[[Seen], Seen] = lambda seen: seen,
    places: Int[Tensor, "_ n"] | None = None,
) -> Iterator[None]:
    """Run a causal model's attention with training weights inside the block.

    With `grad`, a backward pass fills `found`. Parameters take no gradients meanwhile; everything is put back
    afterwards. `seeing` says what tokens see in place of a layer's own mask, and `places` where they stand, for texts
    that run as a tree.
    """
    parameters = [one for one in lens_model.model.parameters() if one.requires_grad]
    # Gradients begin at the first layer's attention: what lies before it does not depend on the weights.
    anchor = torch.zeros((), requires_grad=grad)

    def attend(call: AttentionCall) -> Tensor:
        call = replace(call, seen=seeing(call.seen))
        if not grad:
            return _outputs(call, weighting)
        return _Weighted.apply(call.q, call.k, call.v, anchor, call, weighting, rows)

    try:
        for one in parameters:
            one.requires_grad_(False)
        with attending(lens_model, attend, places=places), torch.set_grad_enabled(grad):
            yield
    finally:
        for one in parameters:
            one.requires_grad_(True)


def _outputs(call: AttentionCall, weighting: Weighting) -> Tensor:
    return fast(call, bias=None if weighting.plain else weighting.bias)


class _Weighted(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, anchor: Tensor, call: AttentionCall, how: Weighting, rows: int
    ) -> Tensor:
        out = _outputs(replace(call, q=q.detach(), k=k.detach(), v=v.detach()), how)
        # The output itself is formed again; a projection of it and its size are enough to tell whether it is the same.
        ctx.save_for_backward(q, k, v, out @ _probe(out), out.norm(dim=-1))
        ctx.call, ctx.how, ctx.rows = replace(call, q=q[:0], k=k[:0], v=v[:0]), how, rows
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, projection, size = ctx.saved_tensors
        call, name = replace(ctx.call, q=q, k=k, v=v), ctx.call.name
        wanted = any(ctx.needs_input_grad[:3])
        found = pull(call, projection, gradients[0], ctx.how, rows=ctx.rows, wanted=wanted)
        *pulled, ctx.how.found[name], off = found
        ctx.how.off[name] = off / size.flatten(1).amax(1).clamp_min(torch.finfo(size.dtype).tiny)
        return (*pulled, None, None, None, None)


def _probe(out: Tensor) -> Tensor:
    """Return a direction of length one in which outputs are compared."""
    probe = torch.arange(1, out.shape[-1] + 1, dtype=torch.float32, device=out.device).sqrt().cos()
    return (probe / probe.norm()).to(out)


def pull(
    call: AttentionCall,
    projection: Tensor,
    gradient: Tensor,
    how: Weighting,
    *,
    rows: int = _ROWS,
    most_scores: int = MOST_SCORES,
    wanted: bool = True,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Pull the gradient of the heads' output back to queries, keys and values, and to the logarithms of the weights.

    Args:
        call: the attention.
        projection: of its output onto `_probe`, (batch, query heads, n_query).
        gradient: of what is read with respect to its output (batch, query heads, n_query, d_v).
        how: the weights.
        rows: queries whose scores are formed at once, at most.
        most_scores: scores that are formed at once, at most.
        wanted: whether queries, keys and values need their gradients: those of the first layer do not.

    Returns:
        The gradients of q, k and v, None when they are not wanted; ∂M/∂log w (batch, query heads, n_key) of each token,
        were its weight its own; and how far the output that is formed again is from the projection, (batch).
    """
    batch, key_heads, n_key, width = call.k.shape
    heads = call.q.shape[1]
    grad_q, grad_k, grad_v = (torch.zeros_like(one) if wanted else None for one in (call.q, call.k, call.v))
    found, off = gradient.new_zeros(batch, heads, n_key), gradient.new_zeros(batch)
    edges, plain = how.edges.to(call.q.device), how.plain
    probed = call.v @ _probe(call.v)
    for some, keys, mask in blocks(call, most_scores, rows):
        k, v = call.k[:, :, keys], call.v[:, :, keys]
        carrying = edges.rows(some)
        bias = None if plain else how.on(carrying, call.q)[..., keys]
        q, g = call.q[:, :, some], gradient[:, :, some]
        n_rows = q.shape[2]
        scores = scores_of(replace(call, k=k), q)
        alpha = weigh(scores, mask[..., keys], call.softcap, call.sinks, bias)

        def folded(x: Tensor, count: int = n_rows) -> Tensor:
            return x.reshape(batch, key_heads, call.groups * count, x.shape[-1])

        again = (folded(alpha) @ probed[:, :, keys, None]).reshape(batch, heads, n_rows)
        off = torch.maximum(off, (again - projection[:, :, some]).abs().flatten(1).amax(1))
        # Less ⟨out_t, gradient_t⟩: what the softmax's normaliser gives back. What a learned sink takes has no value.
        change = (folded(g) @ v.transpose(-1, -2)).reshape(alpha.shape).mul_(alpha)
        change = change.sub_(alpha * change.sum(-1, keepdim=True))
        found[:, :, keys] += torch.where(carrying[..., keys], change, 0).sum(2)
        if grad_q is None or grad_k is None or grad_v is None:
            continue
        grad_v[:, :, keys] += folded(alpha).transpose(-1, -2) @ folded(g)
        if call.softcap is not None:
            change = change * (1 - (scores / call.softcap).tanh().square())
        change = folded(change) * call.scale
        grad_q[:, :, some] = (change @ k).reshape(batch, heads, n_rows, width)
        grad_k[:, :, keys] += change.transpose(-1, -2) @ folded(q)
    return grad_q, grad_k, grad_v, found, off
