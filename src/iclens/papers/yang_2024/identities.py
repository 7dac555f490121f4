"""The dictionary task in closed form: Yang et al. 2024, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from iclens.identities.checks import Setting, identity, relative, worst
from iclens.papers.yang_2024.closed_forms import (
    best_possible,
    excess,
    optimum,
    population_loss,
    prediction_gap,
    shown_moment,
    smallest_loss,
)
from iclens.papers.yang_2024.gradient import Gradient, Moments
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.rates import floor, zeta
from iclens.papers.yang_2024.task import Dictionary

_SOURCE = "Yang et al. 2024"
_SIZES = ((5, 3, 9, 4), (6, 4, 12, 4), (6, 5, 12, 3), (100, 20, 200, 30))
"""d, m, K, N: more, as many and fewer tokens in the prompt than features, and the paper's sizes."""


def dictionaries(setting: Setting, d: int, m: int, n_tokens: int, n_prompt: int, tau: float = 0.1) -> Dictionary:
    """Three stacked dictionaries with unit-norm tokens."""
    seeds = range(setting.seed, setting.seed + 3)
    drawn = [Dictionary.draw(d, m, n_tokens, n_prompt, tau, seed, normalised=True) for seed in seeds]
    return Dictionary.stack(drawn).to(setting.device)


def model_on(dictionary: Dictionary, setting: Setting, n_heads: int) -> DictionaryModel:
    """Return a float64 model with one run for each dictionary, at its initial values."""
    seeds = range(setting.seed, setting.seed + dictionary.tokens.shape[0])
    return DictionaryModel.on(dictionary, seeds, n_heads=n_heads, dtype=torch.float64)


def by_features(dictionary: Dictionary, shown: Tensor) -> Tensor:
    """Z̃ᵀ(ZZᵀ + mτ I)⁻¹ Z y of every token, (runs, n_tokens, n_labels), for shown y (runs, n_prompt, n_labels)."""
    z = dictionary.features[:, : dictionary.n_prompt].mT
    noise = dictionary.n_features * dictionary.tau * torch.eye(dictionary.n_features, dtype=z.dtype, device=z.device)
    return dictionary.features @ torch.linalg.solve(z @ z.mT + noise, z @ shown)


def _any_weights(setting: Setting, dictionary: Dictionary) -> Tensor:
    generator = setting.generator()
    noise = setting.randn(generator, 3, dictionary.n_prompt, dictionary.n_tokens)
    return optimum(dictionary) + 0.3 * noise


@identity(
    "dictionary-optimum",
    statement="A = (ZᵀZ + mτI)⁻¹(ZᵀZ̃ + (mτI, 0)) copies the prompt's labels and is ridge regression over the features",
    source=f"{_SOURCE}, Theorem 2",
)
def dictionary_optimum(setting: Setting) -> Iterator[float]:
    """The displayed formula, and λ̂ = (ZZᵀ + mτ I)⁻¹ Z y on drawn labels, against the form that the package uses."""
    for dictionary in (dictionaries(setting, *sizes) for sizes in _SIZES):
        n, found = dictionary.n_prompt, optimum(dictionary)
        z = dictionary.features[:, :n].mT
        plain = z.mT @ dictionary.features.mT
        plain[..., :n] += dictionary.n_features * dictionary.tau * torch.eye(n, dtype=z.dtype, device=z.device)
        yield relative(found, torch.linalg.solve(shown_moment(dictionary), plain))
        y = setting.randn(setting.generator(), 3, n, 7)
        predicted = found.mT @ y
        yield relative(predicted[:, :n], y)
        yield relative(predicted[:, n:], by_features(dictionary, y)[:, n:])


@identity(
    "dictionary-lemma-5",
    statement="L(Â) = L* + 1/(2K) Σ_k ‖Z̄(Â_k − A_k)‖² for any Â; in the dictionary model its gradient is autograd's",
    source=f"{_SOURCE}, Lemma 5",
    tolerance=1e-11,
)
def dictionary_lemma_5(setting: Setting) -> Iterator[float]:
    """The loss from all second moments of labels; the fast gradient against autograd through plain attention."""
    for sizes in _SIZES:
        dictionary = dictionaries(setting, *sizes)
        a_hat = _any_weights(setting, dictionary)
        yield relative(smallest_loss(dictionary) + excess(dictionary, a_hat), population_loss(dictionary, a_hat))
        if sizes == _SIZES[-1]:
            continue
        model = model_on(dictionary, setting, 3)
        with torch.no_grad():
            model.w.copy_(setting.randn(setting.generator(), *model.w.shape))
        fast = Gradient(model, dictionary.n_prompt)
        fast(Moments.of_population(dictionary))
        excess(dictionary, model.weights(dictionary.n_prompt)).sum().backward()
        for found, parameter in ((fast.w, model.w), (fast.Q, model.Q)):
            assert parameter.grad is not None
            yield relative(found, parameter.grad)


