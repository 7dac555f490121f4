"""A finished run as a regressor of scikit-learn: `fit` takes the demonstrations, `predict` answers queries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from iclens.errors import UserError
from iclens.sweeps.folders import RunFolders
from iclens.sweeps.run_folder import CONFIG, Run
from iclens.training.config import RunConfig
from iclens.training.ensemble import run_model, usable_device
from iclens.training.loop import TrainedRun

_NUMBERS = 2**22
"""Numbers in the attention scores of one head that are held at once."""


class UnseenLengthWarning(UserWarning):
    """A context is longer, or shorter, than any that the run was trained on."""


class InContextRegressor(RegressorMixin, BaseEstimator):
    """ŷ(x) = model((x_1, y_1) … (x_n, y_n), x): the run's answer to a query after the demonstrations given to `fit`.

    Nothing is trained: `fit` checks and keeps the context. `predict` answers all queries, each in a prompt of its own,
    in batches and in float64, so that an answer does not depend on the other queries. Where the labels have several
    columns and the run was trained for one, every column has a prompt of its own.

    A run knows the scales that it was trained on: put a `StandardScaler` before it, and a `TransformedTargetRegressor`
    around it, if your data have others.

    Args:
        run: what `train` gave, a run of a store (`store.load(key)`), or the folder of one: `STORE/runs/KEY`, or a store
            that holds a single run.
        pad: whether inputs with fewer features than the run's get zeros for the others, as in a curriculum over
            dimensions; if not, they are refused.
        device: where answers are computed: `cpu`, or `cuda`.

    Attributes:
        n_features_in_: width of the inputs given to `fit`.
        feature_names_in_: their names, where they had any.
        X_: the demonstrations' inputs, (n, n_features_in_).
        y_: their labels, (n,) or (n, n_outputs).
        model_: the run's model, in float64.
        config_: its configuration.

    Raises:
        UserError: on `fit`: no such run, one that diverged or was trained on classes, inputs of another width, another
            number of outputs, or more demonstrations than the model has positions for.

    Warns:
        UnseenLengthWarning: on `fit`: a number of demonstrations that the run was not trained on.
    """

    def __init__(self, run: TrainedRun | Run | str | Path, *, pad: bool = False, device: str = "cpu") -> None:
        self.run = run
        self.pad = pad
        self.device = device

    def fit(self, X: Any, y: Any) -> InContextRegressor:
        """Keep the context.

        Args:
            X: inputs of the demonstrations, (n, n_features).
            y: their labels, (n,) or (n, n_outputs).
        """
        inputs, labels = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        config, tensors = _parts_of(self.run)
        if config.training.loss_kind == "cross-entropy":
            raise UserError(
                f"the run {config.key()} was trained on classes (training.loss_kind='cross-entropy'): a regressor "
                "needs one that was trained with the squared error."
            )
        device = usable_device(self.device)
        # Twice double: a thread that trains beside this one may change the default dtype, which `run_model` sets.
        model = run_model(config, {name: value.double() for name, value in tensors.items()}).double().to(device)
        _check_width(model.d, inputs.shape[1], pad=self.pad)
        n_outputs = 1 if labels.ndim == 1 else labels.shape[1]
        if model.d_y not in (1, n_outputs):
            raise UserError(f"y has {n_outputs} outputs, and the run was trained for {model.d_y}: give as many.")
        model.check_points(len(inputs) + 1)
        _warn_of_length(config, len(inputs))
        self.X_, self.y_, self.config_ = inputs, labels.astype(np.float64), config
        self.model_ = model.requires_grad_(False)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Answer queries.

        Args:
            X: the queries, (m, n_features_in_).

        Returns:
            the answers, (m,) or (m, n_outputs), as `y` was.
        """
        check_is_fitted(self)
        queries = validate_data(self, X, dtype=np.float64, reset=False)
        shared = self.y_.reshape(len(self.y_), -1)
        # (prompts that a query has, n, d_y): one with all outputs, or one for every output.
        labels = shared[None] if self.model_.d_y == shared.shape[1] else shared.T[..., None]
        answers = [self._answers(queries, part) for part in self._wide(labels)]
        return np.concatenate(answers, -1).reshape(len(queries), *self.y_.shape[1:])

    def _answers(self, queries: np.ndarray, labels: Tensor) -> np.ndarray:
        context, asked = self._wide(self._padded(self.X_)), self._wide(self._padded(queries))
        n, tokens = len(context), 2 * len(context) + 1
        size = max(1, _NUMBERS // tokens**2)
        shown = torch.cat([labels, torch.zeros_like(labels[:1])])
        found = []
        with torch.no_grad():
            for some in asked.split(size):
                inputs = torch.cat([context.expand(len(some), n, -1), some.unsqueeze(1)], 1)
                found.append(self.model_(inputs.unsqueeze(0), shown.expand(1, len(some), -1, -1))[0, :, -1])
        return torch.cat(found).cpu().numpy()

    def _wide(self, array: np.ndarray) -> Tensor:
        # A copy: what was given may be read-only, which torch refuses to share.
        return torch.tensor(array, dtype=torch.float64, device=next(self.model_.parameters()).device)

    def _padded(self, inputs: np.ndarray) -> Float[np.ndarray, "n d"]:
        return np.pad(inputs, ((0, 0), (0, self.model_.d - inputs.shape[1])))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _parts_of(run: Any) -> tuple[RunConfig, Mapping[str, Tensor]]:
    """Configuration and parameters of a finished run."""
    if isinstance(run, TrainedRun):
        status, config, tensors = run.status, run.config, run.tensors
    else:
        stored = run if isinstance(run, Run) else _found(run)
        status, config, tensors = stored.result.status, RunConfig.from_dict(stored.config), stored.tensors()
    if status != "finished":
        raise UserError(f"the run {config.key()} {status}: its parameters are not those of a trained model.")
    return config, tensors


def _found(folder: Any) -> Run:
    if not isinstance(folder, str | Path):
        raise UserError(
            f"run={folder!r} is no run: give what `train` returned, `store.load(key)`, or the folder of a run."
        )
    path = Path(folder)
    if (path / CONFIG).is_file():
        return Run(path.name, path.resolve())
    keys = sorted(RunFolders(path / "runs", path / "damaged").keys())
    if len(keys) == 1:
        return Run(keys[0], (path / "runs" / keys[0]).resolve())
    if keys:
        raise UserError(
            f"{path} is a store of {len(keys)} runs: give the folder of one, such as {path}/runs/{keys[0]}."
        )
    raise UserError(f"there is no run in {path}: a run's folder holds {CONFIG}, and a store its runs in {path}/runs.")


def _check_width(d: int, given: int, *, pad: bool) -> None:
    if given > d:
        raise UserError(f"X has {given} features, and the run was trained on {d}: give {d}.")
    if given < d and not pad:
        raise UserError(
            f"X has {given} features, and the run was trained on {d}: give {d}, or set pad=True to put zeros for the "
            "others."
        )


def _warn_of_length(config: RunConfig, n: int) -> None:
    most = config.training.n_context
    exactly = config.training.loss == "query" and config.curriculum.every == 0
    if n <= most and not (exactly and n < most):
        return
    bound = "exactly" if exactly else "at most"
    warnings.warn(
        f"the context has {n} demonstrations, and the run was trained on {bound} {most}: its answers may be poor.",
        UnseenLengthWarning,
        stacklevel=3,
    )
