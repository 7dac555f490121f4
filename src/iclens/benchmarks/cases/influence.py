"""Influence of every demonstration: in forward passes, beside deleting one at a time, in memory, on long prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from iclens.benchmarks.case import (
    CASES,
    Absent,
    Agreement,
    Cell,
    Comparison,
    Context,
    Entry,
    Listing,
    Probe,
    Side,
    Target,
    Verdict,
    takes,
)
from iclens.benchmarks.cases.end_to_end import EIGHT, Text
from iclens.benchmarks.ceilings import Floor
from iclens.benchmarks.few_shot import ANSWERS, few_shot
from iclens.benchmarks.gpt2_shaped import SMALL as GPT2_SMALL
from iclens.benchmarks.gpt2_shaped import TINY as GPT2_TINY
from iclens.benchmarks.gpt2_shaped import Shape, lens_model
from iclens.benchmarks.llama_shaped import LARGE, SMALL, llama_model, smollm2
from iclens.benchmarks.measuring import MEBIBYTE
from iclens.benchmarks.memory import peak_bytes
from iclens.lens import Explanation, Lens, explain
from iclens.lens.scores.deletions import run_texts

SIXTY_FOUR = (64, 10, 59)
"""Demonstrations, words of each, words of the query: 1,023 tokens."""
LONG = (64, 122, 59)
"""8,191 tokens."""

INFLUENCE = 4.5
"""Forward passes that an explanation by influence may take, with its checks."""
DELETIONS = 4.5
"""Those that the deletions of the default scores may take beside them."""

_SIZES = ("n_demonstrations", "words", "query_words")


@CASES.register("influence")
@takes(minutes=16)
def influence_of_all(context: Context) -> Iterator[Entry]:
    """Influence of every demonstration: in forward passes, beside deleting one at a time, and in memory."""
    yield from defaults(context)
    shape = context.pick(GPT2_TINY, GPT2_SMALL)
    many = Text(lens_model(shape), few_shot(*context.pick((8, 10, 12), SIXTY_FOUR)))
    yield _beside_forward(many, context, shape)
    yield _beside_deletion(many, context)
    del many
    yield _memory(context, shape)


def defaults(context: Context) -> Iterator[Entry]:
    """Yield `explain` by influence and by its default scores against a forward pass, on a Llama and on SmolLM2."""
    shape = context.pick(SMALL, LARGE)
    models = [llama_model(shape), *([] if context.quick else [smollm2()])]
    for model in models:
        if isinstance(model, Absent):
            yield model
            continue
        text = Text(model, few_shot(*EIGHT))
        yield _in_passes(text, context, shape, "influence", ["influence"], INFLUENCE)
        yield _in_passes(text, context, shape, "its default scores", None, INFLUENCE + DELETIONS)


def _in_passes(
    text: Text, context: Context, shape: Shape, title: str, scores: Sequence[str] | None, most: float
) -> Comparison:
    ids = text.ids
    return Comparison(
        f"explain by {title}, with all checks: {text.title}",
        Side("explain", lambda: explained(text, scores)),
        Side("plain forward, last logits only", lambda: text.forward(ids)),
        lambda: agreements(text),
        _floor(shape, len(ids), 4, "the pass, a plain one for the check, one with weights and its backward"),
        () if context.quick else (Target("speed-up", 1 / most, f"at most {most:g} forward passes"),),
        warm_up=False,
    )


def explained(text: Text, scores: Sequence[str] | None = None) -> Explanation:
    """Explain by some scores, or by the default ones, with all checks."""
    return explain(text.lens_model, text.prompt, answers=ANSWERS, scores=scores)


def influence(text: Text) -> torch.Tensor:
    """Return the influence of every demonstration, from the text, at half weight."""
    lens = Lens(text.lens_model, text.prompt, answers=ANSWERS, held=False)
    return lens.by_demonstration(lens.influence(0.5).by_token)


def _beside_forward(text: Text, context: Context, shape: Shape) -> Comparison:
    ids = text.ids
    return Comparison(
        f"influence of all demonstrations at one weight: {text.title}",
        Side("influence, from the text", lambda: influence(text)),
        Side("plain forward, last logits only", lambda: text.forward(ids)),
        lambda: agreements(text),
        _floor(shape, len(ids), 3, "the pass that answers, one with weights and its backward"),
        () if context.quick else (Target("speed-up", 1 / 3.5, "at most 3.5 forward passes"),),
        warm_up=False,
    )


def _beside_deletion(text: Text, context: Context) -> Comparison:
    # Deleting is checked on a prompt of few demonstrations: it is what takes long.
    shorter = replace(text, prompt=few_shot(8, 10, 12))

    def by_influence() -> Explanation:
        return explain(text.lens_model, text.prompt, answers=ANSWERS, scores=["influence"])

    return Comparison(
        f"scores of demonstrations, from text: {text.title}",
        Side("explain by influence", by_influence),
        Side("deleting one at a time, every text by itself", lambda: one_at_a_time(text)),
        lambda: [*agreements(text), *_really_deleted(shorter)],
        targets=() if context.quick else (Target("speed-up", 12.0, "with all checks"),),
        most_pairs=2,
        warm_up=False,
        repeat=False,
    )


def one_at_a_time(text: Text) -> torch.Tensor:
    """Take what deleting each demonstration takes from the margin, from the text; every shorter text runs by itself."""
    lens = Lens(text.lens_model, text.prompt, answers=ANSWERS, held=False)
    n = lens.n_demonstrations
    keep = torch.cat([~torch.eye(n, dtype=torch.bool), torch.ones(1, n, dtype=torch.bool)])
    texts = [(ids, lens.readout) for ids in lens.shortened(keep)]
    margins = run_texts(text.lens_model, texts, lens.passes.most_tokens, shared=False).margins
    return margins[-1] - margins[:-1]


def agreements(text: Text, step: float = 0.02) -> list[Agreement]:
    """Return the influence against the slope of the model's own margin, and the checks of the explanation."""
    lens = Lens(text.lens_model, text.prompt, answers=ANSWERS, held=False)
    values = lens.by_demonstration(lens.influence(0.5).by_token)
    # Σ_i ∂M/∂w_i at (t, …, t) is dM/dt.
    slope = float(lens.influence(0.5 + step).margin - lens.influence(0.5 - step).margin) / (2 * step)
    largest = float(values.abs().sum())
    return [
        Agreement(
            "sum of the influences, against the slope of the margin", abs(float(values.sum()) - slope) / largest, 2e-2
        ),
        *(Agreement(one.name, one.value, one.tolerance) for one in explained(text).residuals),
    ]


