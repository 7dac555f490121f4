"""Every prefix of a batch of prompts at once, against loops: plain ones, scikit-learn's, Garg's repository."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclens.benchmarks.case import CASES, Absent, Agreement, Comparison, Context, Entry, Side, Target, takes
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.garg_repository import garg_repository
from iclens.estimators.estimator import Estimator, build_estimator
from iclens.estimators.prefix_loop import by_prefix, by_prompt_and_prefix

ALPHA = 1.0
TARGET = 50.0

Answer = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rivals:
    """One estimator and what it is compared with.

    Attributes:
        options: ours.
        one: xs (i, d), ys (i, 1), query (1, d) to (1, 1) for one prompt; it may take a batch of them too.
        many: the same for a batch of prompts; None where `one` serves.
        scikit_learn: makes a regressor for a prefix of n points; None where there is none.
        garg: makes the repository's baseline; None where there is none.
        kernel: the routine that no way to all prefixes spares; None where there is no such thing.
        operations: of all prefixes of one prompt, from (points, d).
        targeted: whether it must reach the ratio of 50.
    """

    options: dict[str, object]
    one: Answer
    many: Answer | None = None
    scikit_learn: Callable[[int], Any] | None = None
    garg: Callable[[Any], Any] | None = None
    kernel: Callable[[Tensor], object] | None = None
    operations: Callable[[int, int], float] = lambda n, d: 2.0 * n * d * d
    targeted: bool = False


@CASES.register("estimators")
@takes(minutes=2)
def estimators(context: Context) -> Iterator[Entry]:
    """All prefixes at once: loops over prompts and prefixes, scikit-learn in a loop, the repository of Garg et al."""
    batch, n, d = context.pick((4, 9, 3), (64, 41, 20))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, n, d, generator=generator, dtype=torch.float64)
    w = torch.randn(batch, d, 1, generator=generator, dtype=torch.float64)
    y = x @ w + 0.5 * torch.randn(batch, n, 1, generator=generator, dtype=torch.float64)
    repository = garg_repository()
    if isinstance(repository, Absent):
        yield repository
    for name, rivals in RIVALS.items():
        ours = build_estimator(name, rivals.options)
        loops: dict[str, Callable[[], Tensor]] = {
            "loop over prompts and prefixes": partial(_by_prompt, rivals.one, x, y),
            "loop over prefixes": partial(by_prefix, rivals.many or rivals.one, x, y),
        }
        if rivals.scikit_learn is not None:
            loops["scikit-learn in a loop"] = partial(_with_scikit_learn, rivals.scikit_learn, x, y)
        if rivals.garg is not None and not isinstance(repository, Absent):
            loops["Garg's repository"] = partial(_with_garg, rivals.garg(repository.models), x, y)
        for rival, loop in loops.items():
            yield _comparison(context, f"{name}, {batch} prompts of {n} points", ours, rivals, rival, loop, x, y)
    yield _lasso(context)


def _comparison(
    context: Context,
    what: str,
    ours: Estimator,
    rivals: Rivals,
    rival: str,
    loop: Callable[[], Tensor],
    x: Tensor,
    y: Tensor,
) -> Comparison:
    batch, n, d = x.shape
    kernel = rivals.kernel
    target = Target("speed-up", TARGET, "all prefixes at once, not one after another")
    return Comparison(
        what,
        Side("all prefixes at once", lambda: ours.prefixes(x, y)),
        Side(rival, loop),
        lambda: [Agreement.of("answers", ours.prefixes(x, y), loop(), 1e-7)],
        Floor(
            batch * rivals.operations(n, d),
            8.0 * batch * n * (d + 2),
            "2 · points · d² a prompt (a kernel: points³ / 3 + 2 · points² · d; all distances: 2 · points² · d)",
            "float64",
            None if kernel is None else partial(kernel, x),
        ),
        (target,) if rivals.targeted and rival == "loop over prompts and prefixes" and not context.quick else (),
        most_pairs=3 if rival == "scikit-learn in a loop" else None,
    )


def _lasso(context: Context) -> Comparison:
    """On sparse tasks, with fewer prompts: scikit-learn needs its time."""
    batch, n, d = context.pick((2, 8, 4), (16, 41, 20))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, n, d, generator=generator, dtype=torch.float64)
    weights = torch.zeros(batch, d, 1, dtype=torch.float64)
    weights[:, :3] = torch.randn(batch, 3, 1, generator=generator, dtype=torch.float64)
    y = x @ weights + 0.5 * torch.randn(batch, n, 1, generator=generator, dtype=torch.float64)
    ours = build_estimator("lasso", {"alpha": 0.01})

    of_both: dict[str, Any] = {"alpha": 0.01, "fit_intercept": False}
    exact = _regressor("linear_model.Lasso", **of_both, tol=1e-15, max_iter=1_000_000)
    usual = _regressor("linear_model.Lasso", **of_both, max_iter=100_000)
    return Comparison(
        f"lasso to 1e-8, {batch} prompts of {n} points",
        Side("all prefixes at once", lambda: ours.prefixes(x, y)),
        Side("scikit-learn in a loop, to its 1e-4", lambda: _with_scikit_learn(usual, x, y)),
        lambda: [Agreement.of("answers", ours.prefixes(x, y), _with_scikit_learn(exact, x, y), 1e-7)],
        most_pairs=3,
    )


def _least_squares(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    return query @ torch.linalg.lstsq(xs, ys).solution


def _ridge(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    eye = torch.eye(xs.shape[-1], dtype=xs.dtype)
    return query @ torch.linalg.solve(xs.mT @ xs + ALPHA * eye, xs.mT @ ys)


def _three_nearest(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    distances = (xs - query).square().sum(-1).sqrt()
    return ys[distances.argsort()[:3]].mean(0, keepdim=True)


def _three_nearest_of_many(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    order = (xs - query).square().sum(-1).sqrt().argsort(-1)[..., :3, None]
    return ys.gather(-2, order).mean(-2, keepdim=True)


def _kernel_ridge(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    d = xs.shape[-1]
    gram, of_query = ((-torch.cdist(rows, xs).square() / d).exp() for rows in (xs, query))
    return of_query @ torch.linalg.solve(gram + ALPHA * torch.eye(xs.shape[-2], dtype=xs.dtype), ys)


def _one_step(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    return query @ (xs.mT @ ys) / xs.shape[-2]


def _factor(x: Tensor) -> object:
    return torch.linalg.cholesky(x @ x.mT + ALPHA * torch.eye(x.shape[-2], dtype=x.dtype))


def _orthogonalise_and_factor(x: Tensor) -> object:
    return torch.linalg.qr(x.mT, mode="r"), _factor(x[..., x.shape[-1] :, :])


def _distances(x: Tensor) -> object:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _regressor(name: str, **options: Any) -> Callable[[int], Any]:
    """Make a regressor of scikit-learn, e.g. `"linear_model.Ridge"`; the library is read when it is first asked for."""
    module, kind = name.split(".")
    return lambda n: getattr(importlib.import_module(f"sklearn.{module}"), kind)(**options)


def _neighbours(n: int) -> Any:
    return _regressor("neighbors.KNeighborsRegressor", n_neighbors=min(n, 3))(n)


_linear = _regressor("linear_model.LinearRegression", fit_intercept=False)
_sklearn_ridge = _regressor("linear_model.Ridge", alpha=ALPHA, fit_intercept=False)
_sklearn_kernel_ridge = _regressor("kernel_ridge.KernelRidge", alpha=ALPHA, kernel="rbf")


def _kernel_operations(n: int, d: int) -> float:
    return n**3 / 3 + 2.0 * n * n * d


RIVALS = {
    "least-squares": Rivals(
        {}, _least_squares, None, _linear, lambda models: models.LeastSquaresModel(), _orthogonalise_and_factor,
        targeted=True,
    ),
    "ridge": Rivals({"alpha": ALPHA}, _ridge, None, _sklearn_ridge, None, _factor, targeted=True),
    "nearest-neighbours": Rivals(
        {}, _three_nearest, _three_nearest_of_many, _neighbours, lambda models: models.NNModel(3), _distances,
        lambda n, d: 2.0 * n * n * d, targeted=True,
    ),
    "kernel-ridge": Rivals(
        {"alpha": ALPHA}, _kernel_ridge, None, _sklearn_kernel_ridge, None, _factor, _kernel_operations,
    ),
    "averaging": Rivals(
        {}, _one_step, None, None, lambda models: models.AveragingModel(), None, lambda n, d: 4.0 * n * d,
    ),
}  # fmt: skip


def _by_prompt(one: Answer, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([by_prefix(one, prompt, labels) for prompt, labels in zip(x, y, strict=True)])


def _with_garg(baseline: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return baseline(x, y[..., 0])[..., None]


def _with_scikit_learn(make: Callable[[int], Any], x: Tensor, y: Tensor) -> Tensor:
    def answer(xs: Any, ys: Any, query: Any) -> float:
        return make(len(xs)).fit(xs, ys).predict(query)[0]

    with warnings.catch_warnings():
        # Fewer points than columns, and sums that did not quite converge: both are meant.
        warnings.simplefilter("ignore")
        return by_prompt_and_prefix(answer, x, y)
