"""Language models of given shapes with random weights and a tokenizer, so that text can be explained.

Cost does not depend on what the weights have learned, and nothing has to be downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iclens.benchmarks.case import Absent
from iclens.benchmarks.few_shot import word_tokenizer
from iclens.benchmarks.gpt2_shaped import Shape
from iclens.errors import UserError
from iclens.lens import LensModel, load


@dataclass(frozen=True)
class LlamaShape(Shape):
    """Of a Llama whose unembedding is its embedding; the defaults have 135 M parameters, as SmolLM2-135M."""

    layers: int = 30
    heads: int = 9
    width: int = 576
    vocabulary: int = 49152
    positions: int = 8192
    key_heads: int = 3
    inner: int = 1536

    @property
    def block_parameters(self) -> int:
        """Weights of all blocks that multiply every token."""
        attention = 2 * self.width**2 * (self.heads + self.key_heads) // self.heads
        return self.layers * (attention + 3 * self.width * self.inner)


LARGE = LlamaShape()
SMALL = LlamaShape(layers=4, heads=3, key_heads=1, width=48, inner=128, vocabulary=512)
"""For --quick, and where passes are counted: twelve heads, as many as a saved page shows."""
LONG = LlamaShape(layers=2, heads=1, key_heads=1, width=16, inner=32, vocabulary=128, positions=40_000)
"""For prompts of many tokens."""


def llama_model(shape: LlamaShape) -> LensModel:
    """Make a Llama of a shape, with the same random weights at every call, and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.float32).eval()
    return LensModel.wrap(model, word_tokenizer(shape.vocabulary), "Llama-shaped")


def smollm2() -> LensModel | Absent:
    """Load SmolLM2-135M-Instruct from the package that carries it, or say why it is left out."""
    try:
        return load("smollm2")
    except UserError as error:
        return Absent("SmolLM2-135M-Instruct", str(error))
