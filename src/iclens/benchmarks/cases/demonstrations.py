"""Attribution of demonstrations: what each method costs for n of them, and how good it is where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iclens.attribution.lasso import fit
from iclens.benchmarks.captum_ablation import perturbed
from iclens.benchmarks.case import (
    CASES,
    Absent,
    Agreement,
    Comparison,
    Context,
    Entry,
    Probe,
    Side,
    Target,
    takes,
)
from iclens.benchmarks.cases.quality import one_batch, quality
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, Shape, ShapedPrompt, lens_model
from iclens.benchmarks.known_scores import (
    Known,
    Make,
    ablations,
    integrals,
    lasso_weights,
    left_out,
    shapley_values,
)
from iclens.benchmarks.peers import missing
from iclens.benchmarks.shaped_margin import Shaped

N_TOKENS = 512
"""Of the prompt, however many demonstrations it is cut into."""

FEW_TOKENS = 96
"""Of the prompt on which the methods' scores are checked."""

MOST_WARMED = 33
"""Passes of a method that is run once before it is timed."""

N_ABLATIONS, N_ORDERS, N_STEPS, BATCH = 64, 5, 8, 8


@CASES.register("demonstrations")
@takes(minutes=19, long=38)
def demonstrations(context: Context) -> Iterator[Entry]:
    """Attribution of 4, 16, 64 demonstrations: Captum, 64 ablations and a Lasso, leave-one-out; quality and cost."""
    shape = context.pick(TINY, SMALL)
    for n in context.pick((4,), (4, 16, 64)):
        for name, method in METHODS.items():
            # What costs the same for every n is measured once.
            if context.quick or context.long or method.wanted(n):
                yield _against(context, shape, n, name)
    yield one_batch(context)
    yield quality(context)


def _against(context: Context, shape: Shape, n: int, name: str) -> Entry:
    absent = missing("captum") if name.startswith("Captum") else None
    if absent is not None:
        return Absent(name, absent.reason)
    problem = Shaped(lens_model(shape), ShapedPrompt.draw(shape, context.pick(96, N_TOKENS), n))
    method = METHODS[name].make(problem)
    size = {"n": n, "n_tokens": len(problem.prompt.ids), "quick": context.quick}
    # A memory probe runs the method once more: only where it says something of its own.
    probed = n == context.pick(4, 16) and name in (FEATURE_ABLATION, INTEGRATED_GRADIENTS)
    targets: tuple[Target, ...] = ()
    if name == FEATURE_ABLATION and n >= 16 and not context.quick:
        targets = (Target("speed-up", 0.4 * n, f"0.4 · {n} times as fast"),)
    passes = METHODS[name].passes(n)
    # A call that takes minutes is not made only to warm up: the row says so.
    warm_up = passes <= MOST_WARMED or context.quick
    return Comparison(
        f"scores of {n} demonstrations, {len(problem.prompt.ids)} tokens"
        + ("" if warm_up else ", without a warm-up call"),
        Side("gradient step and exact knock-out", problem.ours, _probe("ours", size) if probed else None),
        Side(name, method, _probe(name, size) if probed else None),
        lambda: agreements(problem, name),
        problem.floor(shape),
        targets,
        # The others take up to minutes.
        most_pairs=3 if passes <= 20 or context.quick else 2 if passes <= MOST_WARMED or targets else 1,
        repeat=False,
        warm_up=warm_up,
    )


def agreements(problem: Shaped, name: str) -> Sequence[Agreement]:
    """Ours against the plain model; the method's, of a short prompt of four, against what they are defined to be."""
    vocabulary = Shape(vocabulary=problem.lens_model.n_vocabulary)
    four = Shaped(problem.lens_model, ShapedPrompt.draw(vocabulary, FEW_TOKENS, 4))
    method = METHODS[name]
    return [*problem.agreements(), *method.known(four, method.make)]


def _probe(name: str, size: dict[str, Any]) -> Probe:
    small = {"n": 2, "n_tokens": 24, "quick": True}
    return Probe("iclens.benchmarks.cases.demonstrations:method_call", {"name": name, **size}, small)


def method_call(name: str, n: int, n_tokens: int, quick: bool) -> Callable[[], object]:
    """Return the call of one method, in its own process."""
    shape = TINY if quick else SMALL
    problem = Shaped(lens_model(shape), ShapedPrompt.draw(shape, n_tokens, n))
    return problem.ours if name == "ours" else METHODS[name].make(problem)


def _captum(problem: Shaped, method: str, **options: Any) -> Callable[[], Tensor]:
    return perturbed(method, problem.prompt.ids, problem.prompt.groups, problem.margins, BATCH, **options)


def _captum_gradients(problem: Shaped) -> Callable[[], Tensor]:
    import captum.attr

    model, ids = problem.lens_model.model, problem.prompt.ids[None]

    def margins(some: Tensor) -> Tensor:
        return problem.prompt.margin(model(input_ids=some, use_cache=False, logits_to_keep=1).logits)

    attribute = captum.attr.LayerIntegratedGradients(margins, model.get_input_embeddings())

    def call() -> Tensor:
        values = attribute.attribute(
            ids, baselines=problem.neutral[None], n_steps=N_STEPS, internal_batch_size=BATCH
        ).sum(-1)[0]
        return problem.prompt.by_demonstration(values.detach())

    return call


def _lasso(problem: Shaped) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(N_ABLATIONS, problem.prompt.n_demonstrations, generator=generator) < 0.5
    return lambda: fit(keep, problem.deleted(keep))


def _leave_one_out(problem: Shaped) -> Callable[[], Tensor]:
    n = problem.prompt.n_demonstrations
    keep = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)])

    def call() -> Tensor:
        margins = problem.deleted(keep)
        return margins[-1] - margins[:-1]

    return call


FEATURE_ABLATION = "Captum FeatureAblation"
SHAPLEY = f"Captum ShapleyValueSampling, {N_ORDERS} orders"
INTEGRATED_GRADIENTS = f"Captum LayerIntegratedGradients, {N_STEPS} steps"


@dataclass(frozen=True)
class Method:
    """What a user would otherwise run.

    Attributes:
        make: its call.
        known: how far its scores are from what they are defined to be.
        passes: about how many forward passes of the whole prompt it takes for n demonstrations.
        wanted: for which n it is measured, unless all are.
    """

    make: Make
    known: Known
    passes: Callable[[int], float]
    wanted: Callable[[int], bool] = lambda n: True


METHODS: dict[str, Method] = {
    FEATURE_ABLATION: Method(lambda problem: _captum(problem, "FeatureAblation"), ablations, lambda n: n + 1.0),
    SHAPLEY: Method(
        lambda problem: _captum(problem, "ShapleyValueSampling", n_samples=N_ORDERS),
        shapley_values,
        lambda n: N_ORDERS * n + 1.0,
        lambda n: n <= 16,
    ),
    # A backward pass costs two forward ones.
    INTEGRATED_GRADIENTS: Method(_captum_gradients, integrals(N_STEPS), lambda n: 3.0 * N_STEPS, lambda n: n == 16),
    # Half of the demonstrations are left, on average.
    f"{N_ABLATIONS} ablations and a Lasso (ContextCite's way)": Method(
        _lasso, lasso_weights, lambda n: N_ABLATIONS / 2, lambda n: n == 16
    ),
    "true leave-one-out": Method(_leave_one_out, left_out, lambda n: float(n)),
}
