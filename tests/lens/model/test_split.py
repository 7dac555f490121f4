"""A model whose weights lie on several devices, or on disk until they are used, gives the numbers of a whole one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import build

from iclens.errors import UserError
from iclens.lens.explaining import explain, explain_many
from iclens.lens.explanation import Explanation
from iclens.lens.model.loading import LensModel, load, outline

SPLITS = {
    # Tied embeddings, biases everywhere.
    "gpt2": {
        "transformer.wte": "cpu",
        "transformer.wpe": "disk",
        "transformer.h.0": "cpu",
        "transformer.h.1": "disk",
        "transformer.h.2": "disk",
        "transformer.ln_f": "disk",
        "lm_head": "cpu",
    },
    # First and last on disk, so that even the token ids meet weights that are not there yet.
    "llama-biased-tied": {
        "model.embed_tokens": "disk",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.norm": "disk",
        "lm_head": "disk",
    },
}


@pytest.fixture(params=list(SPLITS))
def whole_and_split(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LensModel, LensModel]:
    folder = save(request.param, tmp_path)
    split = load(
        str(folder), dtype=torch.float64, device_map=SPLITS[request.param], offload_folder=tmp_path / "offloaded"
    )
    return load(str(folder), dtype=torch.float64), split


def save(name: str, folder: Path) -> Path:
    build(name, torch.float64).save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / name)
    return folder / name


def test_a_split_model_is_explained_like_a_whole_one(whole_and_split: tuple[LensModel, LensModel]) -> None:
    whole, split = whole_and_split
    assert split.is_split
    assert split.is_offloaded
    assert not whole.is_split
    assert not whole.is_offloaded
    options: dict[str, Any] = {"answers": ("w1", "w2 w3"), "rerun_text": True}
    check_alike(*(explain(model, PROMPTS[1], **options) for model in (split, whole)))


def test_a_batch_goes_through_a_split_model(whole_and_split: tuple[LensModel, LensModel]) -> None:
    for ours, theirs in zip(*(explain_many(model, PROMPTS) for model in reversed(whole_and_split)), strict=True):
        check_alike(ours, theirs)


def check_alike(ours: Explanation, theirs: Explanation) -> None:
    assert ours.exact
    assert ours.margin == pytest.approx(theirs.margin, rel=1e-12)
    for one, other in zip(ours.sources, theirs.sources, strict=True):
        for name in theirs.scores:
            assert one.score(name) == pytest.approx(other.score(name), rel=1e-10, abs=1e-12)


def test_auto_on_one_device_is_the_model_itself(tmp_path: Path) -> None:
    folder = save("gpt2", tmp_path)
    spread = load(str(folder), dtype=torch.float64, device_map="auto")
    assert explain(spread, PROMPTS[0]).exact


def test_an_outline_has_sizes_but_no_weights(tmp_path: Path) -> None:
    folder = save("llama-biased-tied", tmp_path)
    sketch, whole = outline(str(folder)), load(str(folder))
    assert sketch.is_offloaded
    assert (sketch.n_layers, sketch.n_heads, sketch.n_parameters) == (whole.n_layers, whole.n_heads, whole.n_parameters)
    assert sketch.context_length == whole.context_length


def test_mistakes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(save("gpt2", tmp_path))
    with pytest.raises(UserError, match="both given"):
        load(folder, device="cuda", device_map="auto")
    with pytest.raises(UserError, match="device map 'balanced' is not known"):
        load(folder, device_map="balanced")
    # As where it is not installed.
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"needs the package accelerate.*iclens\[split\]"):
        load(folder, device_map="auto")
