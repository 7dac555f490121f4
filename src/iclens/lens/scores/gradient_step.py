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

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iclens.lens.model.anatomy import Layer, matrix
from iclens.lens.model.norms import pull_back, shift
from iclens.lens.model.placed import at_hand, doubled, wide
from iclens.lens.read.margin import Readouts
from iclens.lens.read.padded import OfPrompts
from iclens.lens.read.tracing import LayerTrace, Trace

_MOST_ROWS = 1 << 15
"""Of the unembedding that are multiplied at once."""


@dataclass(frozen=True)
class GradientStep(OfPrompts):
    """Direct contributions to each prompt's margin. Everything sums to it: see `residual`.

    Attributes:
        contributions: of each token, through each head of each layer; zero where a prompt was filled up.
        attention_bias: of each layer's attention that belongs to no token (the bias of W_O, of a norm after it).
        mlp: of each layer's MLP at the read-out positions.
        own: the same direction applied to each attention module's own output.
        embedding: of the read-out positions' own embeddings.
        bias: of the biases of the final norm, of norms on the stream and of the unembedding; of a log-probability also
            minus the entropy of the predictions, see `Readouts.rest`.
        margin: the margin.
    """

    contributions: Float[Tensor, "*batch n_layers n_heads n"]
    attention_bias: Float[Tensor, "*batch n_layers"]
    mlp: Float[Tensor, "*batch n_layers"]
    own: Float[Tensor, "*batch n_layers"]
    embedding: Float[Tensor, "*batch"]
    bias: Float[Tensor, "*batch"]
    margin: Float[Tensor, "*batch"]

    @property
    def by_token(self) -> Float[Tensor, "*batch n"]:
        """Contributions summed over layers and heads, in float64."""
        return doubled(self.contributions).sum((-3, -2))

    @property
    def residual(self) -> Float[Tensor, "*batch"]:
        """|sum of everything − margin| / max(|margin|, largest |part|)."""
        largest = torch.maximum(self.margin.abs(), self.largest)
        return (self.total - self.margin).abs() / largest.clamp_min(torch.finfo(largest.dtype).tiny)

    @property
    def total(self) -> Float[Tensor, "*batch"]:
        """The sum of everything."""
        return (self._layers() + self.mlp).sum(-1) + self.embedding + self.bias

    @property
    def largest(self) -> Float[Tensor, "*batch"]:
        """The largest |part|."""
        parts = [self.embedding, self.bias, self.own.abs().amax(-1), self.mlp.abs().amax(-1)]
        return torch.stack([part.abs() for part in parts]).amax(0)

    @property
    def attention_residual(self) -> Float[Tensor, "*batch"]:
        """How far the sums over heads and tokens are from the attention modules' own outputs.

        The largest difference over layers, relative to the largest of these outputs along the margin's direction.
        """
        largest = self.own.abs().amax(-1)
        difference = (self._layers() - self.own).abs().amax(-1)
        return difference / largest.clamp_min(torch.finfo(largest.dtype).tiny)

    def _layers(self) -> Tensor:
        return self.contributions.sum((-2, -1)) + self.attention_bias


@torch.no_grad()
def gradient_step(traced: Trace, readouts: Readouts | None = None) -> GradientStep:
    """Direct contributions of every token in every head and layer, from one forward pass.

    The margin's direction is pulled back from the unembedding to every layer, and each part's share is collected. The
    margin is the traced one, or another that is read at the same positions.
    """
    anatomy = traced.lens_model.anatomy
    readouts = traced.readouts if readouts is None else readouts
    direction, bias = _unembed(traced, readouts)
    home = bias.device
    if anatomy.projection is not None:
        with at_hand(anatomy.projection):
            bias = bias + shift(anatomy.projection, direction).sum(-1).to(home)
            direction = direction @ wide(matrix(anatomy.projection))
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
    return GradientStep(
        contributions=torch.stack(parts[::-1], -3),
        attention_bias=torch.stack(attention_bias[::-1], -1),
        mlp=torch.stack(mlp[::-1], -1),
        own=torch.stack(own[::-1], -1),
        embedding=(direction.to(stream.device) * stream).sum((-2, -1)).to(home),
        bias=bias,
        margin=readouts.margin(traced.logits).to(home),
    )


def _unembed(traced: Trace, readouts: Readouts) -> tuple[Tensor, Tensor]:
    """Return the margin's direction before the unembedding, (batch, n_positions, width), and its bias, (batch,)."""
    head = traced.lens_model.anatomy.head
    assert head is not None
    before = traced.outputs[head]
    readouts, logits = readouts.to(before.device), traced.logits.to(before.device)
    batch, n_positions = readouts.positions.shape
    if not readouts.is_linear:
        return _unembed_whole(head, readouts, before, logits)
    gains = readouts.gains(before, logits)
    with at_hand(head):
        weight = wide(matrix(head)[readouts.term_indices])
        offset: Tensor | None = head.bias  # type: ignore[assignment]
        bias = gains.new_zeros(batch) if offset is None else (gains * wide(offset[readouts.term_indices])).sum(-1)
    # (batch, n_terms, n_positions): which position each term is read at.
    at = nn.functional.one_hot(readouts.term_rows, n_positions).to(gains.dtype)
    return (at * gains[..., None]).transpose(1, 2) @ weight, bias


def _unembed_whole(head: nn.Module, readouts: Readouts, before: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same where every logit counts, as in a log-probability, whose constant is a bias."""
    gains, bias = readouts.dense_gains(before, logits), readouts.rest(logits)
    with at_hand(head):
        weight = matrix(head)
        offset: Tensor | None = head.bias  # type: ignore[assignment]
        # In pieces: in half precision the whole matrix in single would not fit beside itself.
        pieces = zip(gains.split(_MOST_ROWS, -1), weight.split(_MOST_ROWS), strict=True)
        direction = torch.stack([some @ wide(rows) for some, rows in pieces]).sum(0)
        return direction, bias if offset is None else bias + (gains @ wide(offset)).sum(-1)


def _through(traced: Trace, norm: nn.Module, direction: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Pull the direction back through a norm on the stream; its bias is collected."""
    x, y = wide(traced.inputs[norm]), wide(traced.outputs[norm])
    direction = direction.to(x.device)
    with at_hand(norm):
        return pull_back(norm, x, y, direction), bias + shift(norm, direction).sum(-1).to(bias.device)


def _branch(traced: Trace, module: nn.Module | None, norm: nn.Module | None, direction: Tensor) -> Tensor:
    """Return the share of a branch's own output, which a norm may follow before it is added."""
    last = module if norm is None else norm
    assert last is not None
    output = traced.outputs[last]
    return (direction.to(output.device) * output).sum((-2, -1))


def _attention(traced: Trace, layer: Layer, record: LayerTrace, direction: Tensor) -> tuple[Tensor, Tensor]:
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
        folded = direction @ wide(matrix(output))
    # (positions, heads, d_v) -> rows of one product with each key head's values, so that v is not repeated.
    per_head = folded.reshape(*batch, n_positions, key_heads, heads // key_heads, width).transpose(-4, -3)
    per_head = per_head.transpose(-3, -2).reshape(*batch, key_heads, -1, width)
    shares = (per_head @ wide(record.v).transpose(-1, -2)).reshape(*batch, heads, n_positions, n)
    return (record.weights * shares).sum(-2), rest
