"""Predictors of the next state of a Markov chain: bigrams or unigrams, inferred from the context or retrieved."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.estimators.estimator import ESTIMATORS, Estimator
from iclens.estimators.points import check_finite, checked_points
from iclens.tasks.options import require_positive
from iclens.tasks.shapes import Inputs, Labels

Chains = Float[Tensor, "n_chains n_states n_states"]
"""Transition probabilities of several chains: P_c(next | state), rows add up to 1."""


class NextState(Estimator, abc.ABC):
    """Probabilities of the next state after every prefix; inputs and labels are states, one-hot.

    Unlike with other estimators, an answer without any point is not zero: it is what the prior says, so that
    probabilities add up to 1 everywhere.

    Source: Park et al. 2024 (arXiv 2412.01003): unigram or bigram statistics, retrieval or inference.
    """

    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the probabilities at point i, from the labels before it and its own state.

        Raises:
            UserError: points that do not fit, or that are not states.
        """
        inputs, labels = checked_points(inputs, labels)
        _check_states("inputs", inputs)
        _check_states("labels", labels[..., :-1, :])
        if inputs.shape[-1] != labels.shape[-1]:
            raise UserError(
                f"inputs have {inputs.shape[-1]} states and labels {labels.shape[-1]}: a label is the next state."
            )
        return self.probabilities(inputs, labels)

    @abc.abstractmethod
    def probabilities(self, inputs: Inputs, labels: Labels) -> Labels:
        """Return the answers for points that have been checked; the last label is zero."""


@dataclass(frozen=True)
class _Inference(NextState):
    """Attributes: concentration, of the symmetric Dirichlet prior, for every entry."""

    concentration: float = 1.0

    def __post_init__(self) -> None:
        require_positive(concentration=self.concentration)

    def probabilities(self, inputs: Inputs, labels: Labels) -> Labels:
        # What counts for a query, of the points before it.
        counted = self._alike(inputs).tril(-1)
        n_states = labels.shape[-1]
        total = counted.sum(-1, keepdim=True) + n_states * self.concentration
        return (counted @ labels + self.concentration) / total

    @abc.abstractmethod
    def _alike(self, inputs: Inputs) -> Float[Tensor, "*batch n n"]:
        """1 where a point counts for a query, else 0."""


@ESTIMATORS.register("bigram-inference")
class BigramInference(_Inference):
    """p(b) = (C_ab + α) / (Σ_b' C_ab' + kα) at state a, C_ab the transitions from a to b seen so far.

    The Bayes predictor of a chain of k states whose rows are drawn from the symmetric Dirichlet distribution of α.

    Attributes:
        concentration: α, positive.

    Raises:
        UserError: an option out of its range, or points other than states.
    """

    def _alike(self, inputs: Inputs) -> Float[Tensor, "*batch n n"]:
        return inputs @ inputs.mT


@ESTIMATORS.register("unigram-inference")
class UnigramInference(_Inference):
    """p(b) = (C_b + α) / (n + kα), C_b how often b was a label so far, whatever the state at hand.

    The Bayes predictor of independent labels whose probabilities are drawn from the symmetric Dirichlet distribution of
    α.

    Attributes:
        concentration: α, positive.

    Raises:
        UserError: an option out of its range, or points other than states.
    """

    def _alike(self, inputs: Inputs) -> Float[Tensor, "*batch n n"]:
        return inputs.new_ones(*inputs.shape[:-1], inputs.shape[-2])


@dataclass(frozen=True, eq=False)
class _Retrieval(NextState):
    """Attributes: chains."""

    chains: Tensor

    def __post_init__(self) -> None:
        if self.chains.ndim != 3 or 0 in self.chains.shape or self.chains.shape[1] != self.chains.shape[2]:
            raise UserError(f"chains of shape {tuple(self.chains.shape)} must be (n_chains, n_states, n_states).")
        check_finite("chains", self.chains)
        sums = self.chains.double().sum(-1)
        if bool((self.chains < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-5):
            raise UserError("chains must hold probabilities: no entry below 0, and rows that add up to 1.")

    def probabilities(self, inputs: Inputs, labels: Labels) -> Labels:
        rows = self._rows().to(inputs)
        if rows.shape[-1] != inputs.shape[-1]:
            raise UserError(f"the chains have {rows.shape[-1]} states and the inputs {inputs.shape[-1]}.")
        # (..., n, n_chains, n_states): what every chain says after the state at hand.
        said = torch.einsum("...na,cab->...ncb", inputs, rows)
        evidence = (said.clamp_min(torch.finfo(said.dtype).tiny).log() * labels.unsqueeze(-2)).sum(-1)
        posterior = (evidence.cumsum(-2) - evidence).softmax(-1)
        return (posterior.unsqueeze(-1) * said).sum(-2)

    @abc.abstractmethod
    def _rows(self) -> Chains:
        """Probabilities of the next state that the predictor takes every chain to have."""


@ESTIMATORS.register("bigram-retrieval")
class BigramRetrieval(_Retrieval):
    """p(b) = Σ_c w_c P_c(b | a) at state a, w_c ∝ Π_i P_c(y_i | x_i) over the transitions seen so far.

    The Bayes predictor of one of these chains, each as likely.

    Attributes:
        chains: P_c, (n_chains, n_states, n_states).

    Raises:
        UserError: chains whose rows are not probabilities, or points other than states of theirs.
    """

    def _rows(self) -> Chains:
        return self.chains


@ESTIMATORS.register("unigram-retrieval")
class UnigramRetrieval(_Retrieval):
    """p(b) = Σ_c w_c π_c(b), w_c ∝ Π_i π_c(y_i), π_c the stationary distribution of chain c.

    The Bayes predictor of labels that are drawn independently from one of these distributions, each as likely.

    Attributes:
        chains: P_c, (n_chains, n_states, n_states).

    Raises:
        UserError: chains whose rows are not probabilities, or points other than states of theirs.
    """

    def _rows(self) -> Chains:
        return stationary(self.chains.double()).unsqueeze(-2).expand(self.chains.shape)


def stationary(transitions: Float[Tensor, "*batch n_states n_states"]) -> Float[Tensor, "*batch n_states"]:
    """π with πᵀP = πᵀ and Σπ = 1: the solution of πᵀ(I − P + 11ᵀ) = 1ᵀ, for chains that have one alone."""
    n_states = transitions.shape[-1]
    system = torch.eye(n_states).to(transitions) - transitions + 1
    return torch.linalg.solve(system.mT, torch.ones(n_states).to(transitions).expand(transitions.shape[:-1]))


def _check_states(name: str, states: Float[Tensor, "*batch n n_states"]) -> None:
    if not bool(((states == 0) | (states == 1)).all()) or not bool((states.sum(-1) == 1).all()):
        raise UserError(f"{name} must be states: one-hot, a single 1 and zeros.")
