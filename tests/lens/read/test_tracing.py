"""A traced pass is the model's own pass, held or not; the check of it sees what is wrong, and where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lens.zoo import CAUSAL, GROUPS, SETS, lens, tokens, traced

from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.tracing import Trace, off_by, trace
from iclens.lens.scores.gradient_step import gradient_step
from iclens.lens.scores.knock_out import hidden_keys, knock_out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CAUSAL)
def test_a_trace_gives_the_models_own_numbers_held_or_not(name: str, dtype: torch.dtype) -> None:
    model, ids = lens(name, dtype), tokens(24)
    plain, held = traced(model, ids), traced(model, ids, held=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        own = run(model, ids)[:, plain.readouts.positions[0]]
    largest = float(own.abs().max())
    # Gemma 2 knows only its eager attention, whose softmax is in float32.
    own_tolerance = 1e-5 if name == "gemma2" else tolerance
    torch.testing.assert_close(plain.logits, own, rtol=own_tolerance, atol=own_tolerance * largest)
    assert float(off_by(plain)) <= own_tolerance
    # Held norms and gates are rounded at other places, and layers with large weights amplify it.
    assert float(off_by(held)) <= max(2 * tolerance, own_tolerance)
    hidden = hidden_keys(GROUPS[None], [SETS])
    for ours, theirs in zip(*(everything(found, hidden) for found in (held, plain)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2 * tolerance, atol=2 * tolerance * largest)


def everything(found: Trace, hidden: torch.Tensor) -> list[torch.Tensor]:
    """What is read of a trace, its residuals left out."""
    knocked = knock_out(found, hidden)
    return [found.logits, *vars(gradient_step(found)).values(), knocked.margins, knocked.log_probabilities]


def three_prompts(name: str) -> Trace:
    """Prompts of different lengths, read at their last tokens."""
    rows = [tokens(n, seed=n)[0] for n in (24, 16, 20)]
    readouts = Readouts.of([Readout(((0, 5, 1.0),))] * 3, [len(row) - 1 for row in rows], torch.device("cpu"))
    model = lens(name, torch.float64)
    return trace(model, PaddedTokens.of(rows, [4, 9, 2], model.device), readouts)


@pytest.mark.parametrize("what", ["attention", "logits"])
def test_a_wrong_number_is_seen_in_its_prompt_alone(what: str) -> None:
    right = three_prompts("gpt2")
    assert float(off_by(right).max()) <= 1e-12
    name = right.layers[1].name
    attended, logits = right.attended[name].clone(), right.logits.clone()
    if what == "attention":
        attended[1, 15, 3] += 1e-6 * float(attended[1, :16].abs().max())
    else:
        logits[1, 0, 7] += 1e-6 * float(logits[1].abs().max())
    found = off_by(replace(right, attended=right.attended | {name: attended}, logits=logits))
    assert float(found[1]) == pytest.approx(1e-6, rel=1e-4)
    assert float(found[[0, 2]].max()) <= 1e-12


def test_what_was_filled_up_does_not_count_and_what_is_no_number_does() -> None:
    right = three_prompts("gpt2")
    name = right.layers[2].name
    beyond, missing = right.attended[name].clone(), right.attended[name].clone()
    beyond[1, 16:], missing[2, 3] = 100.0, torch.nan
    assert float(off_by(replace(right, attended=right.attended | {name: beyond})).max()) <= 1e-12
    assert off_by(replace(right, attended=right.attended | {name: missing})).isnan().tolist() == [False, False, True]


def test_a_lost_window_is_seen() -> None:
    """The same weights without the window of 7 tokens."""
    lost = replace(three_prompts("mistral"), lens_model=lens("mistral-window", torch.float64))
    assert float(off_by(lost).min()) > 0.1
