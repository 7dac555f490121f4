"""Attribution of demonstrations: what each method costs for n of them, and how good it is where the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
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
    Listing,
    Probe,
    Side,
    Target,
    Verdict,
)
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, Shape, ShapedPrompt, lens_model
from iclens.benchmarks.peers import missing
from iclens.lens.attribution.lasso import fit
from iclens.lens.gradient_step import gradient_step
from iclens.lens.knock_out import knock_out
from iclens.lens.loading import LensModel
from iclens.lens.trace import Trace, trace

N_TOKENS = 512
"""Of the prompt, however many demonstrations it is cut into."""

N_ABLATIONS, N_ORDERS, N_STEPS, BATCH = 64, 5, 8, 8


@CASES.register("demonstrations")
def demonstrations(context: Context) -> Iterator[Entry]:
    """Attribution of 4, 16, 64 demonstrations: Captum, 64 ablations and a Lasso, leave-one-out; quality and cost."""
    shape = context.pick(TINY, SMALL)
    for n in context.pick((4,), (4, 16, 64)):
        for name in METHODS:
            yield _against(context, shape, n, name)
    yield _quality(context)


def _against(context: Context, shape: Shape, n: int, name: str) -> Entry:
    absent = missing("captum") if name.startswith("Captum") else None
    if absent is not None:
        return Absent(name, absent.reason)
    problem = Shaped(lens_model(shape), ShapedPrompt.draw(shape, context.pick(96, N_TOKENS), n))
    method = METHODS[name](problem)
    size = {"n": n, "n_tokens": len(problem.prompt.ids), "quick": context.quick}
    # A memory probe runs the method once more: only where it says something of its own.
    probed = n == context.pick(4, 16) and name in (FEATURE_ABLATION, INTEGRATED_GRADIENTS)
    targets: tuple[Target, ...] = ()
    if name == FEATURE_ABLATION and n >= 16 and not context.quick:
        targets = (Target("speed-up", 0.4 * n, f"0.4 · {n} times as fast"),)
    return Comparison(
        f"scores of {n} demonstrations, {len(problem.prompt.ids)} tokens",
        Side("gradient step and exact knock-out", problem.ours, _probe("ours", size) if probed else None),
        Side(name, method, _probe(name, size) if probed else None),
        lambda: problem.agreements(name, method),
        problem.floor(shape),
        targets,
        # The others take up to minutes, and the check has run ours.
        most_pairs=1 if name == SHAPLEY else 3,
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
    return problem.ours if name == "ours" else METHODS[name](problem)


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
            one = self.prompt.ids.clone()
            one[self.prompt.groups == 0] = 0
            expected = plain - self.margins(one[None])
            found.append(Agreement.of("ablation of the first demonstration", method()[:1], expected, 1e-3))
        return found

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

METHODS: dict[str, Callable[[Shaped], Callable[[], Tensor]]] = {
    FEATURE_ABLATION: lambda problem: _captum(problem, lambda attr, margins: attr.FeatureAblation(margins)),
    SHAPLEY: lambda problem: _captum(
        problem, lambda attr, margins: attr.ShapleyValueSampling(margins), n_samples=N_ORDERS
    ),
    INTEGRATED_GRADIENTS: _captum_gradients,
    f"{N_ABLATIONS} ablations and a Lasso (ContextCite's way)": _lasso,
    "true leave-one-out": _leave_one_out,
}


def _quality(context: Context) -> Listing:
    """Cost beside AUC, removal test and LDS on prompts of the bundled learner."""
    from iclens.recipes.attribution import run
    from iclens.recipes.attribution_studies import STUDIES, Setting

    peers = ("captum_feature_ablation", "captum_shapley") if missing("captum") is None else ()
    methods = ("gradient_step", "path", "knock_out", "rerun", "integrated_gradients", *peers, "lasso")
    setting = Setting("bundled", Path(), context.pick(8, 200), 12, seed=0)
    learner, cases = STUDIES["bundled"].make(setting, lambda done, total: None)
    results = run(learner, cases, methods=methods, n_subsets=context.pick(8, 32))
    rows = []
    for name in methods:
        row = results.methods[name]
        rows.append(
            {
                "method": name,
                "forward passes": row.forward_passes,
                "backward passes": row.backward_passes,
                "ms": 1000 * row.seconds,
                **{title: row.of(measure).mean for measure, title in _MEASURES.items()},
            }
        )
    return Listing(
        f"quality beside cost: {results.n_cases} prompts of the bundled learner, 12 demonstrations",
        rows,
        () if context.quick else _verdicts(results.methods["gradient_step"], results.methods["lasso"]),
    )


_MEASURES = {"auc": "AUC", "removed": "right, top removed", "kept": "right, only top", "lds": "LDS"}


def _verdicts(ours: Any, lasso: Any) -> tuple[Verdict, ...]:
    auc, removed, lds = (ours.against(lasso, measure) for measure in ("auc", "removed", "lds"))
    passes = ours.forward_passes + 2 * ours.backward_passes
    return (
        Verdict("AUC is at least that of the Lasso of 64 ablations", auc.high >= 0, f"difference {auc}"),
        Verdict("fewer right answers are left after removal than with the Lasso", removed.low <= 0, f"{removed}"),
        Verdict("LDS is at least that of the Lasso, within its interval", lds.high >= 0, f"difference {lds}"),
        Verdict(
            "at most a thirtieth of the Lasso's forward passes",
            passes <= lasso.forward_passes / 30,
            f"{passes:.0f} against {lasso.forward_passes:.0f}; {lasso.seconds / ours.seconds:.1f} times as fast",
        ),
    )
