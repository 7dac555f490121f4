"""How training on the dictionary task ends, and how fast: Yang et al. 2024, Theorems 1 and 2."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from iclens.identities.checks import Setting, identity, relative, worst
from iclens.papers.yang_2024.closed_forms import excess, optimum, population_loss, shown_moment, smallest_loss
from iclens.papers.yang_2024.identities import by_features, dictionaries, model_on
from iclens.papers.yang_2024.rates import Rate, lazy_excess, one_head_floor, rate
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining

_SOURCE = "Yang et al. 2024"
_SIZES = (8, 3, 8, 3)
_HEADS = 64


def _descent(
    dictionary: Dictionary, setting: Setting, *, above: float, every: int, n_heads: int = _HEADS
) -> tuple[DictionaryTrainer, Rate]:
    """Gradient descent on the population loss with γ a multiple of the threshold of Theorem 1."""
    model = model_on(dictionary, setting, n_heads)
    # Without a positive ζ_0 there is no threshold; any γ will do there.
    needed = rate(dictionary, model, 1.0).threshold.max()
    gamma = above * float(needed) if bool(needed.isfinite()) else above
    constants = rate(dictionary, model, gamma)
    settings = DictionaryTraining.descent(constants.learning_rate, gamma, every)
    return DictionaryTrainer(dictionary, model, settings), constants


@identity(
    "dictionary-theorem-1",
    statement="gradient descent with γ above the threshold loses at least the share η_Qγ²ζ_0/(2K) of the excess over "
    "L* in every step (by how much a step falls short, 0 if none)",
    source=f"{_SOURCE}, Theorem 1; constants derived, docs/theory/ridge-in-context.md",
)
def dictionary_theorem_1(setting: Setting) -> float:
    """400 steps at the threshold, each checked against the factor."""
    dictionary = dictionaries(setting, *_SIZES)
    trainer, constants = _descent(dictionary, setting, above=1.0, every=1)
    found = torch.stack([measured.excess for measured in trainer.run(400)])
    return max(0.0, float((found[1:] / found[:-1] - constants.factor).max()))


@identity(
    "dictionary-lazy-limit",
    statement="as γ grows, training tends to gradient descent on w alone: linear, with the spectrum of every B_k B_kᵀ",
    source="derived, docs/theory/ridge-in-context.md",
    tolerance=1e-9,
)
def dictionary_lazy_limit(setting: Setting) -> float:
    """1,000 times the threshold; 50, 100, … 400 steps."""
    dictionary = dictionaries(setting, *_SIZES)
    model = model_on(dictionary, setting, _HEADS)
    trainer, constants = _descent(dictionary, setting, above=1000.0, every=50)
    eta_w = constants.learning_rate * constants.gamma**2
    return worst(
        relative(found.excess, lazy_excess(dictionary, model, eta_w, found.step)) for found in trainer.run(400)
    )


@identity(
    "dictionary-slower-with-tokens",
    statement="with the same rates, more tokens K in the same dictionary slow training down (how much faster it is, 0 "
    "if slower)",
    source=f"{_SOURCE}, Theorem 1",
    tolerance=0.0,
)
def dictionary_slower_with_tokens(setting: Setting) -> float:
    """Return the logarithm of the excess over 200 late steps, for K = 6, 12 and 24."""
    whole = dictionaries(setting, 8, 3, 24, 3)
    gamma = 1e4
    shared = rate(whole, model_on(whole, setting, _HEADS), gamma).learning_rate / 4
    slopes: list[Tensor] = []
    for n_tokens in (6, 12, 24):
        dictionary = whole.first(n_tokens)
        settings = DictionaryTraining.descent(shared, gamma, every=200)
        found = DictionaryTrainer(dictionary, model_on(dictionary, setting, _HEADS), settings).run(400)
        slopes.append((found[1].excess / found[2].excess).log())
    return max(0.0, *(float((more / fewer - 1).max()) for fewer, more in itertools.pairwise(slopes)))


@identity(
    "dictionary-theorem-2",
    statement="the trained model copies the given labels and predicts the others by ridge regression over the "
    "features, for any λ, and its loss ends at L*, not 0",
    source=f"{_SOURCE}, Theorem 2",
    tolerance=1e-6,
)
def dictionary_theorem_2(setting: Setting) -> float:
    """As many steps as the lazy rate needs for e⁻³³, then λ of sizes 0.1 to 1,000 and prompts with noise."""
    dictionary = dictionaries(setting, *_SIZES)
    trainer, constants = _descent(dictionary, setting, above=1.0, every=10**6)
    trainer.run(min(30_000, math.ceil(33 / -math.log(float(constants.lazy_factor.max())))))
    generator = setting.generator()
    size = 10.0 ** torch.arange(-1, 4, device=setting.device)
    weight = size[:, None] * setting.randn(generator, 3, 5, dictionary.n_features)
    labels = dictionary.labels_of(weight, setting.randn(generator, 3, 5, dictionary.n_tokens))
    n = dictionary.n_prompt
    shown = labels[..., :n]
    expected = torch.cat([shown, by_features(dictionary, shown.mT).mT[..., n:]], dim=-1)
    answers = trainer.model.answers(shown)
    by_prompt = worst(relative(answers[:, i], expected[:, i]) for i in range(5))
    a_hat = trainer.model.weights(n).detach()
    smallest = smallest_loss(dictionary)
    if not (smallest > 0).all():
        return math.inf
    return max(by_prompt, relative(population_loss(dictionary, a_hat), smallest))


@identity(
    "dictionary-any-prompt",
    statement="1/(2K) ‖ŷ − ŷ*‖² ≤ ‖Z̄⁻¹ y‖² (L − L*) for every prompt, trained or not (excess, 0 if none)",
    source="derived, docs/theory/ridge-in-context.md",
)
def dictionary_any_prompt(setting: Setting) -> float:
    """Random models, λ ~ N(**1**, 4 I); the left side over the right, minus 1."""
    dictionary = dictionaries(setting, *_SIZES)
    model = model_on(dictionary, setting, 5)
    generator = setting.generator()
    with torch.no_grad():
        model.w.copy_(setting.randn(generator, *model.w.shape))
    n, a_hat = dictionary.n_prompt, model.weights(dictionary.n_prompt).detach()
    shown = dictionary.sample_labels([generator] * 3, 1000, shifted=True)[..., :n]
    left = (shown @ (a_hat - optimum(dictionary))).square().sum(-1) / (2 * dictionary.n_tokens)
    size = (shown * torch.linalg.solve(shown_moment(dictionary), shown.mT).mT).sum(-1)
    return max(0.0, float((left / (size * excess(dictionary, a_hat)[:, None]) - 1).max()))


@identity(
    "dictionary-one-head",
    statement="one head cannot pass the floor of weights of one sign, whatever its w and Q (how far below it training "
    "ends, 0 if not)",
    source="derived, docs/theory/ridge-in-context.md",
)
def dictionary_one_head(setting: Setting) -> float:
    """Adam with a large rate on the exact gradient; the floor is positive."""
    dictionary = dictionaries(setting, 8, 3, 12, 6)
    least = one_head_floor(dictionary)
    if not (least > 0).all():
        return math.inf
    model = model_on(dictionary, setting, 1)
    settings = DictionaryTraining(batch=0, learning_rate=0.03, n_test=0, every=1500)
    reached = DictionaryTrainer(dictionary, model, settings).run(1500)[-1].excess
    return max(0.0, float(((least - reached) / least).max()))
