"""Sequences of Markov chains: every state is the input whose label is the next state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from iclens.errors import UserError
from iclens.tasks.draws import integers, uniform
from iclens.tasks.function_first import FunctionFirst, checked_shape
from iclens.tasks.options import require_at_least_zero, require_counts, require_positive
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels
from iclens.tasks.task import TASKS, Optimal

Transitions = Float[Tensor, "*batch n_states n_states"]
"""P(next state | state): rows are states and add up to 1."""


@TASKS.register("markov-chains")
class MarkovChains(FunctionFirst):
    """s_1 uniform, s_{i+1} ~ P(· | s_i); x_i is s_i and y_i is s_{i+1}, one-hot, so that y_i = x_{i+1}.

    Rows of P are drawn from the symmetric Dirichlet distribution: fresh ones in every prompt, or, with `n_chains`,
    those of one of as many fixed chains, each as likely. `values` are P(· | x), the probabilities of the labels, which
    are drawn from them. `function` holds `transitions`, (*batch, n_states, n_states), and, with fixed chains, `index`,
    (*batch), which of them it is.

    The Bayes predictor of fixed chains weighs them by the likelihood of the transitions seen (bigram retrieval); of
    fresh ones it counts the transitions from the state at hand (bigram inference).

    Source: Park et al. 2024 (arXiv 2412.01003), finite mixtures of Markov chains; the first state is our choice.

    Args:
        n_states: number of states, at least 2; d and d_y are the same.
        n_chains: number of fixed chains; 0 for fresh ones.
        concentration: of the Dirichlet distribution, for every entry, positive: 1 draws rows uniformly.
        seed: of the fixed chains; a larger number of the same seed contains the smaller ones.

    Raises:
        UserError: an option out of its range.
    """

    def __init__(self, *, n_states: int = 4, n_chains: int = 16, concentration: float = 1.0, seed: int = 0) -> None:
        require_counts(n_states=n_states)
        require_at_least_zero(n_chains=n_chains)
        require_positive(concentration=concentration)
        if n_states < 2:
            raise UserError("n_states=1 leaves nothing to predict: give at least 2.")
        self.n_states, self.n_chains, self.concentration, self.seed = n_states, n_chains, concentration, seed
        self.d = self.d_y = n_states
        # Drawn one by one, so that more chains of a seed begin with the fewer.
        generator = torch.Generator().manual_seed(seed)
        drawn = [self._drawn(generator, ()) for _ in range(n_chains)]
        self._fixed = torch.stack(drawn) if drawn else torch.zeros(0, n_states, n_states, dtype=torch.float64)

    @property
    def chains(self) -> Float[Tensor, "n_chains n_states n_states"]:
        """The fixed chains, in torch's default dtype."""
        return self._fixed.to(torch.get_default_dtype())

    def sample_function(self, generator: torch.Generator, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """`transitions`, and `index` of fixed chains."""
        dtype = torch.get_default_dtype()
        if not self.n_chains:
            return {"transitions": self._drawn(generator, batch).to(dtype)}
        index = integers(self.n_chains, generator, *batch)
        return {"transitions": self._fixed.to(index.device)[index].to(dtype), "index": index}

    def sample_inputs_of(  # noqa: D102
        self, generator: torch.Generator, function: Mapping[str, Tensor], batch: tuple[int, ...], n_points: int
    ) -> Inputs:
        return self._one_hot(sequences(generator, function["transitions"], n_points))

    def values(self, inputs: Inputs, function: Mapping[str, Tensor]) -> Labels:
        """P(· | x)."""
        return inputs @ function["transitions"]

    def sample(self, generator: torch.Generator, batch: int | tuple[int, ...], n_context: int) -> PromptBatch:
        """See `Task.sample`."""
        function = self.sample_function(generator, checked_shape(batch, n_context))
        states = self._one_hot(sequences(generator, function["transitions"], n_context + 2))
        return PromptBatch(states[..., :-1, :], states[..., 1:, :], function)

    def optimal(self) -> Optimal:
        """Return bigram retrieval of fixed chains, or bigram inference of fresh ones."""
        source = "the posterior mean of the next state's probabilities"
        if self.n_chains:
            return Optimal("bigram-retrieval", {"chains": self.chains}, exact=True, source=source)
        return Optimal("bigram-inference", {"concentration": self.concentration}, exact=True, source=source)

    def _drawn(self, generator: torch.Generator, batch: tuple[int, ...]) -> Transitions:
        """Rows of the Dirichlet distribution: gamma numbers over their sum, in float64."""
        shape = (*batch, self.n_states, self.n_states)
        concentration = torch.full(shape, self.concentration, dtype=torch.float64, device=generator.device)
        # With a small concentration all gamma numbers of a row may round to 0.
        gamma = torch._standard_gamma(concentration, generator).clamp_min(torch.finfo(torch.float64).tiny)
        return gamma / gamma.sum(-1, keepdim=True)

    def _one_hot(self, states: Int[Tensor, "*batch n"]) -> Float[Tensor, "*batch n n_states"]:
        return one_hot(states, self.n_states).to(torch.get_default_dtype())


def sequences(generator: torch.Generator, transitions: Transitions, length: int) -> Int[Tensor, "*batch length"]:
    """Draw a sequence of states of every chain; the first is uniform.

    Args:
        generator: the source of randomness.
        transitions: the chains.
        length: number of states, at least 1.
    """
    n_states, batch = transitions.shape[-1], transitions.shape[:-2]
    # The last sum is 1 but for rounding: what lies above the others is the last state.
    sums = transitions.cumsum(-1)[..., :-1]
    drawn = uniform(generator, *batch, length).to(sums.dtype)
    states = [(drawn[..., 0] * n_states).long().clamp_max(n_states - 1)]
    for step in range(1, length):
        row = sums.gather(-2, states[-1][..., None, None].expand(*batch, 1, n_states - 1)).squeeze(-2)
        states.append((drawn[..., step, None] >= row).sum(-1))
    return torch.stack(states, -1)
