"""`iclens select`: prompts judged on queries, and a whole choice, in plain forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from iclens.benchmarks.case import CASES, Absent, Agreement, Comparison, Context, Entry, Side, Target, takes
from iclens.benchmarks.few_shot import ANSWERS, TEMPLATE, answer_ids, examples, written
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, lens_model
from iclens.benchmarks.llama_shaped import smollm2
from iclens.lens import LensModel
from iclens.selection import Selection, select
from iclens.selection.checking import check
from iclens.selection.comparing import Measured

Pairs = list[tuple[str, str]]


@CASES.register("select")
@takes(minutes=6)
def choice(context: Context) -> Iterator[Entry]:
    """A prompt judged on queries, and a whole choice of demonstrations, beside plain forward passes."""
    for asked in questions(context, context.pick(6, 16)):
        if isinstance(asked, Absent):
            yield asked
            continue
        yield asked.judged(context)
        yield asked.chosen(context)


def questions(context: Context, n_shots: int) -> Iterator[Asked | Absent]:
    """Yield the same pool and queries for a GPT-2-shaped model and, at full size, for SmolLM2 where it is installed."""
    for model in (lens_model(context.pick(TINY, SMALL)), *(() if context.quick else (smollm2(),))):
        if isinstance(model, Absent):
            yield model
        else:
            yield Asked(model, examples(n_shots, 10), examples(context.pick(8, 32), 10, seed=1))


@dataclass(frozen=True)
class Asked:
    """A model, a pool of demonstrations, and queries with right answers."""

    lens_model: LensModel
    pool: Pairs
    dev: Pairs

    def judged(self, context: Context) -> Comparison:
        """One prompt on all queries: what they share is read once."""

        def ours() -> Measured:
            return check(self.lens_model, self.pool, self.dev, template=TEMPLATE, candidates=ANSWERS)

        def agree() -> Sequence[Agreement]:
            return [Agreement("log-loss", abs(ours().log_loss.mean - self.log_loss(self.pool, self.dev)), 1e-4)]

        return Comparison(
            f"a prompt of {len(self.pool)} demonstrations judged on {len(self.dev)} queries: {self.lens_model.name}",
            Side("check", ours),
            Side("every query after the whole prompt by itself", lambda: self.log_loss(self.pool, self.dev)),
            agree,
            targets=() if context.quick else (Target("speed-up", 4.0),),
            most_pairs=2,
            warm_up=False,
            repeat=False,
        )

    def chosen(self, context: Context) -> Comparison:
        """All of `select` beside as many plain passes over the pool and a query as it counts."""
        known: list[Selection] = []

        def ours() -> Selection:
            known[:] = [
                select(
                    self.lens_model, self.pool, self.dev, k=context.pick(2, 4), budget=context.pick(8.0, 10.0),
                    template=TEMPLATE, candidates=ANSWERS,
                )
            ]  # fmt: skip
            return known[0]

        def agree() -> Sequence[Agreement]:
            found = ours()
            shots, aside = [self.pool[i] for i in found.indices], [self.dev[i] for i in found.set_aside]
            told = found.held_out.after.log_loss.mean
            return [Agreement("held-out log-loss of the choice", abs(told - self.log_loss(shots, aside)), 1e-4)]

        def passes() -> None:
            spent = known[0].cost
            for _ in range(ceil(spent.choice + spent.against + spent.report)):
                self.log_loss(self.pool, self.dev[:1])

        return Comparison(
            f"choosing {context.pick(2, 4)} of {len(self.pool)} by {len(self.dev)} queries: {self.lens_model.name}",
            Side("select", ours),
            Side("plain forward passes over as many tokens", passes),
            agree,
            # Backward passes count as one forward pass, and take two.
            targets=() if context.quick else (Target("speed-up", 0.5, "at most twice the passes that it counts"),),
            most_pairs=2,
            warm_up=False,
            repeat=False,
        )

    @torch.no_grad()
    def log_loss(self, shots: Pairs, asked: Pairs) -> float:
        """The mean −log p of the right answer among both, every prompt by itself through the model's own attention."""
        lost = [self._lost(written(shots, text), right) for text, right in asked]
        return sum(lost) / len(lost)

    def _lost(self, text: str, right: str) -> float:
        tokenizer = self.lens_model.tokenizer
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = self.lens_model.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
        return -float(logits[answer_ids(text, tokenizer)].log_softmax(-1)[ANSWERS.index(right)])
