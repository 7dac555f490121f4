"""One-layer models of the theory papers: the tokens themselves are the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from iclens.models.model import MODELS
from iclens.models.transformer import PromptTransformer


class BareAttention(PromptTransformer):
    """Layers of attention on joint tokens (x, y) without embeddings, LayerNorm, feed-forward network or biases.

    e_j ← e_j + Σ_h P_h Σ_i a_h(e_j, e_i) W_{V,h} e_i; the answer is the label's part of the query's token (x, 0).

    Attributes:
        variant: registered name of the attention variant.
    """

    variant: ClassVar[str]

    def __init__(
        self,
        d: int,
        d_y: int,
        seeds: Sequence[int],
        *,
        n_layers: int = 1,
        n_heads: int = 1,
        query_in_keys: bool = False,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(
            d,
            d_y,
            seeds,
            n_layers=n_layers,
            n_heads=n_heads,
            width=d + d_y,
            head_width=d + d_y,
            norm="none",
            tokens="joint",
            attention=self.variant,
            embed=False,
            query_in_keys=query_in_keys,
            bias=False,
            init_std=init_std,
        )


@MODELS.register("linear-attention")
class LinearSelfAttention(BareAttention):
    """Linear self-attention, a_h(e_j, e_i) = s ⟨W_Q e_j, W_K e_i⟩ with s = 1, not normalised.

    Its weights can be set to one step of gradient descent (`iclens.models.gradient_step`); trained on
    linear regression, one layer finds it.

    Source: von Oswald et al. 2023; Ahn et al. 2023.

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        seeds: one for each run.
        n_layers: number of layers.
        n_heads: number of heads, each as wide as a token.
        query_in_keys: whether tokens may attend to the query's.
        init_std: standard deviation of the initial weights.
    """

    variant = "linear"


@MODELS.register("softmax-heads")
class SoftmaxHeads(BareAttention):
    """One layer of softmax heads on the bare tokens.

    Two heads with opposite signs tend to a debiased step of gradient descent
    (`iclens.models.debiased_gradient_step`).

    Source: He et al. 2025.

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        seeds: one for each run.
        n_heads: number of heads, each as wide as a token.
        query_in_keys: whether tokens may attend to the query's.
        init_std: standard deviation of the initial weights.
    """

    variant = "softmax"

    def __init__(
        self,
        d: int,
        d_y: int,
        seeds: Sequence[int],
        *,
        n_heads: int = 2,
        query_in_keys: bool = False,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(d, d_y, seeds, n_heads=n_heads, query_in_keys=query_in_keys, init_std=init_std)
