"""Fine-tuning of an encoder on one task with one attention.

A run is determined by its backbone, its data, its row, its seed and its settings; it starts from the same weights
whatever ran before.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1.backbone import Backbone
from iclens.papers.ren_liu_2024.table_1.classifier import Classifier
from iclens.papers.ren_liu_2024.table_1.glue import Example, TaskData, metrics
from iclens.papers.ren_liu_2024.table_1.packed import pack, packable
from iclens.training.reproducibly import reproducibly


@dataclass(frozen=True)
class Row:
    """One row of the table: an attention variant with its options.

    Attributes:
        name: as the table prints it; unique.
        kind: `original`, `regularized`, `augmented`, `negative` or `control`.
        variant: the registered attention variant; None leaves the model as it is.
        options: the variant's options.
        origin: where the setting is from: `"read"` in the paper, or `"ours"`.
    """

    name: str
    kind: str
    variant: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    origin: str = "ours"


@dataclass(frozen=True)
class Settings:
    """What a run is trained by.

    Attributes:
        n_steps: optimiser steps.
        batch: examples a step.
        learning_rate: AdamW's highest; it rises over the warm-up and then falls, both linearly.
        weight_decay: AdamW's, on matrices only.
        warm_up: fraction of the steps.
        max_length: longest input in tokens; longer ones are cut.
        threads: torch threads; a run repeats bit for bit with the same number.
        frozen_words: leave the word embeddings as they are, half of a small encoder's parameters.
        packed: compute no padding, where the encoder can do without (`table_1.packed`). Without dropout the numbers are
            the same but for rounding; with it, dropout is drawn for the tokens alone.
    """

    n_steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warm_up: float = 0.1
    max_length: int = 128
    threads: int = 1
    frozen_words: bool = False
    packed: bool = True

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch", "max_length", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: it must be at least 1.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate {self.learning_rate}: it must be positive.")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        task: the task's name.
        row: the row's name.
        seed: of the head, the order of the examples and the dropout.
        scores: GLUE's metrics on the validation examples.
        predictions: the class or grade of every validation example, in order.
        losses: the training loss of every step.
        n_parameters: trained parameters.
        seconds: wall-clock time.
        diverged: whether an output was not finite; such outputs count as 0.
    """

    task: str
    row: str
    seed: int
    scores: dict[str, float]
    predictions: list[float]
    losses: list[float]
    n_parameters: int
    seconds: float
    diverged: bool


def attach(encoder: nn.Module, row: Row) -> None:
    """Put the row's attention into the encoder, in place.

    Raises:
        UserError: the variant is unknown, its options are wrong, or the encoder cannot take it.
    """
    if row.variant is None:
        return
    # Imported here: the drop-in brings transformers along.
    from iclens.attention.huggingface import apply

    apply(encoder, row.variant, **copy.deepcopy(row.options))


def train(backbone: Backbone, data: TaskData, row: Row, seed: int, settings: Settings, device: str = "cpu") -> Run:
    """Fine-tune a copy of the backbone and measure it on the validation examples.

    The backbone itself is left as it was.

    Args:
        backbone: where to start from.
        data: the task.
        row: which attention.
        seed: of the head, the order of the examples and the dropout; rows of one seed share all three.
        settings: how to train.
        device: where; another one rounds otherwise.

    Raises:
        UserError: the row's attention does not fit the backbone.
    """
    start = time.perf_counter()
    with reproducibly(seed, settings.threads):
        model = _model(backbone, data, row, seed, settings).to(device)
        losses = list(_training(model, backbone.tokenizer, data, seed, settings))
        outputs = _outputs(model, backbone.tokenizer, data, settings)
    diverged = not bool(outputs.isfinite().all())
    outputs = outputs.nan_to_num(0.0, 0.0, 0.0)
    predictions = (outputs[:, 0] if data.task.graded else outputs.argmax(-1)).tolist()
    predictions = [float(value) for value in predictions]
    return Run(
        task=data.task.name,
        row=row.name,
        seed=seed,
        scores=metrics(data.task, predictions, [example.label for example in data.validation]),
        predictions=predictions,
        losses=[loss if math.isfinite(loss) else 1e30 for loss in losses],
        n_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=time.perf_counter() - start,
        diverged=diverged,
    )


