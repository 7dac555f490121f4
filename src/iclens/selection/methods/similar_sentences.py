"""Similar sentences: as `similar`, by the embeddings of a sentence encoder in place of the model's own states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from iclens.lens import LensModel, load
from iclens.lens.model.files import sentence_encoder
from iclens.selection.methods.similar import nearest
from iclens.selection.search import METHODS, Found, Search

_AT_ONCE = 32
"""Texts that go through the encoder at once."""

_LONGEST = 256
"""Tokens after which the encoder, which was trained on no longer texts, reads no further."""


@METHODS.register("similar_sentences")
def choose(search: Search) -> Found:
    """Keep the demonstrations that are most often among the nearest of a development example, the nearest last.

    The score is that of `similar`, by the cosine of the sentence embeddings of all-MiniLM-L6-v2.

    Raises:
        UserError: the package of the extra `minilm` is not installed.

    Source: Liu et al. 2022, "What makes good in-context examples for GPT-3?", which takes sentence encoders as well,
    with one choice for all queries.
    """
    return nearest(search, "sentences", embeddings)


@torch.no_grad()
def embeddings(texts: Sequence[str]) -> tuple[list[list[float]], int]:
    """The embedding of each text by MiniLM, the mean of its tokens' last states, and the tokens that were read."""
    encoder, found, tokens = _encoder(), [], 0
    for first in range(0, len(texts), _AT_ONCE):
        batch = encoder.tokenizer(
            list(texts[first : first + _AT_ONCE]),
            padding=True,
            truncation=True,
            max_length=_LONGEST,
            return_tensors="pt",
        )
        counted = batch["attention_mask"][..., None].double()
        states = encoder.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0].double()
        found += ((states * counted).sum(1) / counted.sum(1)).tolist()
        tokens += int(counted.sum())
    return found, tokens


@cache
def _encoder() -> LensModel:
    return load(str(sentence_encoder()))
