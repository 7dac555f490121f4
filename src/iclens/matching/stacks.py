"""The lab's transformers as stacks of layers that `iclens.dual` reads, beside what their own code computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.attention import SoftmaxAttention
from iclens.dual import LayerWeights, StackDual, StackWeights
from iclens.dual.feed_forward import FeedForward
from iclens.dual.norms import Norm
from iclens.errors import UserError
from iclens.models.model import PromptModel
from iclens.models.runs_attention import RunsAttention
from iclens.models.transformer import PromptTransformer
from iclens.tasks.prompt_batch import PromptBatch


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass of a model on prompts, by the model's own code, and the weights to read it with.

    Attributes:
        weights: the stack between embedding and read-out.
        states: what the model itself computes: the embeddings and the output of every layer, each (batch, n, d_model).
        output: its final states, after the final norm.
        demonstrations: group ids (n,): the demonstration of each token, −1 for none.
        mask: True where a token may attend to another, (n, n), or None for everywhere.
    """

    weights: StackWeights
    states: tuple[Float[Tensor, "batch n d_model"], ...]
    output: Float[Tensor, "batch n d_model"]
    demonstrations: Int[Tensor, " n"]
    mask: Tensor | None

    def stack(self) -> StackDual:
        """Return the duals, from the embeddings and the weights alone."""
        return StackDual.from_stack(self.weights, self.states[0], self.demonstrations, self.mask)


@torch.no_grad()
def lab_pass(model: PromptModel, prompt: PromptBatch) -> Pass:
    """One run of the lab's transformer on a batch of prompts.

    A demonstration is the token (x_i, y_i), or the tokens x_i and y_i where they are interleaved.

    Args:
        model: a `transformer` of the lab with one run, softmax attention and residuals.
        prompt: prompts (batch, ...), in the dtype of the model.

    Raises:
        UserError: another model.
    """
    attentions = [module for module in model.modules() if isinstance(module, RunsAttention)]
    plain = all(isinstance(attention.variant, SoftmaxAttention) for attention in attentions)
    if not isinstance(model, PromptTransformer) or model.n_runs != 1 or not plain:
        raise UserError("only one run of the model 'transformer' with attention='softmax' is read as a stack of duals.")
    if not model.residual or not model.query_in_keys or model.tokens == "inputs":
        raise UserError(
            "a model without residuals, whose query is not among the keys, or with tokens='inputs', which hold a label "
            "and the next input at once, is not read as a stack."
        )
    states = model.states(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0), every_token=True)
    last = states[-1] if model.final_norm is None else model.final_norm(states[-1])
    n_context = prompt.n_context
    ids = torch.arange(n_context)
    mask = None
    if model.every_prefix:
        ids = ids.repeat_interleave(2)
        mask = torch.ones(2 * n_context + 1, 2 * n_context + 1, dtype=torch.bool).tril()
    layers = tuple(_lab_layer(block, model.norm) for block in model.blocks)
    final = None if model.final_norm is None else _norm(model.final_norm)
    return Pass(
        StackWeights(layers, final),
        tuple(state[0] for state in states),
        last[0],
        torch.cat([ids, torch.tensor([-1])]),
        mask,
    )


def _norm(module: Any) -> Norm:
    return Norm.layer(module.weight[0].detach(), module.bias[0].detach())


def _lab_layer(block: Any, placement: str) -> LayerWeights:
    """One run's layer of the lab's transformer; its linear maps are right factors of rows already."""
    heads = (3, block.n_heads, block.head_width)
    W_Q, W_K, W_V = block.qkv.weight[0].detach().unflatten(-1, heads).permute(1, 2, 0, 3)
    b_Q, b_K, b_V = (None, None, None)
    if block.qkv.bias is not None:
        b_Q, b_K, b_V = block.qkv.bias[0].detach().unflatten(-1, heads)
    feed_forward = None
    if block.ffn is not None:
        first, activation, second = block.ffn
        feed_forward = FeedForward(
            first.weight[0].detach(), second.weight[0].detach(), activation.name, _bias(first), _bias(second)
        )
    normed = placement != "none"
    return LayerWeights(
        W_Q,
        W_K,
        W_V,
        block.out.weight[0].detach().unflatten(0, heads[1:]),
        b_Q,
        b_K,
        b_V,
        _bias(block.out),
        _norm(block.norm_attention) if normed else None,
        _norm(block.norm_ffn) if normed and feed_forward is not None else None,
        feed_forward,
        placement if normed else "pre",
    )


def _bias(linear: Any) -> Tensor | None:
    return None if linear.bias is None else linear.bias[0].detach()
