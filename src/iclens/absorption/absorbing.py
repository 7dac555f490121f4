"""Turn the demonstrations of a prompt into a small change of weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from iclens.absorption.absorbed import Absorbed
from iclens.absorption.adapter import Adapter
from iclens.absorption.fitting import RIDGE, fit
from iclens.absorption.pairing import EMPHASIS, Pairing
from iclens.absorption.plan import RANK, Plan, plan
from iclens.absorption.queries import ALONE, Answered, Queries
from iclens.absorption.reached import ABSORBED, LORA, PROMPT, ZERO, Reached, reached
from iclens.absorption.sites import USUAL
from iclens.absorption.states import States, states_of
from iclens.absorption.training import Lesson, Training, train
from iclens.lens.prompt import Prompt
from iclens.selection.evaluator import Order
from iclens.selection.examples import ExamplesLike
from iclens.selection.metrics import MATCHES
from iclens.selection.splitting import HELD_OUT

Tell = Callable[[int, int, str], None]
"""Called with the number of a stage, what is done of it in thousandths, and its name."""


def absorb(
    model: Any,
    demonstrations: ExamplesLike | Prompt,
    queries: ExamplesLike,
    *,
    rank: int = RANK,
    layers: Sequence[int] | None = None,
    targets: Sequence[str] = USUAL,
    ridge: float = RIDGE,
    emphasis: float = EMPHASIS,
    ranks: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
    compare_lora: bool = False,
    lora_steps: int = Training.steps,
    lora_learning_rate: float = Training.learning_rate,
    template: str | None = None,
    instruction: str | None = None,
    separator: str | None = None,
    as_chat: bool = False,
    template_args: Mapping[str, Any] | None = None,
    system_in_user: bool = False,
    candidates: Sequence[str] | None = None,
    match: str = MATCHES[0],
    held_out: float | ExamplesLike = HELD_OUT,
    seed: int = 0,
    tokenizer: Any = None,
    progress: Tell = lambda stage, done, name: None,
) -> Absorbed:
    """Fit a change of weights, of low rank, with which the model answers a query as it would behind the demonstrations.

    For each changed matrix W, in the order of the layers,

        Δ = argmin Σ_t w_t |(W + Δ) a_t − target_t|² + λ |Δ|²,   rank Δ ≤ r,

    in closed form: a_t is the matrix's input at token t of a query alone, in the model as changed so far, and the
    target what puts the stream where it is behind the demonstrations (`fitting`). The instruction is not absorbed: it
    stays in the prompt.

    Args:
        model: what `explain` takes.
        demonstrations: a file, pairs, or a prompt, whose query is ignored.
        queries: examples with right answers. A part is set aside and takes no part in the fit; of the others the inputs
            count, and of an answer of several tokens those before the last.
        rank: of every change.
        layers: which ones are changed; all by default.
        targets: which matrices, see `TARGETS`.
        ridge: λ in tokens of mean size, λ = ridge · Σ w|a|²/Σ w.
        emphasis: how often a token counts behind which an answer is read.
        ranks: further ranks to measure; by default some around `rank`, `()` for none.
        numbers: of demonstrations, of shorter prompts to absorb and measure; by default a quarter and half, `()` for
            none.
        compare_lora: also train two LoRAs of the same rank and place, on the demonstrations' answers and on what the
            model says after the prompt to the fitted queries.
        lora_steps: of training.
        lora_learning_rate: of Adam.
        template: how a pair is written, see `Prompt.from_examples`.
        instruction: a text before the demonstrations, which stays in the prompt.
        separator: what stands between them.
        as_chat: write pairs by the model's chat template; this and what follows is as in `select`.
        template_args: further arguments of the chat template.
        system_in_user: put a chat's system message before the first question.
        candidates: the answers among which the model chooses; None takes the outputs where they are few.
        match: how a free answer is compared.
        held_out: what takes no part in the fit: a part of `queries`, between 0 and 1, or other examples.
        seed: of the split, and of training.
        tokenizer: the tokenizer of a Hugging Face model.
        progress: is called with the number of the stage, thousandths of it, and its name.

    Raises:
        UserError: something cannot be read or does not go together, or the model has norms on its stream.
    """
    training = Training(lora_steps, lora_learning_rate) if compare_lora else None
    return carried_out(
        plan(
            model, demonstrations, queries, rank=rank, layers=layers, targets=targets, ridge=ridge, emphasis=emphasis,
            ranks=ranks, numbers=numbers, training=training, template=template, instruction=instruction,
            separator=separator, as_chat=as_chat, template_args=template_args, system_in_user=system_in_user,
            candidates=candidates, match=match, held_out=held_out, seed=seed, tokenizer=tokenizer,
        ),
        progress,
    )  # fmt: skip


def carried_out(made: Plan, progress: Tell = lambda stage, done, name: None) -> Absorbed:
    """Fit the adapters of a plan, and measure each beside the prompt and the query alone."""
    began = time.perf_counter()
    work = _Work(made, progress)
    prompt, zero = work.prompt(made.whole), work.zero
    n = len(made.whole)
    states = work.states(made.whole)
    adapter, own = work.absorbed(made.whole, states, made.rank)
    main = [
        reached(ZERO, zero, prompt, demonstrations=n, rank=None, tokens=work.tokens(ALONE)),
        reached(PROMPT, prompt, prompt, demonstrations=n, rank=None, tokens=work.tokens(made.whole)),
        own,
    ]
    by_rank = [work.absorbed(made.whole, states, rank)[1] for rank in made.ranks]
    by_number = []
    for number in made.numbers:
        fewer = made.whole[:number]
        own_states, own_prompt = work.states(fewer), work.prompt(fewer)
        by_number += [
            reached(PROMPT, own_prompt, own_prompt, demonstrations=number, rank=None, tokens=work.tokens(fewer)),
            work.absorbed(fewer, own_states, made.rank)[1],
        ]
    if made.training is not None:
        main += work.trained(made.training)
    task = made.task
    return Absorbed(
        adapter=adapter,
        lens_model=task.lens_model,
        main=tuple(main),
        by_rank=tuple(sorted([*by_rank, own], key=lambda one: one.rank or 0)) if by_rank else (),
        by_number=(*by_number, main[1], own) if by_number else (),
        n_fitted=len(task.dev),
        n_held_out=len(task.aside),
        layers=tuple(sorted({site.layer for site in made.sites})),
        targets=made.targets,
        ridge=made.ridge,
        metric=str(task.metric),
        candidates=task.candidates,
        seconds=time.perf_counter() - began,
        seed=made.seed,
        notes=tuple(dict.fromkeys(task.notes)),
    )


class _Work:
    """The pieces of the work, each told as it is done; what a prompt answers is read once."""

    def __init__(self, made: Plan, progress: Tell) -> None:
        self.plan, self.tell = made, progress
        self.model = made.task.lens_model
        self.stage = 0
        self.answers: dict[Order, Answered] = {}
        self.pairings: dict[Order, Pairing] = {}
        self.zero = self.prompt(ALONE)

    def prompt(self, order: Order) -> Answered:
        """What the model as it is answers to the held-out queries behind some demonstrations."""
        if order not in self.answers:
            self._begin(f"reading {len(order)} demonstrations" if order else "reading queries alone")
            self.answers[order] = self.plan.held_out.answered(order)
            self._end()
        return self.answers[order]

    def tokens(self, order: Order) -> float:
        """Mean tokens of the held-out queries behind some demonstrations."""
        return self.plan.held_out.tokens(order)

    def states(self, order: Order) -> States:
        """The fitted queries' states behind some demonstrations."""
        whole = order == self.plan.whole
        pairing = self.plan.pairing if whole else self.plan.fitted.paired(order, self.plan.emphasis)
        self.pairings[order] = pairing
        return states_of(self.model, pairing.behind, pairing.there, self.plan.sites)

    def absorbed(self, order: Order, states: States, rank: int) -> tuple[Adapter, Reached]:
        """Fit a change and measure it."""
        name = self._begin(f"fitting rank {rank} to {len(order)} demonstrations")

        def advance(done: int) -> None:
            self.tell(self.stage, 900 * done // len(self.plan.sites), name)

        adapter = fit(self.model, self.plan.sites, states, self.pairings[order], rank, self.plan.ridge, advance)
        found = self._measured(ABSORBED, adapter, order)
        self._end()
        return adapter, found

    def trained(self, training: Training) -> list[Reached]:
        """Train two LoRAs and measure them."""
        made, model = self.plan, self.model
        shots = Queries(made.task, tuple(made.task.shots[i] for i in made.whole))
        answers = [query.ids[query.right] for query in shots.evaluator.queries]
        found = []
        for name in made.rivals:
            if name == LORA:
                lesson = Lesson.of_answers(shots.ids(ALONE), answers, model.n_vocabulary)
            else:
                asked = made.fitted.ids(ALONE)
                places = [(i, len(text) - 1) for i, text in enumerate(asked)]
                lesson = Lesson(asked, places, made.fitted.answered(made.whole).next_token.exp())
            told = self._begin(f"training a {name}")

            def advance(done: int, told: str = told) -> None:
                self.tell(self.stage, 950 * done // training.steps, told)

            adapter = train(model, made.sites, made.rank, lesson, training, made.seed, advance)
            found.append(self._measured(name, adapter, made.whole))
            self._end()
        return found

    def _measured(self, name: str, adapter: Adapter, order: Order) -> Reached:
        with adapter.applied(self.model), torch.no_grad():
            own = self.plan.held_out.answered(ALONE)
        return reached(
            name, own, self.prompt(order), demonstrations=len(order), rank=adapter.rank, tokens=self.tokens(ALONE)
        )

    def _begin(self, name: str) -> str:
        self.tell(self.stage, 0, name)
        return name

    def _end(self) -> None:
        self.tell(self.stage, 1000, "")
        self.stage += 1


def stages(made: Plan) -> int:
    """How many stages `carried_out` reports."""
    return 2 + len(made.numbers) + made.n_fits + (0 if made.training is None else len(made.rivals))
