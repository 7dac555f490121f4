"""The gradient step: what every token adds to the margin, directly, through every head of every layer.

Attention's output is W_0 φ(q) plus one gradient step on the tokens in context (Ren & Liu 2024), a sum
over tokens. A layer's output is added to the residual stream, and the final norm with its scale held and the
unembedding are linear; so each token's term has a definite share of the margin:

    c[l, h, i] = Σ_r a[l, h, r, i] ⟨v[l, h, i], W_O[l, h]ᵀ J_lᵀ u_r⟩

with u_r the margin's direction at the read-out position r, J_l the held norms between the layer and the
unembedding, and a the attention weights. The MLPs, the embedding and the biases take the rest; with them the sum
is the margin itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.lens.model.anatomy import Layer, matrix
from iclens.lens.model.loading import LensModel
from iclens.lens.model.norms import pull_back, shift
from iclens.lens.model.placed import at_hand
from iclens.lens.read.readout import Readout
from iclens.lens.read.trace import Trace, trace


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


class Terms(NamedTuple):
    """Everything that adds up to the margin, and what attention's share is checked against.

    Attributes:
        contributions: of each token, through each head of each layer.
        attention_bias: of each layer's attention that belongs to no token.
        mlp: of each layer's MLP.
        own: the same direction applied to each attention module's own output.
        embedding: of the read-out positions' own embeddings.
        bias: of the biases on the way from the stream to the logits.
    """

    contributions: Float[Tensor, "n_layers *batch n_heads n"]
    attention_bias: Float[Tensor, "n_layers ..."]
    mlp: Float[Tensor, "n_layers ..."]
    own: Float[Tensor, "n_layers ..."]
    embedding: Float[Tensor, "*batch"]
    bias: Float[Tensor, "*batch"]

    def residuals(self, margin: Float[Tensor, "*batch"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """`GradientStep.residual` and `GradientStep.attention_residual`."""
        tiny = torch.finfo(self.contributions.dtype).tiny
        layers = self.contributions.sum((-2, -1)) + self.attention_bias
        total = (layers + self.mlp).sum(0) + self.embedding + self.bias
        own = self.own.abs().amax(0)
        largest = torch.stack([margin.abs(), self.embedding.abs(), self.bias.abs(), own, self.mlp.abs().amax(0)])
        return (
            (total - margin).abs() / largest.amax(0).clamp_min(tiny),
            (layers - self.own).abs().amax(0) / own.clamp_min(tiny),
        )


@runtime_checkable
class LayerRows(Protocol):
    """Of one attention layer: its weights at the positions that are read, and its values."""

    @property
    def weights(self) -> Float[Tensor, "*batch heads n_positions n"]:
        """Attention weights of the read-out positions."""

    @property
    def v(self) -> Float[Tensor, "*batch key_heads n d_v"]:
        """Values."""


@runtime_checkable
class Traced(Protocol):
    """What a pass over one prompt, or over many side by side, has kept."""

    @property
    def lens_model(self) -> LensModel:
        """The model."""

    @property
    def layers(self) -> Sequence[LayerRows]:
        """One entry per layer."""

    @property
    def inputs(self) -> dict[nn.Module, Tensor]:
        """A module -> its input (*batch, n_positions, width) at the read-out positions."""

    @property
    def outputs(self) -> dict[nn.Module, Tensor]:
        """A module -> its output there."""


@torch.no_grad()
def gradient_step(traced: Trace) -> GradientStep:
    """Direct contributions of every token in every head and layer, from one forward pass.

    Args:
        traced: the pass, from `trace`.
    """
    direction, bias = _unembed(traced)
    terms = direct_terms(traced, direction, bias)
    residual, attention_residual = terms.residuals(terms.bias.new_tensor(traced.margin))
    return GradientStep(
        contributions=terms.contributions,
        attention_bias=terms.attention_bias,
        mlp=terms.mlp,
        embedding=float(terms.embedding),
        bias=float(terms.bias),
        margin=traced.margin,
        residual=float(residual),
        attention_residual=float(attention_residual),
    )


@torch.no_grad()
def direct_terms(
    traced: Traced, direction: Float[Tensor, "*batch n_positions width"], bias: Float[Tensor, "*batch"]
) -> Terms:
    """Pull the margin's direction back from the unembedding to every layer, and collect each part's share.

    Args:
        traced: the pass.
        direction: the margin's direction before the unembedding, one row per read-out position.
        bias: the unembedding's own share.
    """
    anatomy = traced.lens_model.anatomy
    home = bias.device
    if anatomy.projection is not None:
        with at_hand(anatomy.projection):
            bias = bias + shift(anatomy.projection, direction).sum(-1).to(home)
            direction = direction @ matrix(anatomy.projection)
    if anatomy.final_norm is not None:
        direction, bias = _through(traced, anatomy.final_norm, direction, bias)

    scale = traced.lens_model.family.branch_scale
    parts, attention_bias, mlp, own = [], [], [], []
    for layer, record in zip(reversed(anatomy.layers), reversed(traced.layers), strict=True):
        if layer.norm_on_stream_after_mlp is not None:
            direction, bias = _through(traced, layer.norm_on_stream_after_mlp, direction, bias)
        mlp.append(_branch(traced, layer.mlp, layer.norm_after_mlp, direction * scale).to(home))
        if layer.norm_on_stream_after_attention is not None:
            direction, bias = _through(traced, layer.norm_on_stream_after_attention, direction, bias)
        tokens, rest = _attention(traced, layer, record, direction * scale)
        parts.append(tokens.to(home))
        attention_bias.append(rest.to(home))
        own.append(_branch(traced, layer.output, layer.norm_after_attention, direction * scale).to(home))
    stream = traced.inputs[anatomy.layers[0].module]
    embedding = (direction.to(stream.device) * stream).sum((-2, -1)).to(home)
    return Terms(
        contributions=torch.stack(parts[::-1]),
        attention_bias=torch.stack(attention_bias[::-1]),
        mlp=torch.stack(mlp[::-1]),
        own=torch.stack(own[::-1]),
        embedding=embedding,
        bias=bias,
    )


def explain_directly(lens_model: LensModel, input_ids: Int[Tensor, "*one n"], readout: Readout) -> GradientStep:
    """`gradient_step` of a fresh `trace`."""
    return gradient_step(trace(lens_model, input_ids, readout))


def _unembed(traced: Trace) -> tuple[Tensor, Tensor]:
    """The margin's direction before the unembedding, one row per read-out position, and its bias."""
    head = traced.lens_model.anatomy.head
    assert head is not None
    readout = traced.readout
    gains = readout.gains(traced.outputs[head], traced.logits.to(traced.outputs[head].device))
    row = {p: r for r, p in enumerate(readout.positions)}
    rows = torch.tensor([row[p] for p, _, _ in readout.terms], device=gains.device)
    columns = torch.tensor([i for _, i, _ in readout.terms], device=gains.device)
    with at_hand(head):
        weight = matrix(head)[columns]
        offset: Tensor | None = head.bias  # type: ignore[assignment]
        bias = gains.new_zeros(()) if offset is None else gains @ offset[columns]
    direction = gains.new_zeros(len(readout.positions), weight.shape[1])
    direction.index_add_(0, rows, gains[:, None] * weight)
    return direction, bias