def seconds_per_run(backbone: Backbone, data: TaskData, row: Row, settings: Settings, device: str = "cpu") -> float:
    """Estimated seconds of one run, from one timed step after a first one that warms up.

    On a CPU these are seconds of the process, which other processes do not lengthen.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    short = replace(settings, n_steps=2)
    typical = replace(data, train=_typical(data.train, settings.batch))
    with reproducibly(0, settings.threads):
        model = _model(backbone, data, row, 0, short).to(device)
        steps = _training(model, backbone.tokenizer, typical, 0, short)
        next(steps)
        start = clock()
        next(steps)
        step = clock() - start
    return of_steps(step, settings, len(data.validation))


def of_steps(seconds: float, settings: Settings, n_validation: int) -> float:
    """Seconds of a run of so many seconds a step: a forward pass, of the validation examples, is a third of a step."""
    return seconds * (settings.n_steps + n_validation / settings.batch / 3)


def _typical(examples: Sequence[Example], n: int) -> tuple[Example, ...]:
    """So many examples, as short and as long as all of them are."""
    by_length = sorted(examples, key=lambda example: sum(map(len, example.texts)))
    return tuple(by_length[int((place + 0.5) * len(by_length) / n)] for place in range(n))


def _model(backbone: Backbone, data: TaskData, row: Row, seed: int, settings: Settings) -> Classifier:
    config: Any = backbone.encoder.config
    dropout = float(getattr(config, "hidden_dropout_prob", 0.1))
    encoder: Any = copy.deepcopy(backbone.encoder)
    # The head is drawn before the variant's own parameters, so that every row of a seed has the same head.
    torch.manual_seed(seed)
    packed = settings.packed and packable(encoder)
    model = Classifier(encoder, int(config.hidden_size), data.task.n_classes, dropout, packed)
    attach(encoder, row)
    if packed:
        pack(encoder)
    model.float()
    if settings.frozen_words:
        encoder.get_input_embeddings().requires_grad_(False)
    return model


def _training(model: Classifier, tokenizer: Any, data: TaskData, seed: int, settings: Settings) -> Iterator[float]:
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, settings))
    order = shuffled_epochs(len(data.train), seed, settings.n_steps * settings.batch)
    device = next(model.parameters()).device
    grades = torch.tensor([example.label for example in data.train], dtype=torch.float32, device=device)
    # Correlations do not see an affine map, and a head that starts at zero need not travel to the mean first.
    mean, spread = (grades.mean(), grades.std().clamp(min=1e-6)) if data.task.graded else (grades[0] * 0, 1.0)
    # Dropout has draws of its own: the variants' parameters must not shift them.
    torch.manual_seed(seed + 1)
    model.train()
    for step in range(settings.n_steps):
        chosen = order[step * settings.batch : (step + 1) * settings.batch]
        outputs = model(**_encode(tokenizer, [data.train[index] for index in chosen], settings, device))
        labels = grades[torch.tensor(chosen, device=device)]
        if data.task.graded:
            loss = mse_loss(outputs[:, 0], (labels - mean) / spread)
        else:
            loss = cross_entropy(outputs, labels.long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


def _outputs(model: Classifier, tokenizer: Any, data: TaskData, settings: Settings) -> torch.Tensor:
    model.eval()
    device = next(model.parameters()).device
    size = 2 * settings.batch
    with torch.no_grad():
        return torch.cat(
            [
                model(**_encode(tokenizer, data.validation[start : start + size], settings, device)).cpu()
                for start in range(0, len(data.validation), size)
            ]
        ).double()


def rate_at(step: int, settings: Settings) -> float:
    """The learning rate at a step, as a share of the highest."""
    warm_up = max(1, round(settings.warm_up * settings.n_steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return max(0.0, (settings.n_steps - step) / max(1, settings.n_steps - warm_up))


def shuffled_epochs(n: int, seed: int, length: int) -> list[int]:
    """Epoch after epoch, each shuffled, cut to what the run needs."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < length:
        order += torch.randperm(n, generator=generator).tolist()
    return order[:length]


def _encode(
    tokenizer: Any, examples: Sequence[Example], settings: Settings, device: torch.device
) -> dict[str, torch.Tensor]:
    columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
    encoded = tokenizer(*columns, padding=True, truncation=True, max_length=settings.max_length, return_tensors="pt")
    return {name: values.to(device) for name, values in encoded.items()}
