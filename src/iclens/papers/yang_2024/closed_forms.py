"""What can be reached on the dictionary task, in closed form: Yang et al. 2024, Lemma 5 and Theorem 2.

Predictions linear in the prompt's labels are ŷ = Âᵀ y_{1:N} with Â of shape (N, K). Columns of Z and Z̃ are the features
of the first N and of all K tokens; leading axes of runs are free.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.papers.yang_2024.task import Dictionary


def shown_moment(dictionary: Dictionary) -> Float[Tensor, "*runs n_prompt n_prompt"]:
    """Z̄² = ZᵀZ + mτ I_N, the second moment of the labels in a prompt."""
    shown = dictionary.features[..., : dictionary.n_prompt, :]
    return shown @ shown.mT + _identity(dictionary) * dictionary.n_features * dictionary.tau


def z_bar(dictionary: Dictionary) -> Float[Tensor, "*runs n_prompt n_prompt"]:
    """Z̄, the symmetric square root of `shown_moment`."""
    values, vectors = torch.linalg.eigh(shown_moment(dictionary))
    return vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mT


def optimum(dictionary: Dictionary) -> Float[Tensor, "*runs n_prompt n_tokens"]:
    """Return a = (ZᵀZ + mτ I)⁻¹ (ZᵀZ̃ + (mτ I_N, 0)): the best Â in the population, and what training tends to.

    Its first N columns are those of the identity (labels are copied); the others are ridge regression over the features
    with strength mτ, λ̂ = (ZZᵀ + mτ I)⁻¹ Z y. Both are computed as such: the copies are exact.

    Raises:
        UserError: τ = 0 with N > m, where Z̄ has no inverse.
    """
    return _copy_and_ridge(dictionary, dictionary.n_features * dictionary.tau)


def best_possible(dictionary: Dictionary) -> Float[Tensor, "*runs n_prompt n_tokens"]:
    """Return the paper's ŷ^best as a matrix: as `optimum`, with strength Nτ, λ̂_τ = (ZZᵀ + Nτ I)⁻¹ Z y.

    The two agree where N = m. `optimum` regularises more where N < m and less where N > m.

    Raises:
        UserError: τ = 0 with N > m.
    """
    return _copy_and_ridge(dictionary, dictionary.n_prompt * dictionary.tau)


def smallest_loss(dictionary: Dictionary) -> Float[Tensor, "*runs"]:
    """L* = 1/(2K) Σ_{k>N} (‖z_k‖² + mτ − z_kᵀ Z (ZᵀZ + mτ I)⁻¹ Zᵀ z_k): Lemma 5."""
    n, unseen = dictionary.n_prompt, dictionary.features[..., dictionary.n_prompt :, :]
    noise = dictionary.n_features * dictionary.tau
    cross = dictionary.features[..., :n, :] @ unseen.mT
    explained = (cross * optimum(dictionary)[..., n:]).sum((-2, -1))
    total = unseen.square().sum((-2, -1)) + (dictionary.n_tokens - n) * noise
    return (total - explained) / (2 * dictionary.n_tokens)


def excess(dictionary: Dictionary, a_hat: Float[Tensor, "*runs n_prompt n_tokens"]) -> Float[Tensor, "*runs"]:
    """L(Â) − L* = 1/(2K) Σ_k ‖Z̄ (Â_{:,k} − A_{:,k})‖²: Lemma 5, at least 0 and without cancellation."""
    difference = a_hat - optimum(dictionary)
    return (difference * (shown_moment(dictionary) @ difference)).sum((-2, -1)) / (2 * dictionary.n_tokens)


def population_loss(
    dictionary: Dictionary, a_hat: Float[Tensor, "*runs n_prompt n_tokens"], *, shifted: bool = False
) -> Float[Tensor, "*runs"]:
    """L(Â) = 1/(2K) Σ_k E(ŷ_k − y_k)², from the second moments of the labels alone."""
    return prediction_gap(dictionary, a_hat, _target(dictionary), shifted=shifted) / 2


def prediction_gap(
    dictionary: Dictionary,
    first: Float[Tensor, "*runs rows n_tokens"],
    second: Float[Tensor, "*runs rows2 n_tokens"],
    *,
    shifted: bool = False,
) -> Float[Tensor, "*runs"]:
    """E (1/K) ‖Â₁ᵀ y − Â₂ᵀ y‖² over prompts.

    Args:
        dictionary: the task.
        first: Â₁ with N rows, which see y_{1:N}, or with K rows, which see all labels.
        second: Â₂, likewise.
        shifted: λ ~ N(**1**, 4 I) in place of N(0, I).
    """
    difference = _all_rows(dictionary, first) - _all_rows(dictionary, second)
    moment = dictionary.second_moment(shifted=shifted).to(difference)
    return (difference * (moment @ difference)).sum((-2, -1)) / dictionary.n_tokens


def _copy_and_ridge(dictionary: Dictionary, strength: float) -> Tensor:
    n, features = dictionary.n_prompt, dictionary.features
    shown, unseen = features[..., :n, :], features[..., n:, :]
    identity = _identity(dictionary)
    try:
        # The smaller of the two equal systems: (ZᵀZ + s I_N)⁻¹ Zᵀ = Zᵀ (ZZᵀ + s I_m)⁻¹.
        if n <= dictionary.n_features:
            ridge = torch.linalg.solve(shown @ shown.mT + strength * identity, shown @ unseen.mT)
        elif strength > 0:
            narrow = torch.eye(dictionary.n_features, dtype=features.dtype, device=features.device)
            ridge = shown @ torch.linalg.solve(shown.mT @ shown + strength * narrow, unseen.mT)
        else:
            raise UserError(
                f"tau=0 with n_prompt={n} above the {dictionary.n_features} features leaves infinitely many optima: "
                "choose tau above 0."
            )
    except RuntimeError as error:  # torch's LinAlgError is one
        raise UserError("the features of the prompt's tokens are linearly dependent: choose tau above 0.") from error
    return torch.cat([identity.expand(*ridge.shape[:-2], n, n), ridge], dim=-1)


def _identity(dictionary: Dictionary) -> Tensor:
    return torch.eye(dictionary.n_prompt, dtype=dictionary.features.dtype, device=dictionary.features.device)


def _target(dictionary: Dictionary) -> Tensor:
    """Return the matrix that answers every label with itself."""
    features, size = dictionary.features, dictionary.n_tokens
    identity = torch.eye(size, dtype=features.dtype, device=features.device)
    return identity.expand(*features.shape[:-2], size, size)


def _all_rows(dictionary: Dictionary, matrix: Tensor) -> Tensor:
    missing = dictionary.n_tokens - matrix.shape[-2]
    return torch.cat([matrix, matrix.new_zeros(*matrix.shape[:-2], missing, matrix.shape[-1])], dim=-2)
