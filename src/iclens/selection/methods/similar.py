"""Similar: the demonstrations whose inputs are nearest to the development examples, in the model's own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from iclens.huggingface import implementation
from iclens.lens.model.loading import LensModel
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.lens.prompt.tokens import encode
from iclens.selection.search import METHODS, Found, Search


@METHODS.register("similar")
def choose(search: Search) -> Found:
    """Keep the demonstrations that are most often among the nearest of a development example, the nearest last.

    The score is the mean over the examples of the rank among all demonstrations, between 0 and 1, by the cosine of mean
    states in the middle layer. Outputs and runs play no part.

    Source: Liu et al. 2022, "What makes good in-context examples for GPT-3?", with one choice for all queries.
    """
    return nearest(search, "states", partial(_states, search.evaluator.lens_model))


def nearest(search: Search, what: str, embed: Callable[[Sequence[str]], tuple[list[list[float]], int]]) -> Found:
    """Keep the demonstrations that are nearest to the development examples by the cosines of some vectors.

    Args:
        search: the choice.
        what: the name of the vectors, under which finished ones are kept.
        embed: gives the vectors of texts, and the tokens that were read for them.
    """
    evaluator = search.evaluator
    inputs = [one.input for one in evaluator.shots]
    asked = [query.example.input for query in evaluator.queries]
    numbers = evaluator.ledger.numbers([what, inputs, asked], lambda: embed(inputs + asked))
    states = torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float64), dim=-1)
    cosines = states[len(inputs) :] @ states[: len(inputs)].T
    scores = cosines.argsort(-1).argsort(-1).double().mean(0) / max(1, search.n - 1)
    chosen = search.best(scores.tolist(), search.k or max(1, search.n // 2))
    return Found(tuple(sorted(chosen) if search.order == "given" else chosen[::-1]), scores)


def _states(lens_model: LensModel, texts: Sequence[str]) -> tuple[list[list[float]], int]:
    """Return the mean state of each text in the middle layer, and the tokens read."""
    found, tokens = [], 0
    for text in texts:
        ids, _, _ = encode(text, lens_model.tokenizer, True)
        tokens += len(ids)
        found.append(_state(lens_model, torch.tensor([ids], device=lens_model.device)).tolist())
    return found, tokens


@torch.no_grad()
def _state(lens_model: LensModel, ids: Tensor) -> Float[Tensor, " width"]:
    forget_longer_prompts(lens_model)
    with implementation(lens_model.model, None):
        out = lens_model.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    return out.hidden_states[lens_model.n_layers // 2][0].double().mean(0).cpu()
