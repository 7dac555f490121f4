"""Attribution of demonstrations: what each method costs for n of them, and how good it is where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, Shape, ShapedPrompt, lens_model
from iclens.benchmarks.peers import missing
from iclens.benchmarks.quality import one_batch, quality
from iclens.lens.attribution.lasso import fit
from iclens.lens.gradient_step import gradient_step
from iclens.lens.knock_out import knock_out
from iclens.lens.loading import LensModel
from iclens.lens.trace import Trace, trace

N_TOKENS = 512
"""Of the prompt, however many demonstrations it is cut into."""

N_ABLATIONS, N_ORDERS, N_STEPS, BATCH = 64, 5, 8, 8


@CASES.register("demonstrations")
@takes(minutes=17, long=35)
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
    return Comparison(
        f"scores of {n} demonstrations, {len(problem.prompt.ids)} tokens",
        Side("gradient step and exact knock-out", problem.ours, _probe("ours", size) if probed else None),
        Side(name, method, _probe(name, size) if probed else None),
        lambda: problem.agreements(name, method),
        problem.floor(shape),
        targets,
        # The others take up to minutes, and the check has run ours.
        most_pairs=3 if passes <= 20 or context.quick else 2 if passes <= 33 or targets else 1,
        repeat=False,
        warm_up=False,
    )


def _probe(name: str, size: dict[str, Any]) -> Probe:
    small = {"n": 2, "n_tokens": 24, "quick": True}
    return Probe("iclens.benchmarks.demonstrations:method_call", {"name": name, **size}, small)


def method_call(name: str, n: int, n_tokens: int, quick: bool) -> Callable[[], object]:
    """The call of one method, in a process of its own."""
    shape = TINY if quick else SMALL
    problem = Shaped(lens_model(shape), ShapedPrompt.draw(shape, n_tokens, n))
    return problem.ours if name == "ours" else METHODS[name].make(problem)


class Shaped:
    """The random model's margin on a prompt of n demonstrations, and ways to run it on changed prompts."""

    def __init__(self, wrapped: LensModel, prompt: ShapedPrompt) -> None:
        self.lens_model, self.prompt = wrapped, prompt
        self.sets = [(i,) for i in range(prompt.n_demonstrations)]
        # Token 0 stands for "nothing", as an unknown token would.
        self.neutral = torch.where(prompt.groups >= 0, 0, prompt.ids)

    @torch.no_grad()
    def margins(self, ids: Tensor) -> Tensor:
        """Of prompts (batch, n): the logits of the last token only."""
        logits = self.lens_model.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        return self.prompt.margin(logits)

    def trace(self) -> Trace:
        """The one full pass."""
        return trace(self.lens_model, self.prompt.ids, self.prompt.readout, self.prompt.query_start)

    def ours(self) -> tuple[Tensor, Tensor]:
        """Gradient step (tokens summed) and exact knock-out of every demonstration."""
        traced = self.trace()
        scores = self.prompt.by_demonstration(gradient_step(traced).contributions.sum((0, 1)))
        return scores, knock_out(traced, self.prompt.groups, self.sets).margin_changes

    def deleted(self, keep: Tensor) -> Tensor:
        """The margin of the prompt with only some demonstrations (rows of a mask), each really shortened."""
        margins = []
        for row in keep:
            left = (self.prompt.groups < 0) | row[self.prompt.groups.clamp(min=0)]
            margins.append(self.margins(self.prompt.ids[left][None])[0])
        return torch.stack(margins)

    def agreements(self, name: str, method: Callable[[], Any]) -> Sequence[Agreement]:
        """Ours against its own checks and the plain model; theirs against what it is defined to be."""
        traced = self.trace()
        plain = self.margins(self.prompt.ids[None])
        step, knocked = gradient_step(traced), knock_out(traced, self.prompt.groups, self.sets)
        found = [
            Agreement.of("margin of the traced pass", torch.tensor([traced.margin]), plain, 1e-4),
            Agreement("contributions and the rest against the margin", step.residual, 1e-5),
            Agreement("knock-out of nothing against the plain pass", knocked.residual, 1e-5),
            Agreement.of("knock-out against masked attention", knocked.margins[:1], self._masked_out(0), 1e-4),
        ]
        if name == FEATURE_ABLATION:
            found.append(self._ablation(method))
        return found

    def _ablation(self, method: Callable[[], Any]) -> Agreement:
        """Captum's score of the first demonstration against its definition; with many, on the prompt cut into four."""
        problem = self
        if self.prompt.n_demonstrations > 16:
            shape = Shape(vocabulary=int(self.lens_model.model.config.vocab_size))
            problem = Shaped(self.lens_model, ShapedPrompt.draw(shape, len(self.prompt.ids), 4))
            method = METHODS[FEATURE_ABLATION].make(problem)
        one = problem.prompt.ids.clone()
        one[problem.prompt.groups == 0] = 0
        expected = problem.margins(problem.prompt.ids[None]) - problem.margins(one[None])
        return Agreement.of("ablation of the first demonstration", method()[:1], expected, 1e-3)

    @torch.no_grad()
    def _masked_out(self, demonstration: int) -> Tensor:
        """The margin from the plain model when the query's rows of the mask hide a demonstration."""
        n = len(self.prompt.ids)
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        seen[self.prompt.query_start :, self.prompt.groups == demonstration] = False
        # A mask with four axes is used as it is; very negative where nothing is seen.
        mask = torch.zeros(n, n).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        ids = self.prompt.ids[None]
        logits = self.lens_model.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits
        return self.prompt.margin(logits)

    def floor(self, shape: Shape) -> Floor:
        """One pass over the prompt, and n + 1 over the query's tokens."""
        n, query = len(self.prompt.ids), len(self.prompt.ids) - self.prompt.query_start
        rerun = 2.0 * shape.block_parameters * query + 4.0 * n * query * shape.width * shape.layers
        rerun += 2.0 * shape.vocabulary * shape.width
        return Floor(
            shape.forward_operations(n, 1) + (self.prompt.n_demonstrations + 1) * rerun,
            shape.weight_bytes(),
            "one forward pass of the prompt + n + 1 passes over the query's tokens",
        )


