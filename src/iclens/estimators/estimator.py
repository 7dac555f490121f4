"""What every estimator is: an answer to every prefix of a batch of prompts."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from iclens.errors import UserError
from iclens.registry import Registry
from iclens.tasks.prompt_batch import PromptBatch
from iclens.tasks.shapes import Inputs, Labels


class Estimator(abc.ABC):
    """An algorithm that sees demonstrations and answers a query, for all prefixes of many prompts at once.

    Constructor options are keywords named as in scikit-learn where it has them, and kept as attributes of the same
    name.
    """

    @abc.abstractmethod
    def prefixes(self, inputs: Inputs, labels: Labels) -> Labels:
        """Prediction at point i from the points before it, for every i; without any point before it, zeros.

        The label of point i has no influence on prediction i.
        """

    def predict(self, prompt: PromptBatch) -> Float[Tensor, "*batch d_y"]:
        """Prediction at the query from all demonstrations."""
        return self.prefixes(prompt.inputs, prompt.labels)[..., -1, :]

    def get_params(self) -> dict[str, Any]:
        """Return the options by name, as in scikit-learn."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


ESTIMATORS: Registry[type[Estimator]] = Registry(
    "estimator", "iclens.estimators", package="iclens.estimators", papers=True
)


def build_estimator(name: str, options: Mapping[str, Any] | None = None) -> Estimator:
    """Return the registered estimator `name` with these options.

    Raises:
        UserError: an unknown name or option ("did you mean"), an option that it cannot do without, or one out of its
            range.
    """
    options = dict(options or {})
    estimator = ESTIMATORS.checked(name, options)
    for option in inspect.signature(estimator).parameters.values():
        if option.default is option.empty and option.name not in options:
            raise UserError(f"estimator {name!r} needs the option {option.name!r}.")
    return estimator(**options)
