"""A dual model measured on tokens: norms, traces and losses, in log space and from Gram matrices alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.features.correlation import correlation
from iclens.kernels import Kernel, SignedLog

BLOCK_ELEMENTS = 2**22
"""Most numbers held at once in one block (32 MiB in float64)."""


@dataclass(frozen=True)
class WeightedSum:
    """A = Σ_i a_i u_i φ̂_iᵀ with unit u_i and φ̂_i, for every row of weights a.

    Attributes:
        moment: A Aᵀ, (..., n_row, d_v, d_v): its trace is ‖A‖²_F, its eigenvalues are A's squared singular values.
        fitted_norm: ‖A φ̂_i‖ at every token, (..., n_row, n_key).
        fitted_target: u_iᵀ A φ̂_i at every token, (..., n_row, n_key).
    """

    moment: Float[Tensor, "*batch n_row d_v d_v"]
    fitted_norm: Float[Tensor, "*batch n_row n_key"]
    fitted_target: Float[Tensor, "*batch n_row n_key"]

    @property
    def singular_values(self) -> Float[Tensor, "*batch n_row d_v"]:
        """Singular values of A, ascending."""
        return torch.linalg.eigvalsh((self.moment + self.moment.mT) / 2).clamp_min(0).sqrt()

    @property
    def frobenius(self) -> Float[Tensor, "*batch n_row"]:
        """‖A‖_F."""
        return self.moment.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()


def weighted_sum(
    kernel: Kernel,
    k: Float[Tensor, "*batch n_key d"],
    directions: Float[Tensor, "*batch_v n_key d_v"],
    weights: Float[Tensor, "*batch_w n_row n_key"],
    block_elements: int = BLOCK_ELEMENTS,
) -> WeightedSum:
    """A = Σ_i weights_i directions_i φ(k_i)ᵀ/‖φ(k_i)‖ through its Gram matrix, a block of rows and keys at a time.

    Time O(n_row · n_key² · d_v); `block_elements` is the most numbers in a block.
    """
    leading = torch.broadcast_shapes(k.shape[:-2], directions.shape[:-2], weights.shape[:-2]).numel()
    n_key, d_v = directions.shape[-2:]
    leading = max(1, leading)
    rows = max(1, block_elements // (leading * n_key * d_v))
    parts = []
    for chunk in weights.split(rows, -2):
        block = max(1, block_elements // (leading * max(n_key, chunk.shape[-2] * d_v)))
        # (..., row, key, d_v): what each row is trained on.
        weighted = chunk.unsqueeze(-1) * directions.unsqueeze(-3)
        moment, norms, targets = k.new_zeros(()), [], []
        for start in range(0, n_key, block):
            keys = slice(start, start + block)
            fitted = correlation(kernel, k[..., keys, :], k).unsqueeze(-3) @ weighted
            moment = moment + weighted[..., keys, :].mT @ fitted
            norms.append(fitted.norm(dim=-1))
            targets.append((fitted * directions[..., None, keys, :]).sum(-1))
        parts.append((moment, torch.cat(norms, -1), torch.cat(targets, -1)))
    moments, all_norms, all_targets = zip(*parts, strict=True)
    return WeightedSum(torch.cat(moments, -3), torch.cat(all_norms, -2), torch.cat(all_targets, -2))


@dataclass(frozen=True)
class Sample:
    """What the bounds need to know of D·Ŵ = Σ_{trained on} v_j φ(k_j)ᵀ and of the tokens it is judged by.

    Every field is (..., n_row) and, except for `n`, a logarithm. ℓ_i = −v_iᵀ (D·Ŵ) φ(k_i) is the loss of token i.

    Attributes:
        n: size N of the sample.
        frobenius: ‖D·Ŵ‖_F.
        spectral: ‖D·Ŵ‖₂.
        value_norm: max_i ‖v_i‖ over the sample.
        prediction_norm: max_i ‖D·Ŵφ(k_i)‖ over the sample.
        trace: Tr K_S = Σ_i k(k_i, k_i) over the sample.
        radius: max_i ‖v_i‖ √k(k_i, k_i) over the support.
        largest_loss: max_i |ℓ_i| over the support.
        loss: mean of ℓ_i over the sample.
        held_out_loss: mean of ℓ_i over the support outside the sample; zero when there is nothing outside.
    """

    n: Int[Tensor, "*batch n_row"]
    frobenius: Float[Tensor, "*batch n_row"]
    spectral: Float[Tensor, "*batch n_row"]
    value_norm: Float[Tensor, "*batch n_row"]
    prediction_norm: Float[Tensor, "*batch n_row"]
    trace: Float[Tensor, "*batch n_row"]
    radius: Float[Tensor, "*batch n_row"]
    largest_loss: Float[Tensor, "*batch n_row"]
    loss: SignedLog
    held_out_loss: SignedLog


class Tokens:
    """Keys and values split into directions and logarithms of lengths, so that no exponential leaves the range.

    Attributes:
        kernel: k(x, y).
        k: keys, (..., n_key, d).
        directions: v_i/‖v_i‖, zero where v_i is, (..., n_key, d_v).
        log_value: log ‖v_i‖, (..., n_key).
        log_feature: log ‖φ(k_i)‖ = ½ log k(k_i, k_i), (..., n_key).
    """

    def __init__(self, kernel: Kernel, k: Tensor, v: Tensor) -> None:
        self.kernel = kernel
        self.k = k
        # Two steps, so that the squares of tiny or huge values neither vanish nor overflow.
        largest = v.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        length = (v / largest).norm(dim=-1, keepdim=True)
        self.directions = torch.where(length > 0, v / largest / length, 0.0)
        self.log_value = (length.log() + largest.log()).squeeze(-1)
        self.log_feature = kernel.log_diagonal(k) / 2

    @property
    def log_size(self) -> Tensor:
        """log ‖v_i‖ ‖φ(k_i)‖, (..., n_key)."""
        return self.log_value + self.log_feature

    def weights(self, chosen: Bool[Tensor, "*batch n_row n_key"]) -> tuple[Tensor, Tensor]:
        """‖v_i‖ ‖φ(k_i)‖ over the chosen tokens as (values in [0, 1], logarithm of their common factor)."""
        sizes = torch.where(chosen, self.log_size.unsqueeze(-2), -torch.inf)
        largest = sizes.amax(-1, keepdim=True)
        largest = torch.where(largest == -torch.inf, 0.0, largest)
        return (sizes - largest).exp(), largest.squeeze(-1)

    def measure(
        self,
        trained_on: Bool[Tensor, "*batch_t n_row n_key"],
        sample: Bool[Tensor, "*batch_s n_row n_key"],
        support: Bool[Tensor, "*batch_p n_row n_key"],
    ) -> Sample:
        """Measure D·Ŵ, trained on some tokens, on a sample of the tokens of a support."""
        shape = torch.broadcast_shapes(trained_on.shape, sample.shape, support.shape, self.log_size.unsqueeze(-2).shape)
        trained_on, sample, support = (chosen.expand(shape) for chosen in (trained_on, sample, support))
        weights, factor = self.weights(trained_on)
        total = weighted_sum(self.kernel, self.k, self.directions, weights)
        size = self.log_size.unsqueeze(-2)
        losses = SignedLog(size + factor.unsqueeze(-1) + total.fitted_target.abs().log(), -total.fitted_target.sign())
        fitted = self.log_feature.unsqueeze(-2) + factor.unsqueeze(-1) + total.fitted_norm.log()

        def largest(values: Tensor, among: Tensor) -> Tensor:
            return torch.where(among, values, -torch.inf).amax(-1)

        return Sample(
            n=sample.sum(-1),
            frobenius=total.frobenius.log() + factor,
            spectral=total.singular_values[..., -1].log() + factor,
            value_norm=largest(self.log_value.unsqueeze(-2), sample),
            prediction_norm=largest(fitted, sample),
            trace=torch.where(sample, 2 * self.log_feature.unsqueeze(-2), -torch.inf).logsumexp(-1),
            radius=largest(size, support),
            largest_loss=largest(losses.log_abs, support),
            loss=mean(losses, sample),
            held_out_loss=mean(losses, support & ~sample),
        )


def mean(values: SignedLog, among: Bool[Tensor, "*batch n_row n"]) -> SignedLog:
    """Mean over the last axis of the chosen entries; zero where none is chosen."""
    log_abs = torch.where(among, values.log_abs, -torch.inf)
    largest = log_abs.amax(-1, keepdim=True)
    largest = torch.where(largest == -torch.inf, 0.0, largest)
    scaled = (log_abs - largest).exp() if values.sign is None else (log_abs - largest).exp() * values.sign
    total = scaled.sum(-1) / among.sum(-1).clamp_min(1)
    return SignedLog(total.abs().log() + largest.squeeze(-1), total.sign())


def difference(left: SignedLog, right: SignedLog) -> SignedLog:
    """left − right."""
    largest = torch.maximum(left.log_abs, right.log_abs)
    largest = torch.where(largest == -torch.inf, 0.0, largest)
    values = SignedLog(left.log_abs - largest, left.sign).value - SignedLog(right.log_abs - largest, right.sign).value
    return SignedLog(values.abs().log() + largest, values.sign())
