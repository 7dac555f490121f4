"""How cost grows: with tokens, heads, layers, demonstrations, runs and prompts, each with its fitted exponent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from iclens.attention import build
from iclens.benchmarks.case import CASES, Context, Curve, Entry, takes
from iclens.benchmarks.cases.lens import one_head_call
from iclens.benchmarks.cases.training import tiny_configs
from iclens.benchmarks.gpt2_shaped import Shape, ShapedPrompt, lens_model
from iclens.benchmarks.shaped_margin import Shaped
from iclens.dual.model import DualModel
from iclens.estimators.estimator import build_estimator
from iclens.training.ensemble import Ensemble

Call = Callable[[], object]


@CASES.register("scaling")
@takes(minutes=3)
def scaling(context: Context) -> Iterator[Entry]:
    """Cost against tokens (to 32,768), heads, layers, demonstrations, runs and prompts, with the fitted exponents."""
    pick = context.pick
    yield Curve(
        "contributions of one head's demonstrations to one query",
        "tokens",
        pick((256, 512, 1024), (1024, 2048, 4096, 8192, 16384, 32768)),
        {"dual model": lambda n: one_head_call("dual", n), "weights times values": lambda n: one_head_call("dense", n)},
        "one query reads every key once: exponent 1",
    )
    yield Curve(
        "a whole model, 2 layers of width 64",
        "tokens",
        pick((64, 128, 256), (1024, 2048, 4096, 8192, 16384, 32768)),
        {"contributions": _contributions, "plain forward": _forward},
        "the model's own attention, of exponent 2, takes over; the contributions add a term of exponent 1",
    )
    yield Curve(
        "attention variants, forward, 8 heads of width 64",
        "tokens",
        pick((64, 128, 256), (512, 1024, 2048, 4096, 8192)),
        {name: _attention(name) for name in ("softmax", "regularized", "negative")},
        "exponent 2, as fused attention has",
    )
    yield Curve(
        "attention from better optimizers, causal, forward, 8 heads of width 64",
        "tokens",
        pick((64, 128, 256), (256, 512, 1024, 2048)),
        {
            name: _attention(name, is_causal=True)
            for name in ("momentum", "delta-rule", "preconditioned", "kernel-ridge")
        },
        "exponent 2 for momentum and preconditioning, 1 for the delta rule, 3 for kernel ridge",
    )
    yield Curve(
        "dual models of many heads, 1,024 keys, 8 queries",
        "heads",
        pick((1, 2, 4), (1, 2, 4, 8, 16, 32, 64)),
        {"contributions": _heads},
        "exponent 1 at most",
    )
    yield Curve(
        "contributions of a model of width 256, 256 tokens",
        "layers",
        pick((1, 2), (1, 2, 4, 8, 16)),
        {"contributions": _layers(True), "plain forward": _layers(False)},
        "exponent 1 at most: the unembedding does not grow",
    )
    yield Curve(
        "exact knock-out of each demonstration, 512 tokens, 4 layers of width 256",
        "demonstrations",
        pick((2, 4), (2, 4, 8, 16, 32, 64)),
        {"all knock-outs, after the one pass": _knock_out},
        "exponent 1 at most: each runs the query's tokens once",
    )
    yield Curve(
        "a training step of tiny runs, all in one ensemble",
        "runs",
        pick((1, 2, 4), (1, 2, 4, 8, 16, 32, 64)),
        {"ensemble": _runs},
        "exponent below 1 as long as a run alone does not fill the processor",
    )
    yield Curve(
        "all prefixes of prompts of 41 points, d = 20",
        "prompts",
        pick((2, 4, 8), (16, 32, 64, 128, 256, 512, 1024)),
        {name: _prompts(name) for name in ("least-squares", "ridge", "nearest-neighbours")},
        "exponent 1",
    )


def _long(n: int) -> Shape:
    return Shape(layers=2, heads=2, width=64, vocabulary=64, positions=n)


def _contributions(n: int) -> Call:
    return _drawn(_long(n), n).gradient_step


def _forward(n: int) -> Call:
    shaped = _drawn(_long(n), n)
    return lambda: shaped.margins(shaped.prompt.ids[None])


def _drawn(shape: Shape, n_tokens: int, n_demonstrations: int = 8) -> Shaped:
    return Shaped(lens_model(shape), ShapedPrompt.draw(shape, n_tokens, n_demonstrations))


def _attention(name: str, *, is_causal: bool = False) -> Callable[[int], Call]:
    given: dict[str, dict[str, Any]] = {"regularized": {"alpha": 0.5}, "negative": {"n_negatives": 1, "beta": 0.1}}
    options = given.get(name, {})

    def make(n: int) -> Call:
        variant = build(name, n_heads=8, d=64, d_v=64, **options)
        q, k, v = (torch.randn(1, 8, n, 64) for _ in range(3))
        return torch.no_grad()(lambda: variant(q, k, v, is_causal=is_causal))

    return make


def _heads(heads: int) -> Call:
    q, k, v = (torch.randn(heads, n, 64) for n in (8, 1024, 1024))
    groups = torch.arange(1024) // 64
    return lambda: DualModel.from_attention(q, k, v, groups).contributions()


def _layers(with_lens: bool) -> Callable[[int], Call]:
    def make(layers: int) -> Call:
        shaped = _drawn(Shape(layers=layers, heads=4, width=256, vocabulary=1024, positions=256), 256)
        return shaped.gradient_step if with_lens else lambda: shaped.margins(shaped.prompt.ids[None])

    return make


def _knock_out(n: int) -> Call:
    shaped = _drawn(Shape(layers=4, heads=4, width=256, vocabulary=1024, positions=512), 512, n)
    traced = shaped.trace()
    return lambda: shaped.knock_out(traced)


def _runs(n: int) -> Call:
    return Ensemble(tiny_configs(n)).step


def _prompts(name: str) -> Callable[[int], Call]:
    def make(batch: int) -> Call:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, 41, 20, generator=generator, dtype=torch.float64)
        y = torch.randn(batch, 41, 1, generator=generator, dtype=torch.float64)
        estimator = build_estimator(name, {})
        return lambda: estimator.prefixes(x, y)

    return make
