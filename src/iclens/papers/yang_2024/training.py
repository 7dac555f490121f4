"""Training of the dictionary model, many runs at once: Yang et al. 2024, sections 3 and 5.

Every run has its own dictionary, draws, initial values and rates, and equals the same run alone. The step itself is
`iclens.papers.yang_2024.gradient`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.papers.yang_2024.closed_forms import excess, optimum, smallest_loss
from iclens.papers.yang_2024.gradient import Gradient, Moments
from iclens.papers.yang_2024.label_stream import LabelStream
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.task import Dictionary


@dataclass(frozen=True)
class DictionaryTraining:
    """How the dictionary model is trained. Defaults are the paper's where it states them.

    Attributes:
        batch: prompts a step; 0 for the exact gradient of the population loss, without any prompt.
        n_draws: size of the training set, gone through in a new order again and again; 0 for fresh prompts every step.
        optimizer: `adam`, or `gd`, plain gradient descent with two rates.
        learning_rate: Adam's, or η_Q of gradient descent; one number, or one for each run.
        gamma: γ of gradient descent, η_w = γ² η_Q; one number, or one for each run.
        n_test: prompts of each of the two test sets; 0 for the expectations over all prompts.
        every: steps between two measurements.
    """

    batch: int = 256
    n_draws: int = 10_000
    optimizer: Literal["adam", "gd"] = "adam"
    learning_rate: float | tuple[float, ...] = 1e-4
    gamma: float | tuple[float, ...] = 1.0
    n_test: int = 200
    every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("batch", 0), ("n_draws", 0), ("n_test", 0), ("every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}.")
        if 0 < self.n_draws < self.batch:
            raise UserError(f"a batch of {self.batch} prompts needs more than the {self.n_draws} draws there are.")
        if self.optimizer not in ("adam", "gd"):
            raise UserError(f"unknown optimizer {self.optimizer!r}. Known: adam, gd.")
        for name in ("learning_rate", "gamma"):
            value = getattr(self, name)
            rates = value if isinstance(value, tuple) else (value,)
            if not all(0 < rate < math.inf for rate in rates):
                raise UserError(f"{name}={value} must be positive and finite.")

    @staticmethod
    def descent(learning_rate: Float[Tensor, " runs"], gamma: float, every: int) -> DictionaryTraining:
        """Gradient descent on the population loss with η_Q for each run, measured at regular intervals."""
        rates = tuple(learning_rate.tolist())
        return DictionaryTraining(batch=0, optimizer="gd", learning_rate=rates, gamma=gamma, n_test=0, every=every)

    def rates(self, name: Literal["learning_rate", "gamma"], n_runs: int) -> list[float]:
        """`learning_rate` or `gamma` of each run.

        Raises:
            UserError: another number of rates than runs.
        """
        value = getattr(self, name)
        rates = list(value) if isinstance(value, tuple) else [value] * n_runs
        if len(rates) != n_runs:
            raise UserError(f"{len(rates)} values of {name} do not fit {n_runs} runs: give one, or one for each.")
        return rates


@dataclass(frozen=True)
class Measurement:
    """What is known at one step; one number for each run, NaN where the run has diverged.

    Attributes:
        step: number of steps taken.
        loss: L over the whole training set; over the population where there is no such set.
        excess: L − L* over the population, by Lemma 5.
        in_domain: mean over test prompts of (1/K) ‖ŷ − ŷ*‖².
        shifted: the same for λ ~ N(**1**, 4 I).
    """

    step: int
    loss: Float[Tensor, " runs"]
    excess: Float[Tensor, " runs"]
    in_domain: Float[Tensor, " runs"]
    shifted: Float[Tensor, " runs"]


Watch = Callable[[Measurement], None]


class DictionaryTrainer:
    """Takes steps with a model and measures it.

    A run whose parameters are no longer finite is put back to its last finite measurement and stays there; the others
    go on.

    Args:
        dictionary: one for each run (stacked), or one for all.
        model: changed in place.
        settings: how.
        data_seeds: seeds of each run's prompts; those of the model when None.

    Attributes:
        steps: number of steps taken.
        diverged: for each run the step at which it was found diverged, or None.

    Raises:
        UserError: numbers of dictionaries, seeds or rates that do not fit the model's runs.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        model: DictionaryModel,
        settings: DictionaryTraining,
        data_seeds: Sequence[int] | None = None,
    ) -> None:
        runs = model.n_runs
        if dictionary.tokens.ndim == 2:
            dictionary = Dictionary.stack([dictionary] * runs)
        seeds = list(model.seeds if data_seeds is None else data_seeds)
        if dictionary.tokens.shape[0] != runs or len(seeds) != runs:
            raise UserError(
                f"{dictionary.tokens.shape[0]} dictionaries and {len(seeds)} data seeds do not fit {runs} runs."
            )
        if dictionary.tokens.shape != model.tokens.shape or not torch.allclose(
            dictionary.tokens.to(model.tokens), model.tokens
        ):
            raise UserError("the model was made for other tokens than the dictionary's: use DictionaryModel.on.")
        self.dictionary, self.model, self.settings = dictionary, model, settings
        self.steps = 0
        self.diverged: list[int | None] = [None] * runs
        self._stream = LabelStream(
            dictionary, seeds, settings.batch, settings.n_draws if settings.batch else 0, settings.n_test, model.w.dtype
        )
        self._optimum, self._smallest = optimum(dictionary), smallest_loss(dictionary)
        self._tests = {shifted: self._test_moments(shifted) for shifted in (False, True)}
        draws = self._stream.draws
        self._train = None if draws is None else Moments.of_batch(draws, dictionary.n_prompt)
        self._exact = Moments.of_population(dictionary).to(model.w.detach())
        self._gradient = Gradient(model, dictionary.n_prompt)
        self._rates = settings.rates("learning_rate", runs)
        self._gammas = settings.rates("gamma", runs)
        self._parts = [(model.w.data[run], model.Q.data[run]) for run in range(runs)]
        self._adam = self._adams() if settings.optimizer == "adam" else []
        self._keep = [parameter.detach().clone() for parameter in (model.w, model.Q)]

    @property
    def smallest_loss(self) -> Float[Tensor, " runs"]:
        """L* of each run's dictionary."""
        return self._smallest

    def step(self) -> None:
        """One step of every run that has not diverged."""
        self._gradient(self._moments())
        if self._adam:
            for run, step in enumerate(self.diverged):
                if step is not None:
                    self._gradient.w[run], self._gradient.Q[run] = 0, 0
            for adam in self._adam:
                adam.step()
        else:
            for run, (w, q) in enumerate(self._parts):
                if self.diverged[run] is None:
                    w.sub_(self._gradient.w[run], alpha=self._rates[run] * self._gammas[run] ** 2)
                    q.sub_(self._gradient.Q[run], alpha=self._rates[run])
        self.steps += 1

    def run(self, steps: int, watch: Watch | None = None) -> list[Measurement]:
        """Take steps until `steps` have been taken in all.

        Measured are the first and the last step and every `settings.every`-th one. A trainer that goes on from
        elsewhere does not measure its first step again.

        Args:
            steps: in all, those already taken included.
            watch: called with every measurement as it is made.
        """
        found = []
        for step in range(self.steps, steps + 1):
            if step > self.steps:
                self.step()
            elif step > 0:
                continue
            if step % self.settings.every == 0 or step == steps:
                found.append(self.measure())
                if watch is not None:
                    watch(found[-1])
        return found

    @torch.no_grad()
    def measure(self) -> Measurement:
        """Measure now, in the dictionary's precision, and set back runs whose loss ceased to be finite."""
        w, q = self.model.w.detach(), self.model.Q.detach()
        finite = w.isfinite().flatten(1).all(1) & q.isfinite().flatten(1).all(1)
        for run in range(self.model.n_runs):
            if self.diverged[run] is None and finite[run]:
                self._keep[0][run], self._keep[1][run] = w[run], q[run]
            elif not finite[run]:
                self.diverged[run] = self.steps
                w[run], q[run] = self._keep[0][run], self._keep[1][run]
                self._forget(run)
        a_hat = self.model.weights(self.dictionary.n_prompt).to(self.dictionary.features)
        alive = torch.tensor([step is None for step in self.diverged], device=w.device)
        nan = torch.full_like(self._smallest, math.nan)
        above = excess(self.dictionary, a_hat)
        loss = self._smallest + above if self._train is None else self._train.loss(a_hat)
        gap = {shifted: self._gap(a_hat, shifted) for shifted in (False, True)}
        return Measurement(self.steps, *(torch.where(alive, x, nan) for x in (loss, above, gap[False], gap[True])))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on; `load_state_dict` of a trainer made alike goes on bit for bit."""
        return {
            "settings": dataclasses.asdict(self.settings),
            "stream": self._stream.state_dict(),
            "steps": self.steps,
            "diverged": list(self.diverged),
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "adam": [copy.deepcopy(adam.state_dict()) for adam in self._adam],
            "keep": [value.clone() for value in self._keep],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another trainer was.

        Raises:
            UserError: a state of other settings or seeds.
        """
        if state["settings"] != dataclasses.asdict(self.settings):
            raise UserError("this state is of a training with other settings.")
        self._stream.load_state_dict(state["stream"])
        self.steps, self.diverged = state["steps"], list(state["diverged"])
        self.model.load_state_dict(state["model"])
        for adam, saved in zip(self._adam, state["adam"], strict=True):
            adam.load_state_dict(saved)
        self._keep = [value.clone() for value in state["keep"]]

    def _adams(self) -> list[torch.optim.Adam]:
        """One for all runs, or one for each where their rates differ: the same numbers, the first in fewer calls."""
        model, gradient = self.model, self._gradient
        if len(set(self._rates)) == 1:
            owned = [(self._rates[0], ((model.w.data, gradient.w), (model.Q.data, gradient.Q)))]
        else:
            owned = [
                (rate, ((w, gradient.w[run]), (q, gradient.Q[run])))
                for run, (rate, (w, q)) in enumerate(zip(self._rates, self._parts, strict=True))
            ]
        made = []
        for rate, pairs in owned:
            for parameter, its_gradient in pairs:
                parameter.grad = its_gradient
            made.append(torch.optim.Adam([parameter for parameter, _ in pairs], lr=rate, fused=True))
        return made

    def _forget(self, run: int) -> None:
        """Adam's memory of a run, which would move it even without a gradient."""
        for index, adam in enumerate(self._adam):
            if len(self._adam) > 1 and index != run:
                continue
            for state in adam.state.values():
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name][... if len(self._adam) > 1 else run] = 0

    def _moments(self) -> Moments:
        if self.settings.batch == 0:
            return self._exact
        return Moments.of_batch(self._stream.batch(), self.dictionary.n_prompt)

    def _test_moments(self, shifted: bool) -> Tensor:
        n = self.dictionary.n_prompt
        if self.settings.n_test:
            return Moments.of_batch(self._stream.tests[shifted], n).shown
        return self.dictionary.second_moment(shifted=shifted)[..., :n, :n]

    def _gap(self, a_hat: Tensor, shifted: bool) -> Tensor:
        difference = a_hat - self._optimum
        return (difference * (self._tests[shifted] @ difference)).sum((-2, -1)) / self.dictionary.n_tokens
