"""What Yang et al. 2024's trained model does: copy the labels it was shown, and ridge regression over the features."""

from __future__ import annotations

import torch
from torch import Tensor

from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.ridge import Ridge
from iclens.papers.yang_2024.task import Dictionary, find_tokens
from iclens.tasks.options import require_positive
from iclens.tasks.shapes import Inputs, Labels


@ESTIMATORS.register("dictionary-ridge")
class DictionaryRidge(Estimator):
    """ŷ* of Theorem 2, for prompts of the dictionary task.

    A token that the prompt has shown gets the label it was shown with last; the others λ̂ᵀ f(v) with
    λ̂ = (Z Zᵀ + s I)⁻¹ Z y, s = mτ. Of the predictors linear in the labels it has the smallest expected error.

    Args:
        d: width of the tokens.
        n_features: m.
        n_tokens: K.
        tau: τ, above 0.
        normalised: as in the task.
        seed: of the dictionary.

    Raises:
        UserError: sizes below 1, or τ that is not positive.
    """

    def __init__(
        self,
        *,
        d: int = 100,
        n_features: int = 20,
        n_tokens: int = 200,
        tau: float = 0.01,
        normalised: bool = False,
        seed: int = 0,
    ) -> None:
        require_positive(tau=tau)
        self.d, self.n_features, self.n_tokens, self.tau = d, n_features, n_tokens, tau
        self.normalised, self.seed = normalised, seed
        self.dictionary = Dictionary.draw(d, n_features, n_tokens, 1, tau, seed, normalised=normalised)

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:
        """See `Estimator.prefixes`.

        Raises:
            UserError: an input that is not a token of the dictionary.
        """
        indices = find_tokens(self.dictionary.tokens, inputs)
        features = self.dictionary.features.to(inputs)[indices]
        answers = Ridge(alpha=self.n_features * self.tau).prefixes(features, labels)
        return self._with_copies(answers, indices, labels)

    def _with_copies(self, answers: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
        n_points = indices.shape[-1]
        order = torch.arange(1, n_points + 1, device=indices.device)
        earlier = (indices[..., :, None] == indices[..., None, :]).tril(-1)
        latest, source = (earlier * order).max(-1)
        copied = labels.gather(-2, source[..., None].expand(labels.shape))
        return torch.where((latest > 0)[..., None], copied, answers)
