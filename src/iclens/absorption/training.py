"""A LoRA of the same size and place, trained by gradient descent: what the closed form is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.absorption.adapter import Adapter
from iclens.absorption.low_rank import LowRank
from iclens.absorption.sites import Site, widths
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.read.capture import run
from iclens.lens.read.padded import PaddedTokens, unembedding_only


@dataclass(frozen=True)
class Training:
    """How a LoRA is trained: by Adam, all texts in every step.

    Attributes:
        steps: how many.
        learning_rate: of Adam, falling to zero along half a cosine.

    Raises:
        UserError: one of them is not positive.
    """

    steps: int = 100
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0:
            raise UserError("a LoRA is trained in 1 step at least, with a learning rate above 0.")


@dataclass(frozen=True, eq=False)
class Lesson:
    """Texts and what the model is to say in them.

    Attributes:
        texts: token ids.
        places: (text, position) of every logit row that is taught.
        targets: probabilities of the token behind each place.
    """

    texts: Sequence[Sequence[int]]
    places: Sequence[tuple[int, int]]
    targets: Float[Tensor, "n_places vocabulary"]

    @classmethod
    def of_answers(cls, texts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], n_words: int) -> Lesson:
        """Right answers behind texts, every token of them."""
        whole: list[list[int]] = []
        places: list[tuple[int, int]] = []
        said: list[int] = []
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            whole.append([*text, *answer[:-1]])
            places += [(i, len(text) - 1 + j) for j in range(len(answer))]
            said += answer
        return cls(whole, places, torch.nn.functional.one_hot(torch.tensor(said), n_words).float())


def train(
    lens_model: LensModel,
    sites: Sequence[Site],
    rank: int,
    lesson: Lesson,
    training: Training,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Adapter:
    """Train A and B from their usual start: A small at random, B zero.

    The loss is the mean cross-entropy with the targets; of probabilities it is KL and a constant.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(lens_model.dtype, torch.float32)
    device = lens_model.device
    maps: dict[str, LowRank] = {}
    for site in sites:
        d_in, d_out = widths(site.module)
        a = (2 * torch.rand(rank, d_in, generator=generator, dtype=dtype) - 1) / math.sqrt(d_in)
        b = torch.zeros(d_out, rank, dtype=dtype)
        maps[site.name] = LowRank(a.to(device).requires_grad_(), b.to(device).requires_grad_())
    adapter = Adapter.of(lens_model, rank, sites, maps)
    leaves = [part for one in adapter.maps.values() for part in (one.a, one.b)]
    optimizer = torch.optim.Adam(leaves, lr=training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    tokens = PaddedTokens.of([torch.tensor(text) for text in lesson.texts], [0] * len(lesson.texts), device)
    last = max(sum(text == i for text, _ in lesson.places) for i in range(len(lesson.texts)))
    positions = torch.zeros(len(lesson.texts), last, dtype=torch.long)
    rows: list[tuple[int, int]] = []
    for text, place in lesson.places:
        slot = sum(other == text for other, _ in rows)
        positions[text, slot] = place
        rows.append((text, slot))
    picked = tuple(torch.tensor(one, device=device) for one in zip(*rows, strict=True))
    targets = lesson.targets.to(device)
    for step in range(training.steps):
        with adapter.applied(lens_model), unembedding_only(lens_model, positions.to(device)):
            logits = run(lens_model, tokens.ids, position_ids=tokens.places)
        loss = -(targets * logits[picked].float().log_softmax(-1)).sum(-1).mean()
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        optimizer.step()
        schedule.step()
        advance(step + 1)
    done = {name: LowRank(one.a.detach(), one.b.detach()) for name, one in adapter.maps.items()}
    return Adapter.of(lens_model, rank, sites, done)
