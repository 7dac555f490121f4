"""Yang et al. 2024's training step: one attention for all prompts against one for each, at the paper's sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from iclens.benchmarks.case import CASES, Agreement, Comparison, Context, Entry, Probe, Side, takes
from iclens.benchmarks.ceilings import Floor
from iclens.papers.yang_2024.gradient import Gradient, Moments, floor_operations
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining

BATCH, CHUNK = 256, 32
"""Prompts of a step; the plain side takes them in pieces (all scores at once would be 393 MB)."""

PAPER = {"n_prompt": 30, "n_tokens": 200, "width": 100, "n_features": 20, "n_heads": 64}
SMALL = {"n_prompt": 6, "n_tokens": 20, "width": 10, "n_features": 4, "n_heads": 4}


@CASES.register("dictionary")
@takes(minutes=1)
def dictionary(context: Context) -> Iterator[Entry]:
    """Yang et al.'s training step against a plain transformer that gives every prompt its own attention."""
    sizes = context.pick(SMALL, PAPER)
    quick = context.quick
    yield Comparison(
        f"a step of {BATCH} prompts, N = {sizes['n_prompt']}, K = {sizes['n_tokens']}, H = {sizes['n_heads']}",
        Side("one attention for all prompts", step_call("ours", quick), _probe("ours", quick)),
        Side("attention of every prompt, autograd", step_call("plain", quick), _probe("plain", quick)),
        lambda: compared(sizes),
        Floor(
            float(floor_operations(sizes["n_prompt"], sizes["n_tokens"], sizes["width"], sizes["n_heads"])),
            # Values, gradients and Adam's two moments of Q.
            7 * 4.0 * sizes["n_heads"] * sizes["width"] ** 2,
            "4 N H d (d + K); Adam's passes over H d² parameters",
        ),
        most_pairs=5,
    )


def _probe(name: str, quick: bool) -> Probe:
    return Probe(
        "iclens.benchmarks.cases.dictionary:step_call",
        {"name": name, "quick": quick},
        {"quick": True},
        with_building=True,
    )


def _drawn(sizes: dict[str, int]) -> Dictionary:
    one = Dictionary.draw(
        sizes["width"], sizes["n_features"], sizes["n_tokens"], sizes["n_prompt"], 0.01, seed=0, normalised=True
    )
    return Dictionary.stack([one])


def step_call(name: str, quick: bool) -> Callable[[], object]:
    """One training step, `"ours"` or `"plain"`: forward, backward and Adam."""
    sizes = SMALL if quick else PAPER
    drawn = _drawn(sizes)
    model = DictionaryModel.on(drawn, [0], n_heads=sizes["n_heads"])
    if name == "ours":
        return DictionaryTrainer(drawn, model, DictionaryTraining()).step
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    labels = drawn.sample_labels([torch.Generator().manual_seed(0)], BATCH)[0].to(model.w)

    def step() -> float:
        adam.zero_grad()
        loss = per_prompt(model, labels, sizes)
        adam.step()
        return loss

    return step


def per_prompt(model: DictionaryModel, labels: Tensor, sizes: dict[str, int]) -> float:
    """Backward through every prompt's own attention; returns the loss."""
    n_prompt = sizes["n_prompt"]
    shown = model.tokens[:, None, :n_prompt].expand(-1, CHUNK, -1, -1)
    total = 0.0
    for part in labels.split(CHUNK):
        answers = model.answers_per_prompt(shown, part[None, :, :n_prompt])
        loss = (answers - part).square().sum() / (2 * sizes["n_tokens"] * BATCH)
        loss.backward()
        total += float(loss.detach())
    return total


def compared(sizes: dict[str, int]) -> list[Agreement]:
    """Loss and gradients of both ways at random weights."""
    drawn = _drawn(sizes)
    model = DictionaryModel.on(drawn, [0], n_heads=sizes["n_heads"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.w.copy_(torch.randn(model.w.shape, generator=generator) / sizes["n_heads"])
    labels = drawn.sample_labels([generator], BATCH)[0].to(model.w)
    loss = per_prompt(model, labels, sizes)
    gradient = Gradient(model, sizes["n_prompt"])
    moments = Moments.of_batch(labels[None], sizes["n_prompt"])
    fast = float(moments.loss(gradient(moments)))
    found = [Agreement("loss", abs(fast - loss) / loss, 1e-4)]
    for what, ours, parameter in (("w", gradient.w, model.w), ("Q", gradient.Q, model.Q)):
        assert parameter.grad is not None
        found.append(Agreement.of(f"gradient of {what}", ours, parameter.grad, 1e-4))
    return found