def _really_deleted(text: Text) -> list[Agreement]:
    """Return the rerun of the first demonstration against the shorter text by hand."""
    found = explain(text.lens_model, text.prompt, answers=ANSWERS, scores=["rerun"])
    shorter = text.prompt.split("\n\n", 1)[1]
    without = Lens(text.lens_model, shorter, answers=ANSWERS, answer=found.answer, held=False).answer.margin
    change = found.sources[0].rerun_margin_change
    assert change is not None
    off = abs(found.margin - change - without) / max(1.0, abs(without))
    return [Agreement("deletion of the first, by hand", off, 1e-4)]


def _floor(shape: Shape, n_tokens: int, n_passes: int, what: str) -> Floor:
    return Floor(n_passes * shape.forward_operations(n_tokens, 1), shape.weight_bytes(), what)


def _memory(context: Context, shape: Shape) -> Listing:
    """Peaks of the influence above the weights, at 1,023 and at 8,191 tokens."""
    rows: list[Mapping[str, Cell]] = []
    verdicts = []
    weights = shape.weight_bytes() / MEBIBYTE
    for prompt in context.pick(((8, 10, 12), (8, 40, 12)), (SIXTY_FOUR, LONG)):
        probe = Probe(
            "iclens.benchmarks.cases.influence:influence_call",
            {"quick": context.quick} | dict(zip(_SIZES, prompt, strict=True)),
            {"quick": True} | dict(zip(_SIZES, (2, 10, 12), strict=True)),
        )
        peak = peak_bytes(probe, threads=context.threads)
        n = prompt[0] * (prompt[1] + 5) + prompt[2] + 4
        above = None if peak is None else peak / MEBIBYTE
        rows.append({"tokens": n, "weights, MiB": weights, "peak above them, MiB": above})
        if above is not None and prompt == SIXTY_FOUR:
            claim = f"at {n:,} tokens the influence takes at most as much memory again as the weights"
            verdicts.append(Verdict(claim, above <= weights, f"{above / weights:.2f} × the weights"))
        if above is not None and prompt == LONG:
            verdicts.append(Verdict(f"{n:,} tokens run", True, f"{above / weights:.2f} × the weights"))
    return Listing("memory of the influence, GPT-2-shaped, 64 demonstrations", rows, tuple(verdicts))


def influence_call(quick: bool, n_demonstrations: int, words: int, query_words: int) -> Callable[[], object]:
    """Return the call of the influence on a GPT-2 with room for a long prompt, in its own process."""
    text = few_shot(n_demonstrations, words, query_words)
    shape = GPT2_TINY if quick else GPT2_SMALL
    model = lens_model(replace(shape, positions=max(shape.positions, 1 << 13)))
    return lambda: influence(Text(model, text))
