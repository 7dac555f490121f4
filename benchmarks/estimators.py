"""Every prefix of a batch of prompts at once, against loops over prefixes: least squares, ridge, nearest neighbours, …

    python benchmarks/estimators.py [--prompts 64] [--points 41] [--d 20] [--pairs 9] [--threads 1] [--json FILE]

Three loops stand beside ours: one prompt and one prefix at a time in torch, the same with scikit-learn's regressors,
and one prefix at a time for the whole batch in torch. Outputs are compared in float64 before anything is timed. Ours is
repeated until it takes as long as the loop, so that what else the machine does slows both alike. The floor is the
matrix factorisation (or the distances) that the fast way is built on, alone; the gap is ours over the floor. Exits with
1 if least squares, ridge or 3 nearest neighbours are less than 50 times as fast as the first loop.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from iclens.estimators.estimator import build_estimator
from iclens.estimators.prefix_loop import by_prefix, by_prompt_and_prefix
from pairs import Ratio, machine, ratio

TARGET = 50.0
ALPHA = 1.0

Answer = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One estimator and its rivals.

    Attributes:
        options: ours.
        one: xs (i, d), ys (i, 1), query (1, d) to (1, 1) for one prompt; it may take a batch of them too.
        many: the same for a batch of prompts; None where `one` serves.
        scikit_learn: makes a regressor; None where there is none.
        floor: what no way to all prefixes spares; None where there is no such thing.
        target: whether the ratio of 50 is asked of it.
    """

    options: dict[str, object]
    one: Answer
    many: Answer | None
    scikit_learn: Callable[[int], object] | None
    floor: Callable[[Tensor], object] | None
    target: bool


