"""Beyond one head: layers, stacks, causal attention and linear attention as gradient descent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from iclens.dual import (
    DualModel,
    HeadsDual,
    LayerDual,
    LayerWeights,
    StackDual,
    StackWeights,
    gd_plus_plus,
    gradient_descent,
    one_step_head,
    online_attention,
    weight_update_as_attention,
)
from iclens.features import PositiveRandomFeatures
from iclens.identities.checks import Setting, identity, relative, worst

_TOKENS, _DEMONSTRATIONS, _WIDTH = 14, 9, 16


def _layers(setting: Setting) -> Iterator[tuple[LayerWeights, Tensor, Tensor]]:
    """Layers of every kind with tokens and a causal or full mask."""
    generator = setting.generator()
    norms: tuple[Literal["layer", "rms"], ...] = ("layer", "rms")
    placements: tuple[Literal["pre", "post"], ...] = ("pre", "post")
    kinds = itertools.product(("relu", "gelu", "gelu-tanh", "silu"), (False, True), norms, placements)
    for activation, gated, norm, placement in kinds:
        yield (
            _weights(setting, generator, activation, gated, norm, placement),
            setting.randn(generator, 2, _TOKENS, _WIDTH),
            _mask(setting, causal=not gated),
        )


def _weights(
    setting: Setting,
    generator: torch.Generator,
    activation: str = "gelu",
    gated: bool = False,
    norm: Literal["layer", "rms"] = "layer",
    placement: Literal["pre", "post"] = "pre",
) -> LayerWeights:
    return LayerWeights.random(
        generator, _WIDTH, 4, n_kv_heads=2, d_ff=24, activation=activation, gated=gated, norm=norm,
        placement=placement, bias=True, dtype=setting.dtype,
    )  # fmt: skip


def _mask(setting: Setting, causal: bool) -> Tensor:
    mask = torch.ones(_TOKENS, _TOKENS, dtype=torch.bool, device=setting.device)
    return mask.tril() if causal else mask


@identity(
    "heads",
    statement="multi-head attention with W_O = a sum of independent duals, W_O absorbed in the values",
    source="derived (docs/theory/transformer-layer.md)",
    tolerance_single=1e-5,
)
def heads(setting: Setting) -> float:
    """Grouped queries, causal mask."""
    generator = setting.generator()
    q = setting.randn(generator, 2, 4, _TOKENS, 8)
    k, v = (setting.randn(generator, 2, 2, _TOKENS, 8) for _ in range(2))
    W_O = setting.randn(generator, 4, 8, _WIDTH)
    mask = _mask(setting, causal=True)
    dual = HeadsDual.from_attention(q, k, v, W_O, _DEMONSTRATIONS, mask)
    per_head = scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    expected = torch.einsum("bhnv,hvm->bnm", per_head, W_O)
    return worst(
        relative(found, expected)
        for found in (dual.initial() + dual.contributions().sum(-2), dual.absorbed.predict().sum(-3))
    )


@identity(
    "feed-forward",
    statement="FFN(z) = W_F z + b_F with the gates σ(u)/u held at z; gated: act(gate) held",
    source="Ren & Liu 2024, Fig. 4 (ReLU); others derived (docs/theory/transformer-layer.md)",
    tolerance_single=1e-5,
)
def feed_forward(setting: Setting) -> Iterator[float]:
    """ReLU, GELU, tanh-GELU, SiLU, each plain and gated."""
    for weights, x, _ in _layers(setting):
        block = weights.feed_forward
        assert block is not None
        yield relative(block.held(x)(x), block(x))


@identity(
    "transformer-layer",
    statement="a Transformer layer = an untrained offset + W_0's part + the demonstrations' contributions",
    source="Ren & Liu 2024, Fig. 4; derived (docs/theory/transformer-layer.md)",
    tolerance_single=1e-5,
)
def transformer_layer(setting: Setting) -> Iterator[float]:
    """Every activation, gated or not, LayerNorm and RMSNorm, before and after."""
    for weights, x, mask in _layers(setting):
        dual = LayerDual.from_layer(weights, x, _DEMONSTRATIONS, mask=mask)
        found = dual.offset() + dual.initial() + dual.contributions().sum(-2)
        yield relative(found, weights.forward(x, mask))


@identity(
    "torch-layer",
    statement="the same for PyTorch's own TransformerEncoderLayer",
    source="Ren & Liu 2024, Fig. 4; derived (docs/theory/transformer-layer.md)",
    tolerance_single=1e-5,
)
def torch_layer(setting: Setting) -> Iterator[float]:
    """ReLU and GELU, norm first and last."""
    generator = setting.generator()
    x = setting.randn(generator, 2, _TOKENS, _WIDTH)
    mask = _mask(setting, causal=True)
    for activation, norm_first in itertools.product(("relu", "gelu"), (False, True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed)
            encoder = nn.TransformerEncoderLayer(
                _WIDTH, 4, 24, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first,
                dtype=setting.dtype, device=setting.device,
            ).eval()  # fmt: skip
        with torch.no_grad():
            expected = encoder(x, src_mask=~mask)
            dual = LayerDual.from_layer(LayerWeights.from_encoder_layer(encoder), x, _DEMONSTRATIONS, mask=mask)
            yield relative(dual.offset() + dual.initial() + dual.contributions().sum(-2), expected)


def _stack(setting: Setting) -> tuple[StackDual, Tensor, Tensor]:
    generator = setting.generator()
    layers = tuple(_weights(setting, generator, activation) for activation in ("relu", "gelu", "silu"))
    x, mask = setting.randn(generator, 2, _TOKENS, _WIDTH), _mask(setting, causal=True)
    return StackDual.from_stack(StackWeights(layers), x, _DEMONSTRATIONS, mask), x, mask


@identity(
    "stack",
    statement="a stack of layers = a sequence of dual models",
    source="Ren & Liu 2024, Fig. 5; derived (docs/theory/stack.md)",
    tolerance_single=1e-5,
)
def stack(setting: Setting) -> float:
    """Three layers, causal."""
    dual, x, mask = _stack(setting)
    return relative(dual.predict(), dual.weights.forward(x, mask))


@identity(
    "path",
    statement="with attention, norms and gates held, the embeddings' paths sum to the stack's output",
    source="derived (docs/theory/stack.md)",
    tolerance_single=1e-5,
)
def path(setting: Setting) -> float:
    """At the last token of a three-layer stack."""
    dual, x, mask = _stack(setting)
    last = torch.tensor([_TOKENS - 1], device=setting.device)
    paths = dual.paths(last)
    return relative(
        paths.contributions.sum(-2) + paths.initial + paths.offset, dual.weights.forward(x, mask)[..., -1:, :]
    )


@identity(
    "online",
    statement="causal attention = online gradient descent U_t = U_{t−1} + v_t φ(k_t)ᵀ, h_t = U_t φ(q_t)/D_t",
    source="derived (docs/theory/online.md)",
    tolerance=1e-9,
)
def online(setting: Setting) -> float:
    """Mercer features in one basis, moderate scores."""
    generator = setting.generator()
    q, k, v = (setting.randn(generator, 2, _TOKENS, 4) for _ in range(3))
    return relative(online_attention(q, k, v).outputs, scaled_dot_product_attention(q, k, v, is_causal=True))


@identity(
    "online-in-pieces",
    statement="online gradient descent may stop and go on: two pieces = the whole",
    source="derived (docs/theory/online.md)",
    tolerance_single=1e-5,
)
def online_in_pieces(setting: Setting) -> float:
    """Positive random features, cut in the middle."""
    generator = setting.generator()
    q, k, v = (setting.randn(generator, 2, _TOKENS, 4) for _ in range(3))
    features = PositiveRandomFeatures(32, seed=setting.seed)
    cut = _TOKENS // 2
    first = online_attention(q[:, :cut], k[:, :cut], v[:, :cut], features)
    second = online_attention(q[:, cut:], k[:, cut:], v[:, cut:], features, state=first.state)
    return relative(torch.cat([first.outputs, second.outputs], -2), online_attention(q, k, v, features).outputs)


@identity(
    "von-oswald",
    statement="one linear head = one gradient step on (1/2N)Σ‖W x_i − y_i‖²; k of them = k steps",
    source="von Oswald et al. 2023, Proposition 1",
    tolerance=1e-11,
    tolerance_single=1e-4,
)
def von_oswald(setting: Setting) -> float:
    """One and four steps, against autograd."""
    generator = setting.generator()
    x, y, W_0 = (setting.randn(generator, *shape) for shape in ((10, 5), (10, 2), (2, 5)))
    x_test = setting.randn(generator, 7, 5)
    head = one_step_head(x, y, W_0, 0.3)
    return worst(
        relative(head.predict(x_test, steps), x_test @ gradient_descent(x, y, W_0, 0.3, steps).mT) for steps in (1, 4)
    )


@identity(
    "gd-plus-plus",
    statement="GD++: the same head with one more block moves the inputs, x ← (I − γXXᵀ)x",
    source="von Oswald et al. 2023",
    tolerance_single=1e-5,
)
def gd_plus_plus_identity(setting: Setting) -> float:
    """Against the closed form."""
    generator = setting.generator()
    x, y, W_0 = (setting.randn(generator, *shape) for shape in ((10, 5), (10, 2), (2, 5)))
    return relative(one_step_head(x, y, W_0, 0.3, 0.02).update()[..., :5], gd_plus_plus(x, 0.02))


@identity(
    "dai",
    statement="(W_0 + Σ e_i ⊗ x'_i) x = W_0 x + LinAttn(E, X', x)",
    source="Dai et al. 2023",
    tolerance_single=1e-5,
)
def dai(setting: Setting) -> float:
    """Return a linear layer's update against linear attention over its errors."""
    generator = setting.generator()
    W_0, errors, inputs, xs = (setting.randn(generator, *shape) for shape in ((3, 5), (10, 3), (10, 5), (7, 5)))
    both = [weight_update_as_attention(W_0, errors, inputs, x) for x in xs]
    return worst(relative(one.attended, one.updated) for one in both)


@identity(
    "linear-dual",
    statement="linear attention = the dual model with φ = identity and D = 1",
    source="derived (docs/theory/dual-model.md)",
    tolerance_single=1e-5,
)
def linear_dual(setting: Setting) -> float:
    """Against the product of scores and values."""
    generator = setting.generator()
    q, k, v = (setting.randn(generator, 2, _TOKENS, 4) for _ in range(3))
    dual = DualModel.from_attention(q, k, v, _DEMONSTRATIONS, kernel="linear")
    return relative(dual.initial() + dual.contributions().sum(-2), (q @ k.mT) @ v)
