"""A beginning that is kept in the cache says what texts say that are read whole, whatever attention is in the model."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tests.attention.applied import VARIANTS
from tests.lens.zoo import lens as lens_model
from tests.lens.zoo import tokens

from iclens import UserError
from iclens.attention import apply
from iclens.lens.read.cached_prefix import read_behind_prefix
from iclens.lens.read.capture import capture
from iclens.lens.read.shared_texts import read_texts

BEGINNING = tokens(14)[0].tolist()
ENDS = ([5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 7, 9])


def read_all(logits):
    return logits.argmax(-1), logits


def rows_of(ends, beginning=BEGINNING):
    rows = [[*beginning, *end] for end in ends]
    return rows, torch.tensor([[len(row) - 1] for row in rows])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen2-window", "mistral-window", "gemma3_text"])
@pytest.mark.parametrize("name", [None, *VARIANTS])
@pytest.mark.parametrize("most_tokens", [6, 100])
def test_it_is_what_whole_texts_say(family, name, most_tokens):
    """Read whole, by the same attention: of every variant, in all layers, with windows shorter than the beginning."""
    model = lens_model(family, torch.float64)
    rows, positions = rows_of(ENDS)
    with nullcontext() if name is None else apply(model.model, name, **VARIANTS[name]):
        found = read_behind_prefix(model, rows, positions, lambda _, logits: read_all(logits), most_tokens)
        whole = read_texts(model, rows, positions, lambda _, logits: read_all(logits), 1000, shared=False)
    assert torch.equal(found[0], whole[0])
    torch.testing.assert_close(found[1], whole[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "llama-dynamic-rope"])
def test_texts_that_cannot_share_are_read_whole(family):
    """Those of different beginnings, a single one, and those whose length moves their positions."""
    model = lens_model(family, torch.float64)
    for rows in ([[5, 6, 7], [6, 7, 8, 9]], [[5, 6, 7]], [[5, 6, 7], [5, 6, 8, 9]]):
        positions = torch.tensor([[len(row) - 1] for row in rows])
        found = read_behind_prefix(model, rows, positions, lambda _, logits: (logits,), 100)
        for row, logits in zip(rows, found[0], strict=True):
            with torch.no_grad():
                alone = model.model(torch.tensor([row])).logits[0, -1:]
            torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-9)


def test_the_beginning_runs_once():
    model = lens_model("llama", torch.float64)
    rows, positions = rows_of(ENDS)
    seen = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    read_behind_prefix(model, rows, positions, lambda _, logits: (logits,), 100)
    hook.remove()
    assert seen == [(1, 14), (4, 5)]


def test_what_would_leave_a_variant_out_is_refused():
    """The lens's own attention, and trees of texts, which read with it."""
    model = lens_model("llama", torch.float64)
    rows, positions = rows_of(ENDS)
    with apply(model.model, "regularized", alpha=0.3):
        for read in (lambda: capture(model, tokens()), lambda: read_texts(model, rows, positions, read_all, 100)):
            with pytest.raises(UserError, match=r"llama has an attention variant in it.*remove\(model\)"):
                read()
    assert capture(model, tokens()).records