def _captum(problem: Shaped, make: Callable[[Any, Any], Any], **options: Any) -> Callable[[], Tensor]:
    """One of Captum's perturbation methods, on the demonstrations' tokens alone: the rest of the prompt stays."""
    import captum.attr

    inside = problem.prompt.groups >= 0
    tokens, groups = problem.prompt.ids[inside][None], problem.prompt.groups[inside][None]

    def margins(some: Tensor) -> Tensor:
        ids = problem.prompt.ids.repeat(len(some), 1)
        ids[:, inside] = some
        return problem.margins(ids)

    attribute = make(captum.attr, margins)

    def call() -> Tensor:
        values = attribute.attribute(tokens, baselines=0, feature_mask=groups, perturbations_per_eval=BATCH, **options)
        scores = torch.zeros(problem.prompt.n_demonstrations)
        scores[groups[0]] = values[0].to(scores)
        return scores

    return call


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
        passes: about how many forward passes of the whole prompt it takes for n demonstrations.
        wanted: for which n it is measured, unless all are.
    """

    make: Callable[[Shaped], Callable[[], Tensor]]
    passes: Callable[[int], float]
    wanted: Callable[[int], bool] = lambda n: True


METHODS: dict[str, Method] = {
    FEATURE_ABLATION: Method(
        lambda problem: _captum(problem, lambda attr, margins: attr.FeatureAblation(margins)), lambda n: n + 1.0
    ),
    SHAPLEY: Method(
        lambda problem: _captum(problem, lambda attr, margins: attr.ShapleyValueSampling(margins), n_samples=N_ORDERS),
        lambda n: N_ORDERS * n + 1.0,
        lambda n: n <= 16,
    ),
    # A backward pass costs two forward ones.
    INTEGRATED_GRADIENTS: Method(_captum_gradients, lambda n: 3.0 * N_STEPS, lambda n: n == 16),
    # Half of the demonstrations are left, on average.
    f"{N_ABLATIONS} ablations and a Lasso (ContextCite's way)": Method(
        _lasso, lambda n: N_ABLATIONS / 2, lambda n: n == 16
    ),
    "true leave-one-out": Method(_leave_one_out, lambda n: float(n)),
}
