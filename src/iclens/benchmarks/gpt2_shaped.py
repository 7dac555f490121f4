"""A language model of the shape of GPT-2 small with random weights, and a prompt of as many demonstrations as wanted.

Cost does not depend on what the weights have learned, and nothing has to be downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iclens.benchmarks.few_shot import word_tokenizer
from iclens.lens import LensModel, Readout

QUERY_TOKENS = 8
ANSWER, OTHERS = 11, tuple(range(12, 21))


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2; the defaults are GPT-2 small's."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    vocabulary: int = 50257
    positions: int = 1024

    @property
    def block_parameters(self) -> int:
        """Weights of all blocks that multiply every token: 12 width² a layer."""
        return 12 * self.layers * self.width**2

    def forward_operations(self, n_tokens: int, n_logits: int) -> float:
        """Operations of a forward pass: weights, causal attention, and the unembedding of some positions."""
        weights = 2.0 * self.block_parameters * n_tokens
        # Scores and values, each 2 · n² · width a layer, of which a causal model needs half.
        attention = 2.0 * n_tokens**2 * self.width * self.layers
        return weights + attention + 2.0 * self.vocabulary * self.width * n_logits

    def rerun_operations(self, n_tokens: int, n_query: int) -> float:
        """Operations of a pass over the query alone, whose tokens attend to nearly all of the prompt's."""
        attention = 4.0 * n_tokens * n_query * self.width * self.layers
        return 2.0 * self.block_parameters * n_query + attention + 2.0 * self.vocabulary * self.width

    def weight_bytes(self) -> float:
        """Bytes of the blocks and the unembedding in float32, each read once."""
        return 4.0 * (self.block_parameters + self.vocabulary * self.width)


SMALL = Shape()
TINY = Shape(layers=2, heads=4, width=64, vocabulary=512, positions=256)
"""For --quick."""


def language_model(shape: Shape, attention: str | None = None) -> Any:
    """Return a `GPT2LMHeadModel` with the same random weights at every call."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.width,
        vocab_size=shape.vocabulary,
        n_positions=shape.positions,
        bos_token_id=0,
        eos_token_id=0,
    )
    if attention is not None:
        config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).to(torch.float32).eval()


def lens_model(shape: Shape) -> LensModel:
    """Return the same, wrapped for the lens, with its tokenizer."""
    return LensModel.wrap(language_model(shape), word_tokenizer(shape.vocabulary), "GPT-2-shaped")


@dataclass(frozen=True)
class ShapedPrompt:
    """Random tokens cut into demonstrations and a query.

    Attributes:
        ids: token ids.
        groups: the demonstration of each token, −1 for the query's.
        query_start: first token of the query.
        readout: the margin of one token over nine others, at the last token.
        n_demonstrations: how many.
    """

    ids: Tensor
    groups: Tensor
    query_start: int
    readout: Readout
    n_demonstrations: int

    @classmethod
    def draw(cls, shape: Shape, n_tokens: int, n_demonstrations: int) -> ShapedPrompt:
        """Demonstrations of equal length (the last takes the rest), then `QUERY_TOKENS` of the query."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(0, shape.vocabulary, (n_tokens,), generator=generator)
        start = n_tokens - QUERY_TOKENS
        width = start // n_demonstrations
        groups = (torch.arange(n_tokens) // width).clamp(max=n_demonstrations - 1)
        groups[start:] = -1
        readout = Readout.contrast(0, ANSWER, OTHERS)
        return cls(ids, groups, start, readout, n_demonstrations)

    def by_demonstration(self, values: Tensor) -> Tensor:
        """Sum values of tokens within each demonstration."""
        slots = torch.where(self.groups < 0, self.n_demonstrations, self.groups)
        return values.new_zeros(self.n_demonstrations + 1).index_add(0, slots, values)[:-1]

    def margin(self, logits: Tensor) -> Tensor:
        """Return the margin from logits of the last position, (batch, positions, vocabulary)."""
        last = logits[:, -1]
        return last[:, ANSWER] - last[:, list(OTHERS)].mean(-1)
