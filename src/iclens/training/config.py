"""What a run is: a frozen, typed configuration; equal configurations are the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

import torch

from iclens.attention.variant import ATTENTIONS
from iclens.errors import UserError, did_you_mean
from iclens.models.model import MODELS, PromptModel
from iclens.tasks.shifts import SHIFTS, shifted
from iclens.tasks.task import TASKS, Task
from iclens.training.typed_values import check_types, converted, hints_of

SCHEMA = 1
"""Part of every key: raised when the same configuration would train to something else."""

C = TypeVar("C")


@dataclass(frozen=True)
class Chosen:
    """A registered thing and its options.

    Attributes:
        name: the registered name.
        options: its options; those left out have the defaults of its constructor.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curriculum:
    """Prompts that grow: wider inputs and more points at regular intervals.

    At step t the inputs have min(d, d_start + d_step · ⌊t/every⌋) coordinates that are not zero, and the prompts
    min(n_context, n_start + n_step · ⌊t/every⌋) demonstrations. Garg et al. 2022: 5 by 1 and, with the query counted,
    11 by 2, every 2,000 steps. Prompts are drawn for eight steps at a time: all eight have the stage of the first.

    Attributes:
        every: steps between two stages; 0 for no curriculum.
        d_start: coordinates at the start.
        d_step: how many are added at each stage.
        n_start: demonstrations at the start.
        n_step: how many are added at each stage.

    Raises:
        UserError: a negative number, or no coordinate at the start.
    """

    every: int = 0
    d_start: int = 5
    d_step: int = 1
    n_start: int = 10
    n_step: int = 2

    def __post_init__(self) -> None:
        check_types("curriculum", self)
        for name in ("every", "d_step", "n_start", "n_step"):
            if getattr(self, name) < 0:
                raise UserError(f"curriculum.{name}={getattr(self, name)} must not be negative.")
        if self.d_start < 1:
            raise UserError(f"curriculum.d_start={self.d_start} must be at least 1.")

    def stage(self, step: int, d: int, n_context: int) -> tuple[int, int]:
        """Coordinates and demonstrations at a step."""
        if self.every == 0:
            return d, n_context
        done = step // self.every
        return min(d, self.d_start + self.d_step * done), min(n_context, self.n_start + self.n_step * done)


