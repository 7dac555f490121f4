"""Trained models as stacks of layers that `iclens.dual` reads, with what their own code computes beside them."""

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

_GPT2_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu-tanh", "silu": "silu"}


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
        """The duals, from the embeddings and the weights alone."""
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
    if not model.residual or not model.query_in_keys:
        raise UserError("a model without residuals, or whose query is not among the keys, is not read as a stack.")
    states = model.states(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0), every_token=True)
    last = states[-1] if model.final_norm is None else model.final_norm(states[-1])
    n_context = prompt.n_context
    ids = torch.arange(n_context)
    mask = None
    if model.every_prefix:
        ids = ids.repeat_interleave(2)
        mask = torch.ones(2 * n_context + 1, 2 * n_context + 1, dtype=torch.bool).tril()
    layers = tuple(_lab_layer(block, model.norm) for block in model.blocks)
    final = None if model.final_norm is None else _norm(model.final_norm, run=0)
    return Pass(
        StackWeights(layers, final),
        tuple(state[0] for state in states),
        last[0],
        torch.cat([ids, torch.tensor([-1])]),
        mask,
    )


@torch.no_grad()
def gpt2_pass(model: Any, input_ids: Int[Tensor, "batch n"], demonstrations: Int[Tensor, " n"] | None = None) -> Pass:
    """A Hugging Face GPT-2 on a batch of prompts of one length.

    Args:
        model: a `GPT2LMHeadModel` in evaluation mode.
        input_ids: token ids.
        demonstrations: group ids of the tokens; None for every token but the last as one of its own.

    Raises:
        UserError: an activation whose gate is not known.
    """
    n = input_ids.shape[1]
    if demonstrations is None:
        demonstrations = torch.cat([torch.arange(n - 1), torch.tensor([-1])])
    found: list[Tensor] = []
    blocks = model.transformer.h
    hooks = [blocks[0].register_forward_pre_hook(lambda _, args: found.append(args[0]))]
    hooks += [
        block.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks
    ]
    try:
        output = model.transformer(input_ids=input_ids, use_cache=False)[0]
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(_gpt2_layer(block, model.config) for block in blocks)
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    return Pass(StackWeights(layers, _norm(model.transformer.ln_f)), tuple(found), output, demonstrations, mask)


def _norm(module: Any, run: int | None = None) -> Norm:
    """A LayerNorm of torch's, or one run's of the lab."""
    if run is None:
        return Norm.layer(module.weight.detach(), module.bias.detach(), module.eps)
    return Norm.layer(module.weight[run].detach(), module.bias[run].detach())


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
        _norm(block.norm_attention, run=0) if normed else None,
        _norm(block.norm_ffn, run=0) if normed and feed_forward is not None else None,
        feed_forward,
        placement if normed else "pre",
    )


def _bias(linear: Any) -> Tensor | None:
    return None if linear.bias is None else linear.bias[0].detach()


def _gpt2_layer(block: Any, config: Any) -> LayerWeights:
    if config.activation_function not in _GPT2_ACTIVATIONS:
        raise UserError(f"the gate of the activation {config.activation_function!r} is not known.")
    heads = (3, config.n_head, config.n_embd // config.n_head)
    W_Q, W_K, W_V = block.attn.c_attn.weight.detach().unflatten(-1, heads).permute(1, 2, 0, 3)
    b_Q, b_K, b_V = block.attn.c_attn.bias.detach().unflatten(-1, heads)
    return LayerWeights(
        W_Q,
        W_K,
        W_V,
        block.attn.c_proj.weight.detach().unflatten(0, heads[1:]),
        b_Q,
        b_K,
        b_V,
        block.attn.c_proj.bias.detach(),
        _norm(block.ln_1),
        _norm(block.ln_2),
        FeedForward(
            block.mlp.c_fc.weight.detach(),
            block.mlp.c_proj.weight.detach(),
            _GPT2_ACTIVATIONS[config.activation_function],
            block.mlp.c_fc.bias.detach(),
            block.mlp.c_proj.bias.detach(),
        ),
    )