def least_squares(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    return query @ torch.linalg.lstsq(xs, ys).solution


def ridge(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    eye = torch.eye(xs.shape[-1], dtype=xs.dtype)
    return query @ torch.linalg.solve(xs.mT @ xs + ALPHA * eye, xs.mT @ ys)


def three_nearest(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    distances = (xs - query).square().sum(-1).sqrt()
    return ys[distances.argsort()[:3]].mean(0, keepdim=True)


def three_nearest_of_many(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    order = (xs - query).square().sum(-1).sqrt().argsort(-1)[..., :3, None]
    return ys.gather(-2, order).mean(-2, keepdim=True)


def kernel_ridge(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    d = xs.shape[-1]
    gram, of_query = ((-torch.cdist(rows, xs).square() / d).exp() for rows in (xs, query))
    return of_query @ torch.linalg.solve(gram + ALPHA * torch.eye(xs.shape[-2], dtype=xs.dtype), ys)


def one_step(xs: Tensor, ys: Tensor, query: Tensor) -> Tensor:
    return query @ (xs.mT @ ys) / xs.shape[-2]


def factor(x: Tensor) -> object:
    return torch.linalg.cholesky(x @ x.mT + ALPHA * torch.eye(x.shape[-2], dtype=x.dtype))


def orthogonalise_and_factor(x: Tensor) -> object:
    rest = x[..., x.shape[-1] :, :]
    return torch.linalg.qr(x.mT, mode="r"), factor(rest)


def distances(x: Tensor) -> object:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def regressors() -> dict[str, Callable[[int], object]]:
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Lasso, LinearRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor

    return {
        "least-squares": lambda n: LinearRegression(fit_intercept=False),
        "ridge": lambda n: Ridge(alpha=ALPHA, fit_intercept=False),
        "nearest-neighbours": lambda n: KNeighborsRegressor(min(n, 3)),
        "kernel-ridge": lambda n: KernelRidge(alpha=ALPHA, kernel="rbf"),
        "lasso": lambda n: Lasso(alpha=0.01, fit_intercept=False, max_iter=100_000),
        "lasso to 1e-8": lambda n: Lasso(alpha=0.01, fit_intercept=False, tol=1e-15, max_iter=1_000_000),
    }


def cases() -> dict[str, Case]:
    theirs = regressors()
    return {
        "least-squares": Case({}, least_squares, None, theirs["least-squares"], orthogonalise_and_factor, True),
        "ridge": Case({"alpha": ALPHA}, ridge, None, theirs["ridge"], factor, True),
        "nearest-neighbours": Case(
            {}, three_nearest, three_nearest_of_many, theirs["nearest-neighbours"], distances, True
        ),
        "kernel-ridge": Case({"alpha": ALPHA}, kernel_ridge, None, theirs["kernel-ridge"], factor, False),
        "averaging": Case({}, one_step, None, None, None, False),
    }


def by_prompt(one: Answer, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([by_prefix(one, prompt, labels) for prompt, labels in zip(x, y, strict=True)])


def with_scikit_learn(make: Callable[[int], object], x: Tensor, y: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return by_prompt_and_prefix(lambda xs, ys, query: make(len(xs)).fit(xs, ys).predict(query)[0], x, y)


def repeated(slow: Callable[[], object], fast: Callable[[], object], pairs: int) -> Ratio:
    """Time of `slow` over that of `fast`, which runs as often as it takes to last as long; seconds are those of one."""
    first = ratio(slow, fast, pairs=3, warm_up=1)
    times = max(1, round(first.seconds_a / first.seconds_b))

    def often() -> None:
        for _ in range(times):
            fast()

    one = ratio(slow, often, pairs=pairs, warm_up=0)
    return Ratio(times * one.median, times * one.low, times * one.high, one.seconds_a, one.seconds_b / times)


def compared(ours: Tensor, other: Tensor, what: str) -> None:
    difference = float((ours - other).abs().max() / (1 + other.abs().max()))
    if difference > 1e-8:
        sys.exit(f"{what}: outputs differ by {difference:.1e}, nothing is timed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--points", type=int, default=41)
    parser.add_argument("--d", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    x = torch.randn(options.prompts, options.points, options.d)
    y = x @ torch.randn(options.prompts, options.d, 1) + 0.5 * torch.randn(options.prompts, options.points, 1)
    found, missed = {}, []

    print(f"{options.prompts} prompts of {options.points} points, d = {options.d}, float64; {machine()}")
    print(f"{'':20}{'ours, ms':>10}{'floor, ms':>11}{'gap':>6}   times faster than a loop (least to most)")
    for name, case in cases().items():
        estimator = build_estimator(name, case.options)

        def ours(estimator=estimator) -> Tensor:
            return estimator.prefixes(x, y)

        rivals = {
            "prompt and prefix": lambda case=case: by_prompt(case.one, x, y),
            "prefix": lambda case=case: by_prefix(case.many or case.one, x, y),
        }
        if case.scikit_learn is not None:
            rivals["scikit-learn"] = lambda case=case: with_scikit_learn(case.scikit_learn, x, y)
        expected = ours()
        for rival, call in rivals.items():
            compared(expected, call(), f"{name} by {rival}")
        timed = {
            rival: repeated(call, ours, min(3, options.pairs) if rival == "scikit-learn" else options.pairs)
            for rival, call in rivals.items()
        }
        floor = None if case.floor is None else repeated(ours, lambda case=case: case.floor(x), 5 * options.pairs)
        print(
            f"{name:20}{1e3 * timed['prefix'].seconds_b:10.2f}"
            + (f"{1e3 * floor.seconds_b:11.2f}{floor.median:6.1f}" if floor else f"{'':17}")
            + "   "
            + ", ".join(f"{rival}: {one.median:.0f} ({one.low:.0f}-{one.high:.0f})" for rival, one in timed.items())
        )
        found[name] = {rival: asdict(one) for rival, one in timed.items()}
        found[name] |= {} if floor is None else {"floor": asdict(floor)}
        if case.target and timed["prompt and prefix"].median < TARGET:
            missed.append(name)

    found["lasso"] = lasso(options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "ratios": found}, indent=2))
    if missed:
        print(f"less than {TARGET:.0f} times as fast as the loop over prompts and prefixes: {', '.join(missed)}")
    return 1 if missed else 0


def lasso(options: argparse.Namespace) -> dict[str, object]:
    """The Lasso on sparse tasks, with a fourth of the prompts: scikit-learn needs its time."""
    prompts = max(1, options.prompts // 4)
    x = torch.randn(prompts, options.points, options.d)
    weights = torch.zeros(prompts, options.d, 1)
    weights[:, :3] = torch.randn(prompts, min(3, options.d), 1)
    y = x @ weights + 0.5 * torch.randn(prompts, options.points, 1)
    estimator = build_estimator("lasso", {"alpha": 0.01})
    theirs = regressors()
    compared(estimator.prefixes(x, y), with_scikit_learn(theirs["lasso to 1e-8"], x, y), "lasso")
    timed = repeated(lambda: with_scikit_learn(theirs["lasso"], x, y), lambda: estimator.prefixes(x, y), 3)
    print(
        f"{'lasso':20}{1e3 * timed.seconds_b:10.2f}{'':17}   {prompts} prompts, scikit-learn to its 1e-4: "
        f"{timed.median:.1f} ({timed.low:.1f}-{timed.high:.1f})"
    )
    return asdict(timed)


if __name__ == "__main__":
    raise SystemExit(main())
