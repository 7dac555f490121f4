"""The GPT-2-style transformer of Garg et al.: pre-LayerNorm, tanh GELU, learned positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iclens.models.model import MODELS
from iclens.models.transformer import PromptTransformer


@MODELS.register("gpt2")
class GPT2Prompts(PromptTransformer):
    """GPT-2 without its vocabulary: linear read-in, scalar read-out, interleaved tokens.

    The same numbers as `transformers.GPT2Model` between the same linear maps, with the weights carried over. The
    defaults are the standard model of Garg et al. 2022 (12 layers, 8 heads, width 256).

    Args:
        d: width of the inputs.
        d_y: width of the labels.
        seeds: one for each run.
        n_layers: number of layers.
        n_heads: heads of a layer.
        width: width of the residual stream.
        max_points: longest prompt, the query counted.
        attention: registered name of the attention variant.
        attention_options: its options.

    Raises:
        UserError: sizes that do not fit each other.
    """

    def __init__(
        self,
        d: int,
        d_y: int,
        seeds: Sequence[int],
        *,
        n_layers: int = 12,
        n_heads: int = 8,
        width: int = 256,
        max_points: int = 101,
        attention: str = "softmax",
        attention_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            d,
            d_y,
            seeds,
            n_layers=n_layers,
            n_heads=n_heads,
            width=width,
            ffn_width=4 * width,
            activation="gelu-tanh",
            norm="pre",
            positions="learned",
            max_points=max_points,
            attention=attention,
            attention_options=attention_options,
            init_std=0.02,
        )
