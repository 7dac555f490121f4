"""All sets at once over shared keys and values equal one masked full pass per set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.zoo import CAUSAL, GROUPS, SETS, lens, tokens, traced

from iclens.errors import UserError
from iclens.lens.model.session import Given, attending
from iclens.lens.read.attend import eager
from iclens.lens.read.capture import run
from iclens.lens.read.margin import Readout
from iclens.lens.read.tracing import Trace
from iclens.lens.scores.knock_out import KnockOuts, hidden_keys, knock_out


def knocked_out(found: Trace, sets: list[tuple[int, ...]] = SETS, groups: torch.Tensor = GROUPS) -> KnockOuts:
    return knock_out(found, hidden_keys(groups[None], [sets]))[0]


def one_by_one(found: Trace, groups: torch.Tensor, sets: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The naive way: the whole prompt once a set, with (query token, demonstration token) pairs masked everywhere."""
    model, (ids,), (start,) = found.lens_model, found.tokens.ids, found.tokens.starts
    blocked = torch.zeros(len(sets), 1, len(ids), len(ids), dtype=torch.bool)
    for mask, chosen in zip(blocked, sets, strict=True):
        mask[:, start:] = torch.isin(groups, torch.tensor(chosen, dtype=torch.long))
    with (
        torch.no_grad(),
        attending(model, lambda call: eager(replace(call, seen=Given(call.rows() & ~blocked))), wants_mask=True),
    ):
        logits = run(model, ids.expand(len(sets), -1))[:, found.readouts.positions[0]][None]
    return found.readouts.margin(logits)[0], found.readouts.log_probability(logits)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CAUSAL)
def test_all_sets_at_once_equal_one_masked_pass_each(name: str, dtype: torch.dtype) -> None:
    found = traced(lens(name, dtype), tokens(24))
    result, (margins, answers) = knocked_out(found), one_by_one(found, GROUPS, SETS)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert result.residual <= tolerance
    torch.testing.assert_close(result.margins, margins, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(result.log_probabilities, answers, rtol=tolerance, atol=tolerance)
    assert float(result.margin_changes[:-1].abs().max()) > 1e-3
    assert float(result.margin_changes[-1]) == pytest.approx(0.0, abs=100 * tolerance)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_any_prompt_query_and_sets(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["gpt2", "qwen2-window", "gemma2"]))
    n = data.draw(st.integers(4, 30))
    start = data.draw(st.integers(1, n - 1))
    position = data.draw(st.integers(start, n - 1))
    groups = torch.tensor([data.draw(st.integers(-1, 2)) for _ in range(start)] + [-1] * (n - start))
    present = sorted({int(g) for g in groups if g >= 0})
    chosen = tuple(g for g in present if data.draw(st.booleans()))
    ids = tokens(n, seed=data.draw(st.integers(0, 5)))
    found = traced(lens(name, torch.float64), ids, Readout.contrast(position, 5, [6, 7]), start)
    result, (margins, answers) = knocked_out(found, [chosen], groups), one_by_one(found, groups, [chosen])
    torch.testing.assert_close(result.margins, margins, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(result.log_probabilities, answers, rtol=1e-11, atol=1e-11)


def test_a_demonstration_out_of_every_window_changes_nothing() -> None:
    """With a window of 7, the query's tokens from 18 on see nothing before token 12."""
    result = knocked_out(traced(lens("mistral-window"), tokens(24)), [(0,), (1,), (3,)])
    assert result.margin_changes[:2].abs().max() <= 1e-5
    assert result.margin_changes[2].abs() > 1e-3


def test_one_trace_serves_many_knock_outs_in_any_order() -> None:
    found = traced(lens("gpt2", torch.float64), tokens(24))
    forwards, backwards = knocked_out(found).margins, knocked_out(found, SETS[::-1]).margins
    torch.testing.assert_close(forwards, backwards.flip(0), rtol=1e-12, atol=1e-12)
    assert torch.equal(knocked_out(found).margins, forwards)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_bigcode"])
def test_large_passes_are_cut(name: str) -> None:
    """By heads, by sets and prompts, or by logits: the numbers are the same."""
    found = traced(lens(name, torch.float64), tokens(24, batch=2))
    hidden = hidden_keys(GROUPS.expand(2, -1), [SETS[3:6], SETS[:2]])
    whole = knock_out(found, hidden)
    for sizes in ({"most_scores": 1}, {"most_tokens": 1}, {"most_tokens": 20}, {"most_logits": 400}):
        for ours, theirs in zip(vars(knock_out(found, hidden, **sizes)).values(), vars(whole).values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "sets", "message"),
    [
        (GROUPS[:-1], [(0,)], "23 entries for a prompt of 24"),
        (GROUPS, [(4,)], "cannot knock out demonstration 4"),
        (GROUPS, [(-1,)], "cannot knock out demonstration -1"),
        (torch.arange(24) // 6, [(3,)], "tokens of the query"),
    ],
)
def test_groups_and_sets_that_do_not_fit_are_refused(
    groups: torch.Tensor, sets: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        knocked_out(traced(lens("gpt2"), tokens(24)), sets, groups)


def test_a_query_that_starts_the_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="starts at token 0"):
        knocked_out(traced(lens("gpt2"), tokens(24), start=0))