def _through(traced: Traced, norm: nn.Module, direction: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Pull the direction back through a norm on the stream; its bias is collected."""
    x, y = traced.inputs[norm], traced.outputs[norm]
    direction = direction.to(x.device)
    with at_hand(norm):
        return pull_back(norm, x, y, direction), bias + shift(norm, direction).sum(-1).to(bias.device)


def _branch(traced: Traced, module: nn.Module | None, norm: nn.Module | None, direction: Tensor) -> Tensor:
    """The share of a branch's own output, which a norm may follow before it is added."""
    last = norm if norm is not None else module
    assert last is not None
    output = traced.outputs[last]
    return (direction.to(output.device) * output).sum((-2, -1))


def _attention(traced: Traced, layer: Layer, record: LayerRows, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions (*batch, heads, n) of one layer, and the part of it that belongs to no token."""
    direction = direction.to(record.v.device)
    rest = direction.new_zeros(direction.shape[:-2])
    if layer.norm_after_attention is not None:
        direction, rest = _through(traced, layer.norm_after_attention, direction, rest)
    output = layer.output
    assert output is not None
    *batch, heads, n_positions, n = record.weights.shape
    key_heads, width = record.v.shape[-3], record.v.shape[-1]
    with at_hand(output):
        rest = rest + shift(output, direction).sum(-1)
        folded = direction @ matrix(output)
    # (positions, heads, d_v) -> rows of one product with each key head's values, so that v is not repeated.
    per_head = folded.reshape(*batch, n_positions, key_heads, heads // key_heads, width).transpose(-4, -3)
    per_head = per_head.transpose(-3, -2).reshape(*batch, key_heads, -1, width)
    shares = (per_head @ record.v.transpose(-1, -2)).reshape(*batch, heads, n_positions, n)
    return (record.weights * shares).sum(-2), rest
