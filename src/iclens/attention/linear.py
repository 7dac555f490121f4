"""Linear attention: identity features without a normaliser, or elu + 1 with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.attention.attending import Attending, repeat_heads
from iclens.attention.shapes import Keys, Mask, Outputs, Queries, Values
from iclens.attention.variant import ATTENTIONS, AttentionVariant, HeadShape
from iclens.errors import UserError
from iclens.kernels import Kernel, LinearKernel, SignedLog

_CHUNK = 128


def linear_attention(
    q: Queries,
    k: Keys,
    v: Values,
    mask: Mask = None,
    *,
    features: str = "identity",
    scale: float | None = None,
    is_causal: bool = False,
) -> Outputs:
    """h_t = (1/D_t) Σ_i φ(q_t)ᵀφ(k_i) v_i.

    `identity`: φ(x) = √s x and D = 1 (the dual model with φ = identity). `elu`: φ(x) = elu(√s x) + 1 and D_t =
    Σ_i φ(q_t)ᵀφ(k_i) (Katharopoulos et al. 2020). Without a mask time and memory are linear in the tokens; a mask costs
    time n_query · n_key, a block of queries at a time.

    Args:
        q: queries, (..., n_heads, n_query, d).
        k: keys, (..., n_kv_heads, n_key, d).
        v: values, (..., n_kv_heads, n_key, d_v).
        mask: True where a query may attend.
        features: `"identity"` or `"elu"`.
        scale: s, positive; 1 when None.
        is_causal: the queries are the last tokens and see no later key.

    Raises:
        UserError: arguments that do not fit.
    """
    return _fast(q, k, v, Attending.of(q, k, v, mask, scale=scale, is_causal=is_causal), features)


def _phi(x: Tensor, features: str, scale: float | None) -> Tensor:
    x = x * (1.0 if scale is None else scale) ** 0.5
    if features == "identity":
        return x
    if features == "elu":
        return torch.nn.functional.elu(x) + 1
    raise UserError(f"unknown features {features!r} of linear attention. Known: identity, elu.")


def _fast(q: Tensor, k: Tensor, v: Tensor, attending: Attending, features: str) -> Tensor:
    phi_q = _phi(q, features, attending.scale)
    phi_k = repeat_heads(_phi(k, features, attending.scale), attending.n_heads)
    values = repeat_heads(v, attending.n_heads)
    if features == "elu":
        # The normaliser is one more value, equal to 1 for every key.
        values = torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1)
    if attending.mask is not None:
        out = _masked(phi_q, phi_k, values, attending)
    elif attending.is_causal:
        out = _causal(phi_q, phi_k, values, attending.first_position)
    else:
        out = phi_q @ (phi_k.mT @ values)
    if features == "identity":
        return out
    normalizer = out[..., -1:]
    return out[..., :-1] / torch.where(normalizer > 0, normalizer, 1)


def _masked(phi_q: Tensor, phi_k: Tensor, values: Tensor, attending: Attending) -> Tensor:
    blocks = []
    for start in range(0, attending.n_query, _CHUNK):
        stop = min(start + _CHUNK, attending.n_query)
        rows = attending.rows(start, stop, attending.n_key, phi_q.device)
        coefficients = phi_q[..., start:stop, :] @ phi_k.mT
        blocks.append((coefficients if rows is None else coefficients * rows) @ values)
    return torch.cat(blocks, -2)


def _causal(phi_q: Tensor, phi_k: Tensor, values: Tensor, first_position: int) -> Tensor:
    state = phi_k[..., :first_position, :].mT @ values[..., :first_position, :]
    blocks = []
    for start in range(0, phi_q.shape[-2], _CHUNK):
        q = phi_q[..., start : start + _CHUNK, :]
        rows = slice(first_position + start, first_position + start + q.shape[-2])
        k, v = phi_k[..., rows, :], values[..., rows, :]
        blocks.append(q @ state + (q @ k.mT).tril() @ v)
        state = state + k.mT @ v
    return torch.cat(blocks, -2)


def _naive(q: Tensor, k: Tensor, v: Tensor, attending: Attending, features: str) -> Tensor:
    coefficients = _phi(q, features, attending.scale) @ repeat_heads(_phi(k, features, attending.scale), q.shape[-3]).mT
    allowed = attending.allowed(q.device)
    if allowed is not None:
        coefficients = coefficients * allowed
    if features == "elu":
        total = coefficients.sum(-1, keepdim=True)
        coefficients = coefficients / torch.where(total > 0, total, 1)
    return coefficients @ repeat_heads(v, q.shape[-3])


@dataclass(frozen=True)
class EluKernel(Kernel):
    """k(x, y) = φ(x)ᵀφ(y) with φ(x) = elu(√s x) + 1, positive, so that attention with it can be normalised.

    Attributes:
        scale: s, positive.
    """

    scale: float = 1.0
    normalizes = True

    def log(self, x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch_y m d"]) -> SignedLog:  # noqa: D102
        return SignedLog((_phi(x, "elu", self.scale) @ _phi(y, "elu", self.scale).mT).log())

    def log_diagonal(self, x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n"]:  # noqa: D102
        return _phi(x, "elu", self.scale).square().sum(-1).log()


@ATTENTIONS.register("linear")
class LinearAttention(AttentionVariant):
    """`linear_attention` as a module.

    Args:
        shape: sizes of the heads.
        features: `identity` or `elu`.

    Raises:
        UserError: unknown features.
    """

    def __init__(self, shape: HeadShape, *, features: str = "identity") -> None:
        super().__init__(shape)
        _phi(torch.zeros(1), features, None)
        self.features = features

    def options(self) -> dict[str, Any]:  # noqa: D102
        return {"features": self.features}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _fast(q, k, v, attending, self.features)

    def naive(self, q: Tensor, k: Tensor, v: Tensor, attending: Attending) -> Tensor:  # noqa: D102
        return _naive(q, k, v, attending, self.features)

    def kernel(self, attending: Attending, d: int) -> Kernel:  # noqa: D102
        scale = 1.0 if attending.scale is None else attending.scale
        return LinearKernel(scale) if self.features == "identity" else EluKernel(scale)
