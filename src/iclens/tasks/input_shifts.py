"""Shifts of the inputs; the functions and their noise stay as they are."""

from __future__ import annotations

import abc
import math

import torch

from iclens.errors import UserError
from iclens.tasks.draws import integers, normal
from iclens.tasks.options import require_one_of, require_positive
from iclens.tasks.shapes import Inputs
from iclens.tasks.shifts import SHIFTS, Shift
from iclens.tasks.task import Task


class InputShift(Shift, abc.ABC):
    """x → T(x), after the task has drawn all inputs of a prompt."""

    changes_inputs_only = True

    def sample_inputs(self, generator: torch.Generator, batch: tuple[int, ...], n_points: int) -> Inputs:  # noqa: D102
        return self.moved(generator, self.task.sample_inputs(generator, batch, n_points))

    @abc.abstractmethod
    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:
        """T(x)."""


@SHIFTS.register("scale-inputs")
class ScaleInputs(InputShift):
    """x → factor · x. Source: Garg et al. 2022.

    Args:
        task: what is shifted.
        factor: positive.

    Raises:
        UserError: a factor that is not positive, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, factor: float = 1 / 3) -> None:
        super().__init__(task)
        require_positive(factor=factor)
        self.factor = factor

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:  # noqa: D102
        return self.factor * inputs


@SHIFTS.register("subspace")
class Subspace(InputShift):
    """Inputs in a random subspace, drawn for every prompt: x → √(d/k) P x, which keeps E‖x‖² of isotropic inputs.

    Source: Garg et al. 2022, half of the dimensions.

    Args:
        task: what is shifted.
        n_dimensions: k, at most d; 0 for half of d, rounded up.

    Raises:
        UserError: more dimensions than inputs have, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, n_dimensions: int = 0) -> None:
        super().__init__(task)
        if not 0 <= n_dimensions <= self.d:
            raise UserError(f"n_dimensions={n_dimensions} must lie between 0 (half of them) and d={self.d}.")
        self.n_dimensions = n_dimensions

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:  # noqa: D102
        k = self.n_dimensions or math.ceil(self.d / 2)
        basis = torch.linalg.qr(normal(generator, *inputs.shape[:-2], self.d, k)).Q
        return math.sqrt(self.d / k) * (inputs @ basis) @ basis.mT


@SHIFTS.register("orthants")
class Orthants(InputShift):
    """Demonstrations in one random orthant, the query in another one: |x| under the signs of an orthant.

    Source: Garg et al. 2022.

    Args:
        task: what is shifted.
        query: `other` for any orthant but that of the demonstrations, `opposite` for the one across the origin.

    Raises:
        UserError: an unknown kind of query, or a task that cannot be shifted.
    """

    def __init__(self, task: Task, *, query: str = "other") -> None:
        super().__init__(task)
        require_one_of("query", query, ("other", "opposite"))
        self.query = query

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:  # noqa: D102
        shape = inputs.shape[:-2]
        signs = 1 - 2 * integers(2, generator, *shape, 1, self.d)
        flips = torch.ones_like(signs)
        if self.query == "other":
            flips = integers(2, generator, *shape, 1, self.d)
            same = (flips.sum(-1, keepdim=True) == 0).long()
            flips = flips.scatter_add(-1, integers(self.d, generator, *shape, 1, 1), same)
        of_query = signs * (1 - 2 * flips)
        return inputs.abs() * torch.cat([signs.expand(*shape, inputs.shape[-2] - 1, self.d), of_query], -2)


@SHIFTS.register("orthogonal-query")
class OrthogonalQuery(InputShift):
    """The query is orthogonal to all demonstrations, of the length that it had.

    Nothing that the demonstrations say about a linear function says anything about this query: the error of every
    estimator that is linear in the inputs is that of answering 0.

    Source: Garg et al. 2022.
    """

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:
        """Raises `UserError` if there are d demonstrations or more: nothing is orthogonal to all of them."""
        xs, query = inputs[..., :-1, :], inputs[..., -1:, :]
        if xs.shape[-2] >= self.d:
            raise UserError(
                f"n_context={xs.shape[-2]} must be less than d={self.d}: no query is orthogonal to d demonstrations."
            )
        basis = torch.linalg.qr(xs.mT).Q
        rest = query
        # Twice, because the first projection leaves rounding errors of the size of the query.
        for _ in range(2):
            rest = rest - rest @ basis @ basis.mT
        length = query.norm(dim=-1, keepdim=True) / rest.norm(dim=-1, keepdim=True)
        return torch.cat([xs, rest * length], -2)


@SHIFTS.register("repeated-query")
class RepeatedQuery(InputShift):
    """The query is one of the demonstrations, each as likely; its label has noise of its own.

    Source: Garg et al. 2022.
    """

    def moved(self, generator: torch.Generator, inputs: Inputs) -> Inputs:
        """Raises `UserError` if there is no demonstration to repeat."""
        shape, n_context = inputs.shape[:-2], inputs.shape[-2] - 1
        if n_context == 0:
            raise UserError("n_context=0 leaves no demonstration that the query could repeat.")
        repeated = integers(n_context, generator, *shape, 1, 1).expand(*shape, 1, self.d)
        return torch.cat([inputs[..., :-1, :], inputs.gather(-2, repeated)], -2)
