"""Theorem 3.2: bounds on the loss of unseen tokens, three ways, with their constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclens.bounds.sample import Sample, Tokens, weighted_sum
from iclens.dual import DualModel
from iclens.errors import UserError
from iclens.kernels import SignedLog


class Bound(NamedTuple):
    """A bound on L(Ŵ) − L̂(Ŵ), each field (..., n_query).

    Attributes:
        complexity: twice the bound on the empirical Rademacher complexity.
        confidence: what holding with probability 1 − δ costs.
        gap: their sum, the bound itself.
        vacuous: the bound is at least as large as the measured range of the loss, so it says nothing.
    """

    complexity: SignedLog
    confidence: SignedLog
    gap: SignedLog
    vacuous: Bool[Tensor, "*batch n_query"]


@dataclass(frozen=True)
class Bounds:
    """Theorem 3.2 three ways, with everything that went into it; every number (..., n_query), as a logarithm.

    `.value` of a number is the number itself, inf where it leaves the range of the dtype.

    Attributes:
        printed: with the factor d_o as in the paper, ρ bounding values and predictions, w = ‖Ŵ‖_F. The paper's O()
            hides its constants: those used are ours, the same as in the other two.
        frobenius: the ball ‖W‖_F ≤ w: no factor of d_o.
        spectral: the ball ‖W‖₂ ≤ w: a factor √d_o, and w the spectral norm.
        loss: L̂ = −(1/N) Σ_i v_iᵀ Ŵ φ(k_i), the mean over the demonstrations.
        loss_range: 2 max_i |v_iᵀ Ŵ φ(k_i)| over the given tokens.
        trivial: 2 w B, which Cauchy and Schwarz grant without any data.
        w_frobenius: ‖Ŵ‖_F.
        w_spectral: ‖Ŵ‖₂.
        rho_values: max_i ‖v_i‖ over the demonstrations.
        rho_predictions: max_i ‖Ŵ φ(k_i)‖ over the demonstrations.
        trace: Tr K_S = Σ_i k(k_i, k_i) over the demonstrations.
        radius: B = max_i ‖v_i‖ √k(k_i, k_i), the largest |loss| that ‖W‖ = 1 allows.
        n_demonstrations: N, the number of demonstration keys that the query attends to.
        delta: δ.
    """

    printed: Bound
    frobenius: Bound
    spectral: Bound
    loss: SignedLog
    loss_range: SignedLog
    trivial: SignedLog
    w_frobenius: SignedLog
    w_spectral: SignedLog
    rho_values: SignedLog
    rho_predictions: SignedLog
    trace: SignedLog
    radius: SignedLog
    n_demonstrations: Int[Tensor, "*batch n_query"]
    delta: float

    @property
    def by_name(self) -> dict[str, Bound]:
        """The three bounds by their names."""
        return {"printed": self.printed, "frobenius": self.frobenius, "spectral": self.spectral}


class RademacherComplexity(NamedTuple):
    """Empirical Rademacher complexities of the loss over two balls that hold Ŵ, by drawing signs; each (..., n_query).

    Attributes:
        frobenius: (‖Ŵ‖_F/N) E_σ ‖Σ_i σ_i v_i φ(k_i)ᵀ‖_F.
        spectral: (‖Ŵ‖₂/N) E_σ ‖Σ_i σ_i v_i φ(k_i)ᵀ‖_*, with the sum of the singular values.
        relative_error: standard error of the mean over the draws, relative, the larger of the two.
    """

    frobenius: SignedLog
    spectral: SignedLog
    relative_error: Float[Tensor, "*batch n_query"]


def generalization_bounds(
    dual: DualModel,
    delta: float = 0.05,
    *,
    support: tuple[Float[Tensor, "*batch_k n_support d"], Float[Tensor, "*batch_v n_support d_v"]] | None = None,
) -> Bounds:
    """Theorem 3.2 for the trained weights Ŵ of every query.

    With loss ℓ_W(x) = −v_xᵀ W φ(k_x), L = E ℓ_W, L̂ its mean over N demonstrations drawn independently from the
    population, and B = sup_x ‖v_x‖ √k(k_x, k_x): with probability ≥ 1 − δ, for ALL W at once,

        L − L̂ ≤ 2 ‖W‖_F ρ √(Tr K_S)/N + 6 ‖W‖_F B √(log(2/δ)/(2N))             (Frobenius)
        L − L̂ ≤ 2 ‖W‖₂ √d_v ρ √(Tr K_S)/N + 6 ‖W‖₂ B √(log(2/δ)/(2N))          (spectral)

    with ρ = max_i ‖v_i‖. "For all W" holds without fixing w beforehand since the loss is linear in W, so the measured
    norms may be used. B belongs to the population: the given tokens stand in for it unless `support` gives more. The
    printed bound has d_v in place of √d_v, the Frobenius norm, and ρ bounding ‖Ŵ φ(k_i)‖ too.

    A statement for each query: Ŵ, w and the loss carry its 1/D(q), over the demonstration keys it may attend to. A
    query that attends to no demonstration gets inf.

    Source: Ren & Liu 2024, Theorem 3.2; the constants are derived in docs/theory/bound.md.

    Args:
        dual: the dual model.
        delta: δ, in (0, 1).
        support: keys and values of tokens of the population, (..., n, d) and (..., n, d_v), for B.

    Raises:
        UserError: δ outside (0, 1), a support that does not fit, a kernel without feature map (softcapped), or
                training weights.
    """
    _check_delta(delta)
    demonstrations, attended = _rows(dual)
    sample = Tokens(dual.kernel, dual.k, dual.v).measure(attended, demonstrations, demonstrations)
    radius = sample.radius
    if support is not None:
        keys, values = support
        if keys.shape[-1] != dual.k.shape[-1] or values.shape[-1] != dual.v.shape[-1]:
            raise UserError(
                f"support has keys of width {keys.shape[-1]} and values of width {values.shape[-1]}; the dual has "
                f"{dual.k.shape[-1]} and {dual.v.shape[-1]}."
            )
        radius = torch.maximum(radius, Tokens(dual.kernel, keys, values).log_size.amax(-1, keepdim=True))
    return bounds_of(sample, radius, dual.log_normalizer, dual.v.shape[-1], delta)


def rademacher_complexity(
    dual: DualModel, n_draws: int = 200, *, generator: torch.Generator | None = None
) -> RademacherComplexity:
    """Return the complexities that the first terms of the bounds bound, by Monte Carlo over `n_draws` vectors of signs.

    Args:
        dual: the dual model.
        n_draws: number of draws, at least 2.
        generator: of the signs, on the CPU; one seeded with 0 when None.

    Raises:
        UserError: fewer than 2 draws, a kernel without feature map (softcapped), or training weights.
    """
    if n_draws < 2:
        raise UserError(f"n_draws={n_draws} must be at least 2.")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    demonstrations, attended = _rows(dual)
    tokens = Tokens(dual.kernel, dual.k, dual.v)
    sample = tokens.measure(attended, demonstrations, demonstrations)
    weights, factor = tokens.weights(demonstrations)
    signs = torch.randint(0, 2, (n_draws, dual.k.shape[-2]), generator=generator).to(weights) * 2 - 1
    drawn = (weights.unsqueeze(-2) * signs).flatten(-3, -2)
    singular_values = weighted_sum(dual.kernel, dual.k, tokens.directions, drawn).singular_values
    singular_values = singular_values.unflatten(-2, (-1, n_draws))

    def complexity(norms: Tensor, w: Tensor) -> tuple[SignedLog, Tensor]:
        average = norms.mean(-1)
        log_value = average.log() + factor + w - sample.n.log() - dual.log_normalizer
        # Not `std`, which warns of no draws where there are no prompts.
        variance = (norms - average.unsqueeze(-1)).square().sum(-1) / (n_draws - 1)
        error = (variance / n_draws).sqrt() / average
        return SignedLog(torch.where(sample.n > 0, log_value, torch.inf)), error.nan_to_num(0.0)

    frobenius, frobenius_error = complexity(singular_values.norm(dim=-1), sample.frobenius)
    spectral, spectral_error = complexity(singular_values.sum(-1), sample.spectral)
    relative_error = torch.maximum(frobenius_error, spectral_error).expand(dual.log_normalizer.shape)
    return RademacherComplexity(frobenius, spectral, relative_error)


def bounds_of(
    sample: Sample,
    radius: Float[Tensor, "*batch_r n_row"],
    log_normalizer: Float[Tensor, "*batch n_query"],
    d_v: int,
    delta: float,
) -> Bounds:
    """Return the three bounds from what was measured of D·Ŵ."""
    _check_delta(delta)
    log_n = sample.n.log()
    w_frobenius, w_spectral = sample.frobenius - log_normalizer, sample.spectral - log_normalizer
    rho_predictions = sample.prediction_norm - log_normalizer
    loss_range = sample.largest_loss - log_normalizer + math.log(2)
    shared = math.log(2) + sample.trace / 2 - log_n
    confidence = math.log(6) + radius + 0.5 * (math.log(math.log(2 / delta) / 2) - log_n)

    def bound(w: Tensor, rho: Tensor, log_factor: float) -> Bound:
        complexity = torch.where(sample.n > 0, w + rho + shared + log_factor, torch.inf)
        cost = torch.where(sample.n > 0, w + confidence, torch.inf)
        total = torch.logaddexp(complexity, cost)
        return Bound(SignedLog(complexity), SignedLog(cost), SignedLog(total), total >= loss_range)

    def everywhere(log_abs: Tensor) -> SignedLog:
        return SignedLog(log_abs.expand(log_normalizer.shape))

    return Bounds(
        printed=bound(w_frobenius, torch.maximum(sample.value_norm, rho_predictions), math.log(d_v)),
        frobenius=bound(w_frobenius, sample.value_norm, 0.0),
        spectral=bound(w_spectral, sample.value_norm, math.log(d_v) / 2),
        loss=over_normalizer(sample.loss, log_normalizer),
        loss_range=SignedLog(loss_range),
        trivial=SignedLog(math.log(2) + w_frobenius + radius),
        w_frobenius=SignedLog(w_frobenius),
        w_spectral=SignedLog(w_spectral),
        rho_values=everywhere(sample.value_norm),
        rho_predictions=SignedLog(rho_predictions),
        trace=everywhere(sample.trace),
        radius=everywhere(radius),
        n_demonstrations=sample.n.expand(log_normalizer.shape),
        delta=delta,
    )


def _rows(dual: DualModel) -> tuple[Tensor, Tensor]:
    """Demonstration keys and all keys that each query may attend to, (..., n_query or 1, n_key).

    Raises:
        UserError: the dual has training weights.
    """
    refuse_training_weights(dual)
    demonstrations = (dual.groups.ids >= 0).unsqueeze(-2)
    allowed = torch.ones_like(demonstrations) if dual.mask is None else dual.mask
    return demonstrations & allowed, allowed | torch.zeros_like(demonstrations)


def refuse_training_weights(dual: DualModel) -> None:
    """Refuse a dual model with training weights: the theorem is about the plain mean of independent losses.

    Raises:
        UserError: the dual has training weights.
    """
    if dual.training_weights is not None:
        raise UserError(
            "the bounds hold for demonstrations that count once each: this dual model has training weights."
        )


def over_normalizer(value: SignedLog, log_normalizer: Float[Tensor, "*batch n_query"]) -> SignedLog:
    """value / D(q) for every query."""
    log_abs = value.log_abs - log_normalizer
    return SignedLog(log_abs, None if value.sign is None else value.sign.expand(log_abs.shape))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta={delta} must lie strictly between 0 and 1.")
