"""What the estimators of scikit-learn around a finished run share: the run, the context, and answers to queries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
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


class InContextEstimator(BaseEstimator):
    """A finished run whose `fit` keeps a context; subclasses say what its labels are.

    Args:
        run: what `train` gave, a run of a store, or the folder of one.
        pad: whether inputs with fewer features than the run's get zeros for the others.
        device: where answers are computed.
    """

    losses: ClassVar[Mapping[str, str]]
    """Kinds of loss that the subclass has no use for, with what a run should have been trained with instead."""

    # scikit-learn may set anything: `fit` checks it.
    def __init__(self, run: Any, *, pad: Any = False, device: Any = "cpu") -> None:
        self.run = run
        self.pad = pad
        self.device = device

    def _keep(self, inputs: np.ndarray) -> None:
        """Load the run, and check and keep the inputs of the context.

        Raises:
            UserError: no such run, one that diverged or that the subclass has no use for, inputs of another width, or
                more demonstrations than the model has positions for.
        """
        config, tensors = _parts_of(self.run)
        kind = config.training.loss_kind
        if kind in self.losses:
            raise UserError(
                f"the run {config.key()} was trained with training.loss_kind={kind!r}: {self.losses[kind]}."
            )
        device = usable_device(self.device)
        # Twice double: a thread that trains beside this one may change the default dtype, which `run_model` sets.
        model = run_model(config, {name: value.double() for name, value in tensors.items()}).double().to(device)
        _check_width(model.d, inputs.shape[1], pad=self.pad)
        model.check_points(len(inputs) + 1)
        _warn_of_length(config, len(inputs))
        self.X_, self.config_, self.model_ = inputs, config, model.requires_grad_(False)

    def _asked(self, X: Any, labels: np.ndarray) -> Float[np.ndarray, "m d_y"]:
        """Answer queries after the context with these labels, (n, d_y), each query in a prompt of its own."""
        check_is_fitted(self)
        queries = validate_data(self, X, dtype=np.float64, reset=False)
        context, asked = self._wide(self._padded(self.X_)), self._wide(self._padded(queries))
        n, tokens = len(context), 2 * len(context) + 1
        shown = self._wide(np.pad(labels, ((0, 1), (0, 0))))
        found = []
        with torch.no_grad():
            for some in asked.split(max(1, _NUMBERS // tokens**2)):
                inputs = torch.cat([context.expand(len(some), n, -1), some.unsqueeze(1)], 1)
                found.append(self.model_(inputs.unsqueeze(0), shown.expand(1, len(some), -1, -1))[0, :, -1])
        answers = torch.cat(found).cpu().numpy()
        if not np.isfinite(answers).all():
            raise UserError(
                "the model's answers are not finite: numbers in X or y are too large for it. Scale them to the size "
                "of those that it was trained on."
            )
        return answers

    def _wide(self, array: np.ndarray) -> Tensor:
        # A copy: what was given may be read-only, which torch refuses to share.
        return torch.tensor(array, dtype=torch.float64, device=next(self.model_.parameters()).device)

    def _padded(self, inputs: np.ndarray) -> Float[np.ndarray, "n d"]:
        return np.pad(inputs, ((0, 0), (0, self.model_.d - inputs.shape[1])))


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
        stacklevel=4,
    )