@dataclass(frozen=True)
class Training:
    """How a run is trained.

    Attributes:
        steps: number of optimiser steps.
        batch: prompts a step.
        n_context: demonstrations of a prompt, at the end of the curriculum.
        loss: `"every-prefix"`, the mean over all prefixes (Garg et al.), or `"query"`, the last point only.
        loss_kind: `"squared"`, the squared error summed over the d_y outputs, or `"cross-entropy"` for one-hot labels.
        optimizer: `adam`, `adamw`, `sgd`, or `gd`: full-batch gradient descent on one fixed sample of `batch` prompts.
        learning_rate: positive.
        rates: factors of the learning rate for the parameters whose name contains a key, e.g. `{"read_out": 10.0}`.
        momentum: of `sgd` and `gd`, in [0, 1).
        betas: of Adam.
        weight_decay: decoupled (AdamW) for `adamw`, added to the gradient otherwise.
        warmup: steps over which the learning rate rises linearly.
        schedule: `constant`, or `cosine` or `linear` down to 0 at the last step.
        clip: largest norm of the gradient of a run; 0 for no clipping.
        dtype: `float32`, `float64`, or `bfloat16` for mixed precision (parameters stay float32).
        compile: compile the step with torch.compile; the first step then takes up to a minute.
        evaluate_every: steps between two evaluations; 0 for only one, at the end.
        evaluation_prompts: prompts of an evaluation.

    Raises:
        UserError: a value of another type, not finite, unknown or out of its range.
    """

    steps: int = 2000
    batch: int = 64
    n_context: int = 20
    loss: Literal["every-prefix", "query"] = "every-prefix"
    loss_kind: Literal["squared", "cross-entropy"] = "squared"
    optimizer: Literal["adam", "adamw", "sgd", "gd"] = "adam"
    learning_rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    clip: float = 0.0
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    compile: bool = False
    evaluate_every: int = 500
    evaluation_prompts: int = 512

    def __post_init__(self) -> None:
        check_types("training", self)
        for name in ("steps", "batch", "evaluation_prompts"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name}={getattr(self, name)} must be at least 1.")
        for name in ("n_context", "warmup", "evaluate_every", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name}={getattr(self, name)} must not be negative.")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"training.learning_rate={self.learning_rate} must be positive and finite.")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError("training.momentum and training.betas must lie in [0, 1).")
        for name, factor in self.rates.items():
            if not (isinstance(factor, int | float) and 0 <= factor < math.inf):
                raise UserError(f"training.rates.{name}={factor!r} must be a finite number, 0 or more.")


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
        task: what is learnt in context.
        model: what learns it.
        training: how.
        curriculum: how prompts grow.
        shift: a shift of the task under which the run trains; none for the task itself.
        seed: of the parameters and of the prompts.

    Raises:
        UserError: a curriculum for full-batch gradient descent, whose prompts are drawn once.
    """

    task: Chosen = Chosen("linear")
    model: Chosen = Chosen("transformer")
    training: Training = Training()
    curriculum: Curriculum = Curriculum()
    shift: Chosen | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.curriculum.every and self.training.optimizer == "gd":
            raise UserError(
                "training.optimizer='gd' trains on one fixed sample, which no curriculum can change: set "
                "curriculum.every=0, or another optimizer."
            )

    def make_task(self) -> Task:
        """Return the task, shifted if a shift is given.

        Raises:
            UserError: an unknown task, shift or option, or impossible values.
        """
        task = TASKS.checked(self.task.name, self.task.options)(**self.task.options)
        return task if self.shift is None else shifted(task, self.shift.name, **self.shift.options)

    def check(self) -> None:
        """Refuse what could not be trained, before anything is.

        Raises:
            UserError: impossible options of the task or the model, prompts that cannot be drawn, or what `check_model`
                refuses.
        """
        task = self.make_task()
        try:
            model = self.model_class()(task.d, task.d_y, [self.seed], **self.model.options)
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            # Options inside options, such as those of an attention's parts, have no types that could be checked before.
            said = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"model {self.model.name!r} cannot be made with these options: {said}.") from error
        self.check_model(model)
        # Some prompts cannot be drawn: more tokens than a dictionary has, a query orthogonal to too many inputs.
        task.sample(torch.Generator().manual_seed(0), 1, self.training.n_context)

    def check_model(self, model: PromptModel) -> None:
        """Refuse a model that cannot be trained as this configuration says.

        Args:
            model: of this configuration, or an ensemble that this run is in.

        Raises:
            UserError: a loss at every prefix for a model that answers the query only, prompts that it cannot read, or
                a factor of the learning rate that no parameter has.
        """
        if self.training.loss == "every-prefix" and not model.every_prefix:
            raise UserError(
                f"model {self.model.name!r} with these options answers the query only: set training.loss='query'."
            )
        model.check_points(self.training.n_context + 1)
        names = [name for name, _ in model.named_parameters()]
        for part in self.training.rates:
            if not any(part in name for name in names):
                raise UserError(
                    f"training.rates.{part}: no parameter has {part!r} in its name. Parameters: {', '.join(names)}."
                )

    def model_class(self) -> type[PromptModel]:
        """Return the class of the model, once its options are known to exist."""
        return MODELS.checked(self.model.name, self.model.options, given=3)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every default written out: `RunConfig.from_dict` reads them."""
        task, model = TASKS[self.task.name], MODELS[self.model.name]
        return {
            "seed": self.seed,
            "task": {"name": self.task.name, **_filled(task, self.task.options, 0)},
            "model": {"name": self.model.name, **_filled(model, self.model.options, 3)},
            "training": dataclasses.asdict(self.training),
            "curriculum": dataclasses.asdict(self.curriculum),
            "shift": None if self.shift is None else {"name": self.shift.name, **self.shift.options},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> RunConfig:
        """Return a configuration from plain values, as a TOML or JSON file gives them.

        Raises:
            UserError: an unknown key ("did you mean"), a value of the wrong type, or an impossible one.
        """
        _known("the configuration", data, [item.name for item in dataclasses.fields(RunConfig)])
        parts: dict[str, Any] = {}
        for name, default in (("task", "linear"), ("model", "transformer")):
            parts[name] = _chosen(name, data.get(name, {}), default)
        if data.get("shift") is not None:
            parts["shift"] = _chosen("shift", data["shift"], None)
        parts["training"] = _typed("training", Training, data.get("training", {}))
        parts["curriculum"] = _typed("curriculum", Curriculum, data.get("curriculum", {}))
        seed = data.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
            raise UserError(f"seed={seed!r} must be a whole number from 0 to 2³¹ − 1.")
        for name, registry, given in (("task", TASKS, 0), ("model", MODELS, 3), ("shift", SHIFTS, 1)):
            if name in parts:
                chosen = parts[name]
                entry = registry.checked(chosen.name, chosen.options, given=given)
                parts[name] = Chosen(chosen.name, _options(name, entry, chosen.options))
        parts["model"] = _with_attention(parts["model"])
        return RunConfig(seed=seed, **parts)

    def key(self) -> str:
        """Return the run's name in a store: a hash of everything that determines the result."""
        text = json.dumps([SCHEMA, self.to_dict()], sort_keys=True, default=_plain)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value)


