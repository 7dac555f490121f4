"""Training of the deep model on the dictionary task, for a number of steps or a time by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.papers.yang_2024.closed_forms import optimum
from iclens.papers.yang_2024.deep_model import DeepDictionaryModel
from iclens.papers.yang_2024.label_stream import LabelStream
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTraining

_WATCHED = 512
"""Training prompts that the loss is measured on: enough for 5 %, and a measurement stays cheaper than a few steps."""


@dataclass(frozen=True)
class DeepMeasurement:
    """What is known at one step; one number for each run.

    Attributes:
        step: number of steps taken.
        seconds: time that the steps took by the clock, measurements left out.
        loss: L over the first 512 prompts of the training set; over fixed fresh ones where there is no such set.
        in_domain: mean over test prompts of (1/K) ‖ŷ − ŷ*‖².
        shifted: the same for λ ~ N(**1**, 4 I).
    """

    step: int
    seconds: float
    loss: Float[Tensor, " runs"]
    in_domain: Float[Tensor, " runs"]
    shifted: Float[Tensor, " runs"]


class DeepDictionaryTrainer:
    """Adam on batches of prompts, for a `DeepDictionaryModel`.

    Args:
        dictionary: one for each run (stacked).
        model: changed in place.
        settings: how; the optimizer is Adam with one rate, batches are drawn, and tests are.
        seeds: of each run's prompts.
    """

    def __init__(
        self, dictionary: Dictionary, model: DeepDictionaryModel, settings: DictionaryTraining, seeds: Sequence[int]
    ) -> None:
        (rate,) = set(settings.rates("learning_rate", model.n_runs))
        self.dictionary, self.model, self.settings = dictionary, model, settings
        dtype = model.tokens.dtype
        self._stream = LabelStream(dictionary, seeds, settings.batch, settings.n_draws, max(1, settings.n_test), dtype)
        best, n = optimum(dictionary), dictionary.n_prompt
        self._tests = {
            shifted: (labels[..., :n].to(dtype), (labels[..., :n] @ best).to(dtype))
            for shifted, labels in self._stream.tests.items()
        }
        fused = model.tokens.device.type in ("cpu", "cuda")
        self._adam = torch.optim.Adam(model.parameters(), lr=rate, fused=fused)
        draws = self._stream.draws
        self._watched = self._stream.batch() if draws is None else draws[:, :_WATCHED].to(dtype)
        self.steps, self.seconds = 0, 0.0

    def step(self) -> None:
        """One step of every run."""
        labels = self._stream.batch()
        answers = self.model.answers(labels[..., : self.dictionary.n_prompt])
        loss = (answers - labels).square().mean((1, 2)) / 2
        self._adam.zero_grad()
        # Runs share no parameter: the gradient of the sum is that of each.
        loss.sum().backward()
        self._adam.step()
        self.steps += 1

    def run(
        self,
        steps: int,
        seconds: float = 0.0,
        watch: Callable[[DeepMeasurement], None] | None = None,
    ) -> list[DeepMeasurement]:
        """Take steps until there are `steps` of them and they have taken `seconds` by the clock.

        Measured are the first and the last step and every `settings.every`-th one.

        Args:
            steps: the least number in all.
            seconds: at least so long in all.
            watch: called with every measurement as it is made.
        """
        found: list[DeepMeasurement] = []

        def measured() -> None:
            found.append(self.measure())
            if watch is not None:
                watch(found[-1])

        if self.steps == 0:
            measured()
        while self.steps < steps or self.seconds < seconds:
            start = time.perf_counter()
            self.step()
            if self.model.tokens.device.type == "cuda":
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - start
            if self.steps % self.settings.every == 0:
                measured()
        if found[-1].step != self.steps:
            measured()
        return found

    @torch.no_grad()
    def measure(self) -> DeepMeasurement:
        """Measure now."""
        n, gaps = self.dictionary.n_prompt, []
        for shifted in (False, True):
            shown, best = self._tests[shifted]
            gaps.append((self.model.answers(shown) - best).square().mean((1, 2)))
        loss = (self.model.answers(self._watched[..., :n]) - self._watched).square().mean((1, 2)) / 2
        return DeepMeasurement(self.steps, self.seconds, loss, gaps[0], gaps[1])
