"""Yang et al. 2024's loss and its gradient by hand: one attention for all prompts, second moments for the labels.

With M = E[y_{1:N} y_{1:N}ᵀ] and C = E[y_{1:N} yᵀ], over a batch or over the population,

    L = 1/(2K) Σ_k E(ŷ_k − y_k)² = 1/(2K) (⟨Â, M Â⟩ − 2 ⟨Â, C⟩ + E‖y‖²),        G = ∂L/∂Â = (M Â − C)/K.

With P_{n,h,k} the attention, Â = Σ_h w_{h,k} P_{·,h,k} and S the scores, the chain rule is short:

    ∂L/∂w_{h,k} = Σ_n G_{n,k} P_{n,h,k},        ∂L/∂S_{n,h,k} = w_{h,k} P_{n,h,k} (G_{n,k} − ∂L/∂w_{h,k}).

What remains are four matrix products, counted by `floor_operations`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.models.products import fast_products
from iclens.papers.yang_2024.closed_forms import optimum, shown_moment
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.task import Dictionary

MOST_SCORES = 2**20
"""Attention entries of the runs handled at once: beyond, they leave the cache and a step is slower."""


@dataclass(frozen=True)
class Moments:
    """Second moments of labels, over a batch or the population.

    Attributes:
        shown: M = E[y_{1:N} y_{1:N}ᵀ].
        cross: C = E[y_{1:N} yᵀ].
        total: E‖y‖².
    """

    shown: Float[Tensor, "runs n_prompt n_prompt"]
    cross: Float[Tensor, "runs n_prompt n_tokens"]
    total: Float[Tensor, " runs"]

    @staticmethod
    def of_batch(labels: Float[Tensor, "runs batch n_tokens"], n_prompt: int) -> Moments:
        """Means over the prompts of a batch."""
        cross = labels[..., :n_prompt].mT @ labels / labels.shape[-2]
        total = labels.square().sum((-2, -1)) / labels.shape[-2]
        return Moments(cross[..., :n_prompt], cross, total)

    @staticmethod
    def of_population(dictionary: Dictionary) -> Moments:
        """Expectations over λ ~ N(0, I) and the noise: M = Z̄², C = Z̄² A."""
        shown = shown_moment(dictionary)
        total = dictionary.second_moment().diagonal(dim1=-2, dim2=-1).sum(-1)
        return Moments(shown, shown @ optimum(dictionary), total)

    def to(self, like: Tensor) -> Moments:
        """In the dtype and on the device of `like`."""
        return Moments(self.shown.to(like), self.cross.to(like), self.total.to(like))

    def loss(self, a_hat: Float[Tensor, "runs n_prompt n_tokens"]) -> Float[Tensor, " runs"]:
        """L."""
        quadratic = (a_hat * (self.shown @ a_hat - 2 * self.cross)).sum((-2, -1))
        return (quadratic + self.total) / (2 * a_hat.shape[-1])

    def slope(self, a_hat: Float[Tensor, "runs n_prompt n_tokens"]) -> Float[Tensor, "runs n_prompt n_tokens"]:
        """G = ∂L/∂Â."""
        return (self.shown @ a_hat - self.cross) / a_hat.shape[-1]


class Gradient:
    """Gradients of a model's L, written into buffers that every step reuses.

    Args:
        model: whose parameters are read.
        n_prompt: N.
        most_scores: scores held at once; runs beyond them take their turn.

    Attributes:
        w: ∂L/∂w of the last call, shaped as `model.w`.
        Q: ∂L/∂Q, shaped as `model.Q`.
    """

    def __init__(self, model: DictionaryModel, n_prompt: int, most_scores: int = MOST_SCORES) -> None:
        self.model, self.n_prompt = model, n_prompt
        self.w, self.Q = torch.zeros_like(model.w.detach()), torch.zeros_like(model.Q.detach())
        size = n_prompt * model.n_heads * model.n_tokens
        self.chunk = max(1, min(model.n_runs, most_scores // size))
        like = model.Q.detach()
        self._scores = like.new_empty(self.chunk, n_prompt * model.n_heads, model.n_tokens)
        self._work = torch.empty_like(self._scores)
        self._keys = like.new_empty(self.chunk, n_prompt, model.n_heads * model.d)
        self._slopes = torch.empty_like(self._keys)

    @torch.no_grad()
    def __call__(self, moments: Moments) -> Float[Tensor, "runs n_prompt n_tokens"]:
        """Fill `w` and `Q`; returns Â."""
        runs = self.model.n_runs
        with fast_products(self._scores):
            parts = [self._part(moments, start, min(start + self.chunk, runs)) for start in range(0, runs, self.chunk)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, moments: Moments, start: int, stop: int) -> Tensor:
        model, n, size = self.model, self.n_prompt, stop - start
        tokens, w = model.tokens[start:stop], model.w[start:stop].detach() * model.head_mask[start:stop]
        shown = tokens[:, :n]
        keys, slopes = self._keys[:size], self._slopes[:size]
        flat_scores, flat_work = self._scores[:size], self._work[:size]
        inner = (size, n, model.n_heads, model.n_tokens)
        scores, work = flat_scores.view(inner), flat_work.view(inner)
        rows = (size, n * model.n_heads, model.d)

        torch.bmm(shown, model.Q[start:stop].detach().flatten(2), out=keys)
        torch.bmm(keys.view(rows), tokens.mT, out=flat_scores)
        attention = torch.softmax(scores, 1, out=scores)
        a_hat = torch.mul(attention, w[:, None], out=work).sum(2)

        part = Moments(moments.shown[start:stop], moments.cross[start:stop], moments.total[start:stop])
        slope = part.slope(a_hat)[:, :, None]
        w_slope = torch.sum(torch.mul(attention, slope, out=work), 1, out=self.w[start:stop])
        torch.sub(slope, w_slope[:, None], out=work).mul_(attention).mul_(w[:, None])
        torch.bmm(flat_work, tokens, out=slopes.view(rows))
        torch.bmm(shown.mT, slopes, out=self.Q[start:stop].flatten(2))
        w_slope.mul_(model.head_mask[start:stop])
        return a_hat


def floor_operations(n_prompt: int, n_tokens: int, d: int, n_heads: int) -> int:
    """Multiplications and additions that the matrix products of one step and run need: 4 N H d (d + K).

    Forward Vᵀ Q_h (2 N H d²) and its product with all tokens (2 N H d K); backward the same again, transposed. The
    other order, Q_h v_k first, needs 2 H K d² + 2 N H d K each way, which is more as N < K. Left out are a handful of
    operations on each of the N H K entries of attention, and Adam's on H d² + H K parameters.
    """
    return 4 * n_prompt * n_heads * d * (d + n_tokens)
