"""Few-shot prompts: sets of demonstrations with queries of their own, and texts to fine-tune on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from iclens.errors import UserError
from iclens.lens import LensModel
from iclens.lens.read.cached_prefix import read_behind_prefix
from iclens.lens.scores.deletions import ids_of
from iclens.papers.attribution.real_models.data import Pair, Task, read_task
from iclens.papers.ren_liu_2024.on_real_models.settings import ModifiedSettings
from iclens.selection.asked import Query, read_query
from iclens.selection.examples import Example
from iclens.selection.reading import MOST_TOKENS, log_probabilities

Text = tuple[list[int], Query]
"""The tokens of a prompt, and what is asked behind it."""


@dataclass(frozen=True)
class Answer:
    """What a model says to a query.

    Attributes:
        log_loss: −log p of the right answer, in nats; of its probability among the labels where these are few.
        right: whether the right answer is the likeliest label, or what greedy decoding begins with.
    """

    log_loss: float
    right: bool


def read(name: str, settings: ModifiedSettings) -> Task:
    """A task's pairs with inputs of at most so many characters.

    Raises:
        UserError: its file cannot be read.
    """
    whole = read_task(settings.data, name)
    return replace(whole, pairs=tuple(pair for pair in whole.pairs if len(pair[0]) <= settings.most_characters))


def drawn_set(task: Task, settings: ModifiedSettings, number: int) -> tuple[list[Pair], list[Pair]]:
    """The demonstrations and the queries of a set; no pair is in two sets.

    Raises:
        UserError: the task has too few pairs.
    """
    size = settings.shots + settings.n_queries
    pairs = task.drawn(torch.Generator().manual_seed(settings.seed), settings.n_sets * size)
    own = pairs[number * size : (number + 1) * size]
    return own[: settings.shots], own[settings.shots :]


def texts_of(lens_model: LensModel, task: Task, shots: Sequence[Pair], queries: Sequence[Pair]) -> list[Text]:
    """Write the prompt of every query behind the same demonstrations.

    Raises:
        UserError: a prompt does not fit into the model's context.
    """
    prompts = [task.asked(shots, query).prompt for query in queries]
    asked = [
        read_query(lens_model, prompt, Example(*query), task.labels)
        for prompt, query in zip(prompts, queries, strict=True)
    ]
    texts = list(zip(ids_of(lens_model, prompts), asked, strict=True))
    longest = max(len(ids) + max(map(len, query.ids)) - 1 for ids, query in texts)
    _check_length(lens_model, longest, task)
    return texts


def answers(lens_model: LensModel, texts: Sequence[Text], *, shared: bool = True) -> list[Answer]:
    """What the model says to every query, whatever attention is in it.

    Args:
        lens_model: the model.
        texts: prompts, read together.
        shared: read what they begin with once; without it every text is read whole, the naive way beside the fast one.
    """
    reader = read_behind_prefix if shared else None
    values, greedy, _ = log_probabilities(lens_model, texts, MOST_TOKENS, shared=False, reader=reader)
    found = []
    for (_, query), own, begins in zip(texts, values, greedy, strict=True):
        log_p = torch.tensor(own, dtype=torch.float64)
        if query.is_free:
            found.append(Answer(-own[0], begins))
        else:
            loss = float(log_p.logsumexp(0) - log_p[query.right])
            found.append(Answer(loss, int(log_p.argmax()) == query.right))
    return found


@dataclass(frozen=True)
class Lesson:
    """A few-shot prompt to train on.

    Attributes:
        ids: its tokens.
        targets: the places of those that belong to an output, the first output left out: it has no demonstration.
    """

    ids: list[int]
    targets: list[int]


def lessons(lens_model: LensModel, tasks: Sequence[Task], settings: ModifiedSettings, seed: int) -> list[Lesson]:
    """Draw prompts of one demonstration more than a set has, each of a random task; `steps` × `batch` of them.

    Raises:
        UserError: a prompt does not fit into the model's context, or a task has too few pairs.
    """
    # Other numbers than those of the sets that are asked.
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + settings.seed)
    found = []
    for _ in range(settings.steps * settings.batch):
        task = tasks[int(torch.randint(len(tasks), (1,), generator=generator))]
        pairs = task.drawn(generator, settings.shots + 1)
        found.append(lesson(lens_model, task, pairs))
        _check_length(lens_model, len(found[-1].ids), task)
    return found


def lesson(lens_model: LensModel, task: Task, pairs: Sequence[Pair]) -> Lesson:
    """Write pairs as a prompt of demonstrations alone, and find the tokens of their outputs."""
    prompt = task.asked(pairs, pairs[0]).prompt
    spans = prompt.demonstrations
    encoded = lens_model.tokenizer(
        prompt.text[: spans[-1].end], add_special_tokens=prompt.add_special_tokens, return_offsets_mapping=True
    )
    outputs = [
        (span.start + prompt.text[span.start : span.end].rindex(output), span.end)
        for span, (_, output) in zip(spans, pairs, strict=True)
    ]
    targets = [
        place
        for place, (start, end) in enumerate(encoded["offset_mapping"])
        if place and any(start < last and end > first for first, last in outputs[1:])
    ]
    return Lesson(list(encoded["input_ids"]), targets)


def _check_length(lens_model: LensModel, longest: int, task: Task) -> None:
    limit = lens_model.context_length
    if limit is not None and longest > limit:
        raise UserError(
            f"a prompt of the task {task.name} has {longest} tokens, but the context of {lens_model.name} holds "
            f"{limit}: give fewer shots."
        )
