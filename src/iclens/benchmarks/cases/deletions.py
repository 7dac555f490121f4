"""Really deleting demonstrations: what shortened prompts begin with alike read once, beside every text by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from iclens.benchmarks.case import CASES, Agreement, Comparison, Context, Entry, Side, Target, takes
from iclens.benchmarks.cases.end_to_end import Text
from iclens.benchmarks.few_shot import ANSWERS, few_shot
from iclens.benchmarks.gpt2_shaped import SMALL, TINY, lens_model
from iclens.lens import Lens
from iclens.lens.scores.deletions import run_texts

N_DEMONSTRATIONS = 8
N_HALVES = 64


@CASES.register("deletions")
@takes(minutes=2)
def deletions(context: Context) -> Iterator[Entry]:
    """Delete demonstrations one at a time and by random halves, with and without shared beginnings."""
    n = N_DEMONSTRATIONS
    text = Text(lens_model(context.pick(TINY, SMALL)), few_shot(n, 10, 12))
    yield _compare(f"one at a time: {text.title}", text, ~torch.eye(n, dtype=torch.bool), context)
    halves = torch.rand(N_HALVES, n, generator=torch.Generator().manual_seed(0)) < 0.5
    yield _compare(f"{N_HALVES} random halves: {text.title}", text, halves, context)


def _compare(title: str, text: Text, keep: torch.Tensor, context: Context) -> Comparison:
    def margins(*, shared: bool) -> torch.Tensor:
        lens = Lens(text.lens_model, text.prompt, answers=ANSWERS, held=False)
        texts = [(ids, lens.readout) for ids in lens.shortened(keep)]
        return run_texts(text.lens_model, texts, lens.passes.most_tokens, shared=shared).margins

    def agree() -> list[Agreement]:
        own, other = margins(shared=True), margins(shared=False)
        return [Agreement("margins", float((own - other).abs().max() / other.abs().max()), 1e-4)]

    return Comparison(
        title,
        Side("shared beginnings read once", lambda: margins(shared=True)),
        Side("every text by itself, side by side", lambda: margins(shared=False)),
        agree,
        targets=() if context.quick else (Target("speed-up", 1.3),),
        most_pairs=2,
        warm_up=False,
    )
