"""The gradient step: what every token adds to the margin, directly, through every head of every layer.

Attention's output is W_0 φ(q) plus one gradient step on the tokens in context (Ren & Liu 2024, section 3), a sum
over tokens. A layer's output is added to the residual stream, and the final norm with its scale held and the
unembedding are linear; so each token's term has a definite share of the margin:

    c[l, h, i] = Σ_r a[l, h, r, i] ⟨v[l, h, i], W_O[l, h]ᵀ J_lᵀ u_r⟩

with u_r the margin's direction at the read-out position r, J_l the held norms between the layer and the
unembedding, and a the attention weights. The MLPs, the embedding and the biases take the rest; with them the sum
is the margin itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.lens.anatomy import Layer, matrix
from iclens.lens.loading import LensModel
from iclens.lens.norms import pull_back, shift
from iclens.lens.readout import Readout
from iclens.lens.trace import LayerTrace, Trace, trace


@dataclass(frozen=True)
class GradientStep:
    """Direct contributions to the margin. Everything sums to it: see `residual`.

    Attributes:
        contributions: of each token, through each head of each layer.
        attention_bias: of each layer's attention that belongs to no token (the bias of W_O, of a norm after it).
        mlp: of each layer's MLP at the read-out positions.
        embedding: of the read-out positions' own embeddings.
        bias: of the biases of the final norm, of norms on the stream and of the unembedding.
        margin: the margin.
        residual: |sum of everything − margin| / max(|margin|, largest |part|).
        attention_residual: the largest difference, over layers, between the sum over heads and tokens and the
            same direction applied to the attention module's own output, relative to the largest such output.
    """

    contributions: Float[Tensor, "n_layers n_heads n"]
    attention_bias: Float[Tensor, " n_layers"]
    mlp: Float[Tensor, " n_layers"]
    embedding: float
    bias: float
    margin: float
    residual: float
    attention_residual: float


@torch.no_grad()
def gradient_step(traced: Trace) -> GradientStep:
    """Direct contributions of every token in every head and layer, from one forward pass.

    Args:
        traced: the pass, from `trace`.
    """
    anatomy = traced.lens_model.anatomy
    head = anatomy.head
    assert head is not None
    direction, bias = _unembed(traced)
    if anatomy.projection is not None:
        bias = bias + float(shift(anatomy.projection, direction).sum())
        direction = direction @ matrix(anatomy.projection)
    if anatomy.final_norm is not None:
        direction, bias = _through(traced, anatomy.final_norm, direction, bias)

    scale = traced.lens_model.family.branch_scale
    parts, attention_bias, mlp, own = [], [], [], []
    for layer, record in zip(reversed(anatomy.layers), reversed(traced.layers), strict=True):
        if layer.norm_on_stream_after_mlp is not None:
            direction, bias = _through(traced, layer.norm_on_stream_after_mlp, direction, bias)
        mlp.append(_branch(traced, layer.mlp, layer.norm_after_mlp, direction * scale))
        if layer.norm_on_stream_after_attention is not None:
            direction, bias = _through(traced, layer.norm_on_stream_after_attention, direction, bias)
        tokens, rest = _attention(traced, layer, record, direction * scale)
        parts.append(tokens)
        attention_bias.append(rest)
        own.append(_branch(traced, layer.output, layer.norm_after_attention, direction * scale))
    embedding = float((direction * traced.inputs[anatomy.layers[0].module]).sum())

    contributions = torch.stack(parts[::-1])
    biases, mlps = torch.stack(attention_bias[::-1]), torch.stack(mlp[::-1])
    return GradientStep(
        contributions=contributions,
        attention_bias=biases,
        mlp=mlps,
        embedding=embedding,
        bias=bias,
        margin=traced.margin,
        **_residuals(contributions, biases, mlps, torch.stack(own[::-1]), embedding, bias, traced.margin),
    )


def explain_directly(lens_model: LensModel, input_ids: Int[Tensor, "*one n"], readout: Readout) -> GradientStep:
    """`gradient_step` of a fresh `trace`."""
    return gradient_step(trace(lens_model, input_ids, readout))


def _unembed(traced: Trace) -> tuple[Tensor, float]:
    """The margin's direction before the unembedding, one row per read-out position, and its bias."""
    head = traced.lens_model.anatomy.head
    assert head is not None
    readout = traced.readout
    gains = readout.gains(traced.outputs[head], traced.logits)
    row = {p: r for r, p in enumerate(readout.positions)}
    rows = torch.tensor([row[p] for p, _, _ in readout.terms], device=gains.device)
    columns = torch.tensor([i for _, i, _ in readout.terms], device=gains.device)
    weight = matrix(head)[columns]
    direction = gains.new_zeros(len(readout.positions), weight.shape[1])
    direction.index_add_(0, rows, gains[:, None] * weight)
    offset: Tensor | None = head.bias  # type: ignore[assignment]
    return direction, 0.0 if offset is None else float(gains @ offset[columns])


def _through(traced: Trace, norm: nn.Module, direction: Tensor, bias: float) -> tuple[Tensor, float]:
    """Pull the direction back through a norm on the stream; its bias is collected."""
    bias = bias + float(shift(norm, direction).sum())
    return pull_back(norm, traced.inputs[norm], traced.outputs[norm], direction), bias


def _branch(traced: Trace, module: nn.Module | None, norm: nn.Module | None, direction: Tensor) -> Tensor:
    """The share of a branch's own output, which a norm may follow before it is added."""
    last = norm if norm is not None else module
    assert last is not None
    return (direction * traced.outputs[last]).sum()


def _attention(traced: Trace, layer: Layer, record: LayerTrace, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions (heads, n) of one layer, and the part of it that belongs to no token."""
    rest = direction.new_zeros(())
    if layer.norm_after_attention is not None:
        norm = layer.norm_after_attention
        rest = rest + shift(norm, direction).sum()
        direction = pull_back(norm, traced.inputs[norm], traced.outputs[norm], direction)
    output = layer.output
    assert output is not None
    rest = rest + shift(output, direction).sum()
    heads, n_positions, n = record.weights.shape
    key_heads, _, width = record.v.shape
    # (positions, heads, d_v) -> rows of one product with each key head's values, so that v is not repeated.
    per_head = (direction @ matrix(output)).reshape(n_positions, key_heads, heads // key_heads, width)
    folded = per_head.permute(1, 2, 0, 3).reshape(key_heads, -1, width)
    shares = (folded @ record.v.transpose(-1, -2)).reshape(heads, n_positions, n)
    return (record.weights * shares).sum(1), rest


def _residuals(
    contributions: Tensor,
    biases: Tensor,
    mlps: Tensor,
    own: Tensor,
    embedding: float,
    bias: float,
    margin: float,
) -> dict[str, float]:
    layers = contributions.sum((1, 2)) + biases
    total = float((layers + mlps).sum()) + embedding + bias
    largest = max(abs(margin), abs(embedding), abs(bias), float(own.abs().max()), float(mlps.abs().max()))
    tiny = torch.finfo(contributions.dtype).tiny
    return {
        "residual": abs(total - margin) / max(largest, tiny),
        "attention_residual": float((layers - own).abs().max()) / max(float(own.abs().max()), tiny),
    }
