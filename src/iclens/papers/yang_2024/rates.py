"""What Yang et al. 2024's Theorem 1 says of the speed of training, in numbers, and what no training of w can pass.

C_k = (softmax(Vᵀ Q_h v_k))_h of shape (N, H), B_k = Z̄ C_k, ζ_0 = min_k λ_min(B_k B_kᵀ) at the start. Derivations:
docs/theory/ridge-in-context.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.papers.yang_2024.closed_forms import excess, optimum, z_bar
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.task import Dictionary

_SHARE = 1 - 0.5**0.5
"""Of σ_min(B_k): while it loses no more than this share, ζ stays above ζ_0/2."""


def attention_in_moments(
    dictionary: Dictionary, model: DictionaryModel
) -> Float[Tensor, "runs n_tokens n_prompt n_heads"]:
    """B_k = Z̄ C_k for every k, in the dictionary's precision; heads that a run does not have are columns of zeros."""
    # The softmax too in the dictionary's precision: in float32 its rounding hides a small ζ_0.
    dtype = dictionary.features.dtype
    shown, tokens = model.tokens[:, : dictionary.n_prompt].to(dtype), model.tokens.to(dtype)
    keys = torch.einsum("rnd,rdhe->rnhe", shown, model.Q.detach().to(dtype))
    attention = torch.einsum("rnhe,rke->rknh", keys, tokens).softmax(2)
    attention = attention * model.head_mask.to(dtype).mT[:, None]
    return z_bar(dictionary)[..., None, :, :] @ attention


def zeta(dictionary: Dictionary, model: DictionaryModel) -> Float[Tensor, " runs"]:
    """ζ = min_k λ_min(B_k B_kᵀ), from singular values; exactly 0 with fewer heads than N.

    Assumption A2 of the paper is ζ_0 > 0.
    """
    values = torch.linalg.svdvals(attention_in_moments(dictionary, model))
    if values.shape[-1] < dictionary.n_prompt:
        return values.new_zeros(values.shape[0])
    smallest = values[..., -1].min(-1).values.square()
    enough = torch.tensor([count >= dictionary.n_prompt for count in model.heads], device=values.device)
    return torch.where(enough, smallest, torch.zeros_like(smallest))


def floor(dictionary: Dictionary, model: DictionaryModel, cutoff: float = 1e-13) -> Float[Tensor, " runs"]:
    """Smallest excess L − L* over all w, with every Q_h as it is: 1/(2K) Σ_k min_w ‖B_k w − Z̄ A_{:,k}‖².

    Args:
        dictionary: stacked as the model's runs.
        model: whose Q is kept.
        cutoff: directions with a singular value below this share of the largest count as unreachable. With H ≥ N and
            raw tokens the result depends on it: attention is nearly one-hot, and without a cutoff the floor is 0, at
            sizes of w that no training reaches.
    """
    target = (z_bar(dictionary) @ optimum(dictionary)).mT[..., None]
    left, values, _ = torch.linalg.svd(attention_in_moments(dictionary, model), full_matrices=False)
    reachable = (values > cutoff * values[..., :1]).to(values)[..., None]
    missed = target - left @ (reachable * (left.mT @ target))
    return missed.square().sum((-3, -2, -1)) / (2 * dictionary.n_tokens)


def one_head_floor(dictionary: Dictionary) -> Float[Tensor, " runs"]:
    """Return a lower bound on the excess of a model with one head, whatever its w and Q.

    One softmax times a number has entries of one sign: 1/(2K) Σ_k min_{a ≥ 0 or a ≤ 0} ‖Z̄ (a − A_{:,k})‖², by
    non-negative least squares. Derived; it is not attained in general, because all k share one Q.
    """
    from scipy.optimize import nnls

    found = []
    for run in range(dictionary.tokens.shape[0]):
        one = dictionary[run]
        matrix, target = z_bar(one).cpu().numpy(), (z_bar(one) @ optimum(one)).mT.cpu().numpy()
        total = sum(min(nnls(matrix, column)[1], nnls(matrix, -column)[1]) ** 2 for column in target)
        found.append(total / (2 * one.n_tokens))
    return torch.tensor(found, dtype=dictionary.features.dtype, device=dictionary.features.device)


def lazy_excess(
    dictionary: Dictionary, model: DictionaryModel, eta_w: Float[Tensor, " runs"], steps: int
) -> Float[Tensor, " runs"]:
    """Excess after `steps` of gradient descent on w alone from w = 0, by the spectrum of every B_k B_kᵀ.

    1/(2K) Σ_k Σ_i (1 − η_w σ_{k,i}²/K)^{2t} ⟨u_{k,i}, Z̄ A_{:,k}⟩²: what training of both tends to as γ grows with
    η_w = γ² η_Q fixed.
    """
    target = (z_bar(dictionary) @ optimum(dictionary)).mT[..., None]
    moments = attention_in_moments(dictionary, model)
    values, vectors = torch.linalg.eigh(moments @ moments.mT)
    kept = (1 - eta_w[:, None, None] * values / dictionary.n_tokens) ** (2 * steps)
    return (kept * (vectors.mT @ target)[..., 0].square()).sum((-2, -1)) / (2 * dictionary.n_tokens)


@dataclass(frozen=True)
class Rate:
    """Theorem 1 for gradient descent with rates η_Q and γ² η_Q from this start.

    Attributes:
        zeta: ζ_0.
        learning_rate: η_Q.
        gamma: γ.
        factor: 1 − η_Q γ² ζ_0/(2K), which bounds excess(t + 1)/excess(t) for all t, where γ is at least `threshold`
            and η_Q at most 1/smoothness. Derived; the constants may differ from the paper's.
        lazy_factor: (1 − η_Q γ² ζ_0/K)², to which that ratio tends as γ grows, η_Q γ² fixed: Q then stands still.
        threshold: γ from which the bound is guaranteed: 2 ‖Z̄‖ ‖V‖ max_k ‖v_k‖ √(K Δ) / ((1 − 1/√2) ζ_0) with Δ the
            excess at the start. Derived, sufficient, far from necessary.
    """

    zeta: Float[Tensor, " runs"]
    learning_rate: Float[Tensor, " runs"]
    gamma: float
    factor: Float[Tensor, " runs"]
    lazy_factor: Float[Tensor, " runs"]
    threshold: Float[Tensor, " runs"]


def rate(dictionary: Dictionary, model: DictionaryModel, gamma: float, share: float = 0.5) -> Rate:
    """Theorem 1's constants at the model's present parameters.

    Args:
        dictionary: stacked as the model's runs.
        model: at its start.
        gamma: γ.
        share: η_Q γ² as a share of K/max_k ‖B_k‖², the inverse smoothness in w. With large γ the other directions add
            little to the smoothness; half of it leaves room for them.
    """
    stretch = torch.linalg.matrix_norm(attention_in_moments(dictionary, model), 2).square().amax(-1)
    smallest, n_tokens = zeta(dictionary, model), dictionary.n_tokens
    learning_rate = share * n_tokens / (stretch * gamma**2)
    per_step = learning_rate * gamma**2 * smallest / n_tokens
    start = excess(dictionary, model.weights(dictionary.n_prompt).detach().to(stretch))
    size = torch.linalg.matrix_norm(z_bar(dictionary), 2) * torch.linalg.matrix_norm(dictionary.shown, 2)
    size = size * dictionary.tokens.norm(dim=-1).amax(-1)
    threshold = 2 * size * (n_tokens * start).sqrt() / (_SHARE * smallest)
    return Rate(smallest, learning_rate, gamma, 1 - per_step / 2, (1 - per_step).square(), threshold)
