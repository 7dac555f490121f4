"""What each demonstration adds to a lab model's answer, read off the dual models of all its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclens.attention.variant import AttentionVariant
from iclens.errors import UserError
from iclens.models.model import PromptModel
from iclens.models.runs_attention import RunsAttention
from iclens.models.transformer import PromptTransformer
from iclens.tasks.prompt_batch import PromptBatch


@dataclass(frozen=True, eq=False)
class PointPulls:
    """The answer to a query as a sum: what the demonstrations add in every head, and the rest.

    Attributes:
        by_head: what demonstration i adds to the answer through a head directly: its part of the head's gradient step,
            carried by the head's output map, the read-out and the final LayerNorm with its scale held at its value.
        rest: everything else that reaches the read-out: W_0 of every head (the query's own token, and what the variant
            adds to the step), the embedding, the feed-forward networks, and the biases.
        answer: the model's own answer, from its forward pass.
    """

    by_head: Float[Tensor, "batch n_layers n_heads n_context d_y"]
    rest: Float[Tensor, "batch d_y"]
    answer: Float[Tensor, "batch d_y"]

    @property
    def pulls(self) -> Float[Tensor, "batch n_context d_y"]:
        """Each demonstration's pull: the sum over all heads."""
        return self.by_head.sum((1, 2))

    @property
    def residual(self) -> Float[Tensor, "batch d_y"]:
        """Pulls and rest, less the answer: rounding, as the two come by different ways."""
        return self.pulls.sum(-2) + self.rest - self.answer


@torch.no_grad()
def point_pulls(model: PromptModel, prompt: PromptBatch) -> PointPulls:
    """Split a model's answer at the query into what each demonstration adds and the rest; exact.

    Every head at the query's token is its dual model's prediction W_0φ(q) + Σ_i (part of token i), and the residual
    stream adds up, so the answer is a sum over tokens once the final LayerNorm's scale is held. The tokens of
    demonstration i are (x_i, y_i), or x_i and y_i where they are interleaved. In a later layer they also carry what
    they read from other demonstrations: the split says through which token something came, not where it was first.

    Args:
        model: one run of the lab's `transformer` with residuals and `norm` pre or none; any attention variant that
            leaves a head's output as it is.
        prompt: prompts (batch, ...), with at least one demonstration, in the dtype of the model.

    Raises:
        UserError: another model, or no demonstration.
    """
    _check(model, prompt)
    assert isinstance(model, PromptTransformer)
    inputs, labels = prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0)
    states = model.states(inputs, labels)
    n_tokens = states[0].shape[-2]
    ids = _demonstration_of_token(prompt.n_context, n_tokens)
    mask = None
    if not model.every_prefix and not model.query_in_keys:
        mask = ids.unsqueeze(0) >= 0
    h = states[0][..., -1:, :]
    rest, steps = h, []
    blocks: list[Any] = list(model.blocks)
    for layer, block in enumerate(blocks):
        x = states[layer] if block.norm_attention is None else block.norm_attention(states[layer])
        heads = block.qkv(x).unflatten(-1, (3, block.n_heads, block.head_width))
        q, k, v = (part[0] for part in heads.movedim(-3, 0).transpose(-3, -2).unbind(0))
        dual = block.attention.variant_of(0).dual(q[..., -1:, :], k, v, ids, mask, is_causal=model.every_prefix)
        # (batch, n_heads, n_context, head_width) and (batch, n_heads, 1, head_width)
        parts = dual.start.contributions().squeeze(-3).squeeze(-3)
        other = dual.stepped.initial().squeeze(-2)
        other = other if dual.residual is None else other + dual.residual
        out = block.out.weight[0].unflatten(0, (block.n_heads, block.head_width))
        steps.append(torch.einsum("bhnw,hwe->bhne", parts, out))
        added = torch.einsum("bhqw,hwe->bqe", other, out).unsqueeze(0)
        added = added if block.out.bias is None else added + block.out.bias.unsqueeze(-2).unsqueeze(-2)
        rest = rest + added
        h = h + added + steps[-1].sum((1, 2)).unsqueeze(-2).unsqueeze(0)
        if block.ffn is not None:
            y = block.ffn(h if block.norm_ffn is None else block.norm_ffn(h))
            rest, h = rest + y, h + y
    by_head = _read(model, torch.stack(steps, 1), h[0, :, 0], constant=False)
    return PointPulls(by_head, _read(model, rest[0, :, 0], h[0, :, 0], constant=True), model(inputs, labels)[0, :, -1])


def _check(model: PromptModel, prompt: PromptBatch) -> None:
    if not isinstance(model, PromptTransformer) or model.n_runs != 1:
        raise UserError("only one run of the model 'transformer' is split into pulls of its demonstrations.")
    if not model.residual or model.norm == "post":
        raise UserError(
            "a model without residuals, or with LayerNorm after them, has no answer that is a sum: pulls "
            "need model.residual=true and model.norm='pre' or 'none'."
        )
    variants = (module.variant for module in model.modules() if isinstance(module, RunsAttention))
    if any(type(variant).after is not AttentionVariant.after for variant in variants):
        raise UserError("an attention variant that changes a head's output afterwards is not split into pulls.")
    if model.tokens == "inputs":
        raise UserError(
            "tokens='inputs' hold a label and the next input at once, so that no demonstration has its own."
        )
    if prompt.n_context < 1:
        raise UserError("a prompt without demonstrations has nothing that pulls: give at least one.")


def _demonstration_of_token(n_context: int, n_tokens: int) -> Int[Tensor, " n_tokens"]:
    ids = torch.arange(n_context).repeat_interleave((n_tokens - 1) // n_context)
    return torch.cat([ids, torch.tensor([-1])])


def _read(model: PromptTransformer, part: Tensor, state: Tensor, *, constant: bool) -> Tensor:
    """Return what a part (batch, ..., width) of the last state adds to the answer, with the biases if `constant`."""
    norm, out = model.final_norm, model.read_out
    if norm is not None:
        scale = (state.var(-1, correction=0) + 1e-5).sqrt()
        part = (part - part.mean(-1, keepdim=True)) / scale.view(-1, *[1] * (part.ndim - 1)) * norm.weight[0]
        part = part + norm.bias[0] if constant else part
    if out is None:
        return part[..., -model.d_y :]
    part = part @ out.weight[0]
    return part + out.bias[0] if constant and out.bias is not None else part
