"""A standard transformer encoder on the prompts of the dictionary task: Yang et al. 2024's 4-layer model.

The paper states the encoder (Vaswani et al. 2017; 4 layers, width 256, feed-forward width 512). It does not state how
tokens and labels enter, nor how answers are read off; both are our choice here: token k enters as a linear map of
(v_k, y_k, 1) where its label is shown and of (v_k, 0, 0) where not, without positions; keys are the prompt's tokens, as
in the one-layer model; the answer is a linear map of the last layer at token k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from iclens.errors import UserError
from iclens.models.runs import Draws, RunsLayerNorm, RunsLinear
from iclens.papers.yang_2024.task import Dictionary


class DeepDictionaryModel(nn.Module):
    """Layers of softmax attention and a two-layer network, each with a residual and a norm after it.

    Args:
        dictionary: one for all runs, or one for each.
        seeds: one for each run.
        n_layers: number of layers.
        n_heads: heads of each layer; they share the width.
        width: of the residual stream.
        inner_width: of the feed-forward network.

    Raises:
        UserError: heads that do not divide the width, no layer, or numbers of dictionaries and seeds that differ.
    """

    tokens: Tensor

    def __init__(
        self,
        dictionary: Dictionary,
        seeds: Sequence[int],
        *,
        n_layers: int = 4,
        n_heads: int = 8,
        width: int = 256,
        inner_width: int = 512,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise UserError(f"n_layers={n_layers} must be at least 1.")
        if n_heads < 1 or width % n_heads:
            raise UserError(f"n_heads={n_heads} must divide the width {width}.")
        tokens = dictionary.tokens if dictionary.tokens.ndim == 3 else dictionary.tokens.expand(len(seeds), -1, -1)
        if len(seeds) != tokens.shape[0] or not seeds:
            raise UserError(f"{tokens.shape[0]} dictionaries do not fit {len(seeds)} seeds.")
        draws = Draws(seeds)
        self.n_prompt, self.n_runs = dictionary.n_prompt, len(seeds)
        self.register_buffer("tokens", tokens.to(torch.get_default_dtype()), persistent=False)
        self.embed = RunsLinear(draws, dictionary.d + 2, width)
        self.layers = nn.ModuleList([_Layer(draws, n_heads, width, inner_width) for _ in range(n_layers)])
        self.read_out = RunsLinear(draws, width, 1)

    def answers(self, labels: Float[Tensor, "runs batch n_prompt"]) -> Float[Tensor, "runs batch n_tokens"]:
        """ŷ of all tokens from the labels of the first ones."""
        n_tokens = self.tokens.shape[1]
        shown = torch.zeros(n_tokens, dtype=labels.dtype, device=labels.device)
        shown[: self.n_prompt] = 1
        alone = self.embed(
            torch.cat(
                [self.tokens, torch.zeros_like(self.tokens[..., :1]), shown[None, :, None].expand(self.n_runs, -1, 1)],
                -1,
            )
        )
        # The embedding is linear: a label adds its multiple of one row, and tokens are embedded once for all prompts.
        by_label = self.embed.weight[:, None, -2:-1]
        x = alone[:, None].expand(-1, labels.shape[1], -1, -1)
        x = torch.cat([x[:, :, : self.n_prompt] + labels[..., None] * by_label, x[:, :, self.n_prompt :]], dim=2)
        for layer in self.layers:
            x = layer(x, self.n_prompt)
        return self.read_out(x)[..., 0]


class _Layer(nn.Module):
    def __init__(self, draws: Draws, n_heads: int, width: int, inner_width: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.o = (RunsLinear(draws, width, width) for _ in range(4))
        self.up, self.down = RunsLinear(draws, width, inner_width), RunsLinear(draws, inner_width, width)
        self.after_attention, self.after_network = RunsLayerNorm(draws, width), RunsLayerNorm(draws, width)

    def forward(self, x: Tensor, n_prompt: int) -> Tensor:
        keys = x[:, :, :n_prompt]
        q, k, v = (self._split(part) for part in (self.q(x), self.k(keys), self.v(keys)))
        read = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = self.after_attention(x + self.o(read))
        return self.after_network(x + self.down(relu(self.up(x))))

    def _split(self, x: Tensor) -> Tensor:
        """(runs, batch, n, width) to (runs · batch, heads, n, width of a head)."""
        return x.flatten(0, 1).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