@identity(
    "dictionary-monte-carlo",
    statement="the loss of Lemma 5 is the mean over drawn prompts (residual in standard errors of that mean)",
    source=f"{_SOURCE}, Lemma 5",
    tolerance=5.0,
)
def dictionary_monte_carlo(setting: Setting) -> Iterator[float]:
    """100,000 prompts; features' noise ε_k drawn with all m entries, as the paper has it."""
    n_prompts = 100_000
    for sizes in _SIZES[:-1]:
        dictionary, generator = dictionaries(setting, *sizes)[0], setting.generator()
        weight = setting.randn(generator, n_prompts, dictionary.n_features)
        errors = dictionary.tau**0.5 * setting.randn(generator, n_prompts, dictionary.n_tokens, dictionary.n_features)
        labels = weight @ dictionary.features.mT + (errors @ weight[..., None])[..., 0]
        a_hat = _any_weights(setting, dictionaries(setting, *sizes))[0]
        losses = (labels[:, : dictionary.n_prompt] @ a_hat - labels).square().mean(-1) / 2
        expected = smallest_loss(dictionary) + excess(dictionary, a_hat)
        yield float((losses.mean() - expected).abs() / (losses.std() / n_prompts**0.5))


@identity(
    "dictionary-gap",
    statement="ridge with mτ and with Nτ agree where N = m; averaged over rotations of the features, their gap at "
    "λ ~ N(1, 4I) is 5 times that at λ ~ N(0, I)",
    source="derived, docs/theory/ridge-in-context.md",
    tolerance=1e-11,
)
def dictionary_gap(setting: Setting) -> float:
    """m rotations that carry **1** to √m times each axis: together they stand for all."""

    def ratio(dictionary: Dictionary) -> float:
        m = dictionary.n_features
        ones = torch.ones(m, dtype=torch.float64, device=setting.device) / m**0.5
        shifted = []
        for axis in range(m):
            mirror = ones.clone()
            mirror[axis] -= 1
            rotation = torch.eye(m, dtype=torch.float64, device=setting.device)
            rotation -= 2 * torch.outer(mirror, mirror) / mirror.square().sum()
            turned = Dictionary(dictionary.tokens, dictionary.features @ rotation, dictionary.n_prompt, dictionary.tau)
            shifted.append(prediction_gap(turned, optimum(turned), best_possible(turned), shifted=True))
        plain = prediction_gap(dictionary, optimum(dictionary), best_possible(dictionary))
        return relative(torch.stack(shifted).mean(0), 5 * plain)

    equal = dictionaries(setting, *_SIZES[1])
    return max(
        relative(best_possible(equal), optimum(equal)),
        worst(ratio(dictionaries(setting, *sizes)) for sizes in (_SIZES[0], _SIZES[2])),
    )


@identity(
    "dictionary-best-linear",
    statement="no predictor linear in the prompt's labels has a smaller expected error than A, ridge with Nτ included "
    "(excess of A over it, 0 if none)",
    source="derived, docs/theory/ridge-in-context.md",
    tolerance=1e-13,
)
def dictionary_best_linear(setting: Setting) -> float:
    """Against ŷ^best and against random changes of A."""

    def residual(dictionary: Dictionary) -> float:
        loss = population_loss(dictionary, optimum(dictionary))
        others = (best_possible(dictionary), _any_weights(setting, dictionary))
        return max(float(((loss - population_loss(dictionary, other)) / loss).max()) for other in others)

    return max(0.0, worst(residual(dictionaries(setting, *sizes)) for sizes in _SIZES))


@identity(
    "dictionary-heads",
    statement="at the start every B_k has full row rank exactly when H ≥ N, and then w alone reaches L*; with H < N a "
    "positive excess remains (share of 120 initial values where this fails)",
    source=f"{_SOURCE}, Proposition 1",
    tolerance=0.0,
)
def dictionary_heads(setting: Setting) -> float:
    """Gaussian initial values, unit-norm tokens, N = 4, H from 1 to 8."""
    failures = []
    for start in range(5):
        shifted = Setting(setting.dtype, setting.device, setting.seed + 10 * start)
        dictionary = dictionaries(shifted, 8, 3, 10, 4)
        all_of_it = excess(dictionary, torch.zeros_like(optimum(dictionary)))
        for n_heads in range(1, 9):
            model = model_on(dictionary, shifted, n_heads)
            smallest, remains = zeta(dictionary, model), floor(dictionary, model) / all_of_it
            full = (smallest > 1e-16) & (remains < 1e-20)
            short = (smallest == 0) & (remains > 1e-6)
            failures.append(~(full if n_heads >= 4 else short))
    return float(torch.stack(failures).double().mean())