def _filled(entry: Any, options: Mapping[str, Any], given: int) -> dict[str, Any]:
    # An empty table says no more than its absence.
    said = {name: value for name, value in options.items() if not isinstance(value, Mapping) or value}
    return {item.name: said.get(item.name, item.default) for item in _parameters(entry)[given:]}


@cache
def _parameters(entry: Any) -> tuple[inspect.Parameter, ...]:
    """Parameters of a constructor; reading them takes longer than all else that a configuration is asked for."""
    return tuple(inspect.signature(entry).parameters.values())


def _known(where: str, data: Any, known: list[str]) -> None:
    if not isinstance(data, Mapping):
        raise UserError(f"{where} must be a table of keys and values, not {data!r}.")
    for key in data:
        if key not in known:
            raise UserError(f"{where} has no key {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}.")


def _chosen(where: str, data: Any, default: str | None) -> Chosen:
    if not isinstance(data, Mapping):
        raise UserError(f"{where} must be a table with a name, not {data!r}.")
    options = dict(data)
    name = options.pop("name", default)
    if not isinstance(name, str):
        raise UserError(f"{where}.name={name!r} must be a name.")
    return Chosen(name, options)


def _typed(where: str, cls: type[C], data: Any) -> C:
    hints = hints_of(cls)
    _known(where, data, list(hints))
    return cls(**{key: converted(f"{where}.{key}", hints[key], value) for key, value in data.items()})


def _options(where: str, entry: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the constructor of `entry` wants them, so that 1 and 1.0 are one configuration."""
    try:
        hints = hints_of(entry.__init__)
    except NameError:  # annotations that only a type checker can read are left to the constructor
        return dict(options)
    return {
        key: converted(f"{where}.{key}", hints[key], value) if key in hints else value for key, value in options.items()
    }


def _with_attention(model: Chosen) -> Chosen:
    """Return the model, the options of its attention variant as that wants them."""
    options = model.options.get("attention_options")
    parameters = inspect.signature(MODELS[model.name]).parameters
    if not options or "attention" not in parameters:
        return model
    name = model.options.get("attention", parameters["attention"].default)
    entry = ATTENTIONS.checked(name, options, given=1)
    typed = _options("model.attention_options", entry, options)
    return Chosen(model.name, {**model.options, "attention_options": typed})
