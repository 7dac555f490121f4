"""The weights of one Transformer layer, and its plain forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclens.dual.feed_forward import FeedForward
from iclens.dual.held import HeldMap
from iclens.dual.norms import Norm
from iclens.dual.rotary import Rotary
from iclens.errors import UserError


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One Transformer layer as arrays, with rows as tokens (x W, where `torch.nn.Linear` stores Wᵀ).

    Pre-norm:  h = x + Attention(norm_1(x)),  y = h + FFN(norm_2(h)).
    Post-norm: h = norm_1(x + Attention(x)),  y = norm_2(h + FFN(h)).

    Norms and the feed-forward block may be absent, and so may every bias.

    Attributes:
        W_Q: (n_heads, d_model, d).
        W_K: (n_kv_heads, d_model, d); n_kv_heads divides n_heads, and each serves consecutive query heads.
        W_V: (n_kv_heads, d_model, d_v).
        W_O: (n_heads, d_v, d_model).
        b_Q: (n_heads, d).
        b_K: (n_kv_heads, d).
        b_V: (n_kv_heads, d_v).
        b_O: (d_model,).
        norm_1: the norm of the attention block.
        norm_2: the norm of the feed-forward block.
        feed_forward: the feed-forward block.
        placement: where the norms sit, `"pre"` or `"post"`.
        scale: factor of the scores; d^(−1/2) when None.
        rotary: how queries and keys turn with their positions; None for not at all. A token's position is its index.
    """

    # The shapes are checked below, so that a message names the array that does not fit.
    W_Q: Float[Tensor, "_ _ _"]
    W_K: Float[Tensor, "_ _ _"]
    W_V: Float[Tensor, "_ _ _"]
    W_O: Float[Tensor, "_ _ _"]
    b_Q: Float[Tensor, "_ _"] | None = None
    b_K: Float[Tensor, "_ _"] | None = None
    b_V: Float[Tensor, "_ _"] | None = None
    b_O: Float[Tensor, " _"] | None = None
    norm_1: Norm | None = None
    norm_2: Norm | None = None
    feed_forward: FeedForward | None = None
    placement: str = "pre"
    scale: float | None = None
    rotary: Rotary | None = None

    def __post_init__(self) -> None:
        if self.placement not in ("pre", "post"):
            raise UserError(f"placement={self.placement!r} must be 'pre' or 'post'.")
        if self.W_Q.ndim != 3 or self.W_V.ndim != 3:
            raise UserError("W_Q and W_V need three axes: heads, d_model, width of a head.")
        (n_heads, d_model, d), (n_kv_heads, _, d_v) = self.W_Q.shape, self.W_V.shape
        if n_kv_heads == 0 or n_heads % n_kv_heads:
            raise UserError(f"W_Q has {n_heads} heads and W_V has {n_kv_heads}: the first must be a multiple.")
        shapes = {
            "W_K": (n_kv_heads, d_model, d),
            "W_V": (n_kv_heads, d_model, d_v),
            "W_O": (n_heads, d_v, d_model),
            "b_Q": (n_heads, d),
            "b_K": (n_kv_heads, d),
            "b_V": (n_kv_heads, d_v),
            "b_O": (d_model,),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise UserError(
                    f"{name} has shape {tuple(tensor.shape)}; with W_Q {tuple(self.W_Q.shape)} and W_V "
                    f"{tuple(self.W_V.shape)} it must be {shape}."
                )
        if self.rotary is not None and 2 * len(self.rotary.frequencies) > d:
            raise UserError(f"rotary has {len(self.rotary.frequencies)} frequencies; heads of width {d} hold {d // 2}.")

    @property
    def d_model(self) -> int:
        """Width of the tokens."""
        return self.W_Q.shape[1]

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.W_Q.shape[0]

    @staticmethod
    def random(
        generator: torch.Generator,
        d_model: int = 16,
        n_heads: int = 2,
        *,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        d_ff: int = 32,
        activation: str | None = "gelu",
        gated: bool = False,
        norm: Literal["layer", "rms"] | None = "layer",
        placement: str = "pre",
        bias: bool = True,
        rotary: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> LayerWeights:
        """Weights drawn from N(0, 1/fan_in), with gains around 1, for checks.

        Args:
            generator: where the numbers come from; it also decides the device.
            d_model: width of the tokens.
            n_heads: query heads.
            n_kv_heads: key and value heads; n_heads when None.
            d_head: width of a head; d_model // n_heads, at least 1, when None.
            d_ff: units of the feed-forward block.
            activation: of the feed-forward block; None for no such block.
            gated: whether the feed-forward block is gated.
            norm: kind of the norms, or None for none.
            placement: where they sit.
            bias: whether there are biases.
            rotary: whether queries and keys turn with their positions; heads then need an even width.
            dtype: of all arrays.
        """
        d = max(1, d_model // n_heads) if d_head is None else d_head
        n_kv = n_heads if n_kv_heads is None else n_kv_heads

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)

        def offset(*shape: int) -> Tensor | None:
            return normal(*shape) / 2 if bias else None

        def norm_at_random() -> Norm | None:
            if norm is None:
                return None
            make = Norm.layer if norm == "layer" else Norm.rms
            return make(1 + normal(d_model) / 4, offset(d_model))

        block = None
        if activation is not None:
            block = FeedForward(
                normal(d_model, d_ff) * d_model**-0.5,
                normal(d_ff, d_model) * d_ff**-0.5,
                activation,
                offset(d_ff),
                offset(d_model),
                normal(d_model, d_ff) * d_model**-0.5 if gated else None,
                offset(d_ff) if gated else None,
            )
        return LayerWeights(
            normal(n_heads, d_model, d) * d_model**-0.5,
            normal(n_kv, d_model, d) * d_model**-0.5,
            normal(n_kv, d_model, d) * d_model**-0.5,
            normal(n_heads, d, d_model) * (n_heads * d) ** -0.5,
            offset(n_heads, d),
            offset(n_kv, d),
            offset(n_kv, d),
            offset(d_model),
            norm_at_random(),
            norm_at_random(),
            block,
            placement,
            rotary=Rotary.of(d, base=100.0, dtype=dtype) if rotary else None,
        )

    @staticmethod
    def from_encoder_layer(layer: nn.TransformerEncoderLayer) -> LayerWeights:
        """Return the weights of a `torch.nn.TransformerEncoderLayer` (read with dropout off).

        Raises:
            UserError: an activation that is neither ReLU nor GELU.
        """
        attention = layer.self_attn
        n_heads, d_model = attention.num_heads, attention.embed_dim
        activations = {nn.functional.relu: "relu", nn.functional.gelu: "gelu"}
        if layer.activation not in activations:
            raise UserError(f"the layer's activation {layer.activation} is neither relu nor gelu.")

        def heads(weight: Tensor) -> Tensor:
            return weight.unflatten(0, (n_heads, -1)).mT

        def head_bias(bias: Tensor) -> Tensor:
            return bias.unflatten(0, (n_heads, -1))

        W_Q, W_K, W_V = (heads(part) for part in attention.in_proj_weight.chunk(3))
        b_Q, b_K, b_V = (None, None, None)
        if attention.in_proj_bias is not None:
            b_Q, b_K, b_V = (head_bias(part) for part in attention.in_proj_bias.chunk(3))
        W_O = attention.out_proj.weight.mT.unflatten(0, (n_heads, d_model // n_heads))
        norm_1, norm_2 = (Norm.layer(norm.weight, norm.bias, norm.eps) for norm in (layer.norm1, layer.norm2))
        block = FeedForward(
            layer.linear1.weight.mT,
            layer.linear2.weight.mT,
            activations[layer.activation],
            layer.linear1.bias,
            layer.linear2.bias,
        )
        placement = "pre" if layer.norm_first else "post"
        b_O = attention.out_proj.bias
        return LayerWeights(W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O, norm_1, norm_2, block, placement)

    def attention_inputs(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """Return what queries, keys and values are read from: norm_1(x) when pre-norm, else x."""
        return x if self.norm_1 is None or self.placement == "post" else self.norm_1(x)

    def held_attention_inputs(self, x: Float[Tensor, "*batch n d_model"]) -> HeldMap:
        """Return the affine map that equals `attention_inputs` at x, with norm_1's scale held there."""
        return HeldMap.identity(x) if self.norm_1 is None or self.placement == "post" else self.norm_1.held(x)

    def queries(
        self, z: Float[Tensor, "*batch n d_model"], positions: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "*batch n_heads n d"]:
        """W_Q z + b_Q of every head, from `attention_inputs`, turned by `positions` (None for 0 … n − 1)."""
        q = _heads(z, self.W_Q, self.b_Q)
        return q if self.rotary is None else self.rotary(q, positions)

    def keys(self, z: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n_kv_heads n d"]:
        """W_K z + b_K of every key head, from `attention_inputs` of all tokens, turned by their positions."""
        k = _heads(z, self.W_K, self.b_K)
        return k if self.rotary is None else self.rotary(k)

    def values(self, z: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n_kv_heads n d_v"]:
        """W_V z + b_V of every value head, from `attention_inputs`."""
        return _heads(z, self.W_V, self.b_V)

    def after_attention(
        self, x: Float[Tensor, "*batch n d_model"], attended: Float[Tensor, "*batch n d_model"]
    ) -> Float[Tensor, "*batch n d_model"]:
        """Return the rest of the layer: from a token and what attention adds to it, to the layer's output."""
        h = x + attended
        if self.placement == "post" and self.norm_1 is not None:
            h = self.norm_1(h)
        if self.feed_forward is not None:
            z = self.norm_2(h) if self.placement == "pre" and self.norm_2 is not None else h
            h = h + self.feed_forward(z)
        if self.placement == "post" and self.norm_2 is not None:
            h = self.norm_2(h)
        return h

    def held_after_attention(
        self, x: Float[Tensor, "*batch n d_model"], attended: Float[Tensor, "*batch n d_model"]
    ) -> HeldMap:
        """Return the affine map that equals `after_attention` at x + attended, with norms and gates held there."""
        h = x + attended
        held = HeldMap.identity(h)
        if self.placement == "post" and self.norm_1 is not None:
            held, h = self.norm_1.held(h), self.norm_1(h)
        if self.feed_forward is not None:
            if self.placement == "pre" and self.norm_2 is not None:
                block = self.norm_2.held(h).then(self.feed_forward.held(self.norm_2(h)))
            else:
                block = self.feed_forward.held(h)
            h, held = h + block(h), held.then(block.with_residual())
        if self.placement == "post" and self.norm_2 is not None:
            held = held.then(self.norm_2.held(h))
        return held

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Float[Tensor, "*batch n d_model"]:
        """Return the plain layer, written the ordinary way: the reference for the dual.

        Args:
            x: tokens, (..., n, d_model).
            mask: bool, (..., n, n), True where a token (row) may attend to another (column).
        """
        z = self.attention_inputs(x)
        repeats = self.n_heads // self.W_K.shape[0]
        attended = nn.functional.scaled_dot_product_attention(
            self.queries(z),
            self.keys(z).repeat_interleave(repeats, -3),
            self.values(z).repeat_interleave(repeats, -3),
            attn_mask=None if mask is None else mask.unsqueeze(-3),
            scale=self.scale,
        )
        projected = torch.einsum("...hnv,hvm->...nm", attended, self.W_O)
        return self.after_attention(x, projected if self.b_O is None else projected + self.b_O)


def _heads(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    projected = z.unsqueeze(-3) @ weight
    return projected if bias is None else projected + bias.unsqueeze(-2)
