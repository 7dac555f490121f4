"""How much each token attends to itself, with memory linear in the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.product_blocks import ProductBlocks
from iclens.attention.scaled_dot_product import weights_naive
from iclens.attention.transformed import is_transformed

MOST_SCORES = 2**20
"""Scores, over all heads, that are formed at once."""


def self_weights(q: Tensor, k: Tensor, attending: Attending, *, most_scores: int = MOST_SCORES) -> Tensor:
    """a_jj of every query's own key (the last n_query), (..., n_heads, n_query); 0 where it may not attend to it.

    Under `torch.func`'s transformations it is read off the whole matrix of weights.
    """
    if is_transformed(q, k):
        return weights_naive(q, k, attending).diagonal(attending.first_position, -2, -1)
    scale = attending.scale_for(q.shape[-1])
    own = repeat_heads(attending.own(k), attending.n_heads)
    exponents = (q * own).sum(-1) * scale - _LogSumExp.apply(q, k, attending, most_scores)
    if attending.mask is not None:
        rows = attending.mask.expand(*attending.mask.shape[:-2], attending.n_query, attending.n_key)
        exponents = exponents.masked_fill(~rows.diagonal(attending.first_position, -2, -1), -torch.inf)
    return exponents.exp()


class _LogSumExp(torch.autograd.Function):
    """log Σ_i exp(s q_tᵀk_i), a block of queries at a time; the backward pass forms the blocks again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, attending: Attending, most_scores: int) -> Tensor:
        masked = () if attending.mask is None else attending.mask.shape[:-2]
        leading = torch.broadcast_shapes(q.shape[:-2], (*k.shape[:-3], attending.n_heads), masked)
        # Filled block by block: what stays between two blocks would keep their place from being used again.
        result = q.new_empty(*leading, attending.n_query)
        for rows, scores in _score_blocks(q, repeat_heads(k, attending.n_heads), attending, most_scores):
            result[..., rows] = scores.logsumexp(-1).clamp_min(torch.finfo(scores.dtype).min / 2)
        ctx.attending, ctx.most_scores = attending, most_scores
        ctx.save_for_backward(q, k, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, k, result = ctx.saved_tensors
        attending: Attending = ctx.attending
        keys = repeat_heads(k, attending.n_heads)
        scale = attending.scale_for(q.shape[-1])
        grad_q = q.new_empty(*result.shape, q.shape[-1])
        grad_k = k.new_zeros(*result.shape[:-1], attending.n_key, k.shape[-1])
        for rows, scores in _score_blocks(q, keys, attending, ctx.most_scores):
            n = scores.shape[-1]
            weights = scores.sub_(result[..., rows, None]).exp_().mul_(gradient[..., rows, None] * scale)
            grad_q[..., rows, :] = weights @ keys[..., :n, :]
            grad_k[..., :n, :] += weights.mT @ q[..., rows, :]
        grouped = grad_k.unflatten(-3, (k.shape[-3], -1)).sum(-3)
        return grad_q.sum_to_size(q.shape), grouped.sum_to_size(k.shape), None, None


def _score_blocks(q: Tensor, keys: Tensor, attending: Attending, most_scores: int) -> Iterator[tuple[slice, Tensor]]:
    products = ProductBlocks(q, keys)
    step = min(256, max(16, most_scores // max(1, products.n_batch * attending.n_key)))
    for start in range(0, attending.n_query, step):
        stop = min(start + step, attending.n_query)
        n = stop + attending.first_position if attending.is_causal else attending.n_key
        scores = products(start, stop, n).mul_(attending.scale_for(q.shape[-1]))
        mask = attending.rows(start, stop, n, q.device)
        yield slice(start, stop), scores if mask is None else scores.masked_fill(~mask, -torch.inf)
