"""All sets at once over shared keys and values equal one masked full pass per set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iclens.lens.read.trace import trace
from tests.lens.zoo import CAUSAL, GROUPS, QUERY_START, TWO_POSITIONS, lens, tokens

from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.model.seen import Given
from iclens.lens.model.session import attending
from iclens.lens.read.attend import eager
from iclens.lens.read.capture import run
from iclens.lens.read.readout import Readout
from iclens.lens.scores.knock_out import knock_out

SETS = [(0,), (1,), (2,), (3,), (1, 3), (0, 1, 2, 3), ()]


def one_by_one(
    model: LensModel, ids: torch.Tensor, readout: Readout, start: int, groups: torch.Tensor, chosen: tuple[int, ...]
) -> tuple[float, float]:
    """The naive way: the whole prompt again, with (query token, demonstration token) pairs masked everywhere."""
    blocked = torch.zeros(ids.shape[1], ids.shape[1], dtype=torch.bool)
    blocked[start:] = torch.isin(groups, torch.tensor(chosen, dtype=torch.long))
    with (
        torch.no_grad(),
        attending(model, lambda call: eager(replace(call, seen=Given(call.rows() & ~blocked))), wants_mask=True),
    ):
        logits = run(model, ids)[0, list(readout.positions)]
    return float(readout.margin(logits)), float(readout.log_probability(logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CAUSAL)
def test_all_sets_at_once_equal_one_masked_pass_each(name: str, dtype: torch.dtype) -> None:
    model, ids = lens(name, dtype), tokens(24)
    result = knock_out(trace(model, ids, TWO_POSITIONS, QUERY_START), GROUPS, SETS)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert result.residual <= tolerance
    for chosen, margin, answer in zip(SETS, result.margins, result.log_probabilities, strict=True):
        naive = one_by_one(model, ids, TWO_POSITIONS, QUERY_START, GROUPS, chosen)
        assert float(margin) == pytest.approx(naive[0], rel=tolerance, abs=tolerance)
        assert float(answer) == pytest.approx(naive[1], rel=tolerance, abs=tolerance)
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
    model, ids = lens(name, torch.float64), tokens(n, seed=data.draw(st.integers(0, 5)))
    readout = Readout.contrast(position, 5, [6, 7])
    result = knock_out(trace(model, ids, readout, start), groups, [chosen])
    naive = one_by_one(model, ids, readout, start, groups, chosen)
    assert float(result.margins[0]) == pytest.approx(naive[0], rel=1e-11, abs=1e-11)
    assert float(result.log_probabilities[0]) == pytest.approx(naive[1], rel=1e-11, abs=1e-11)


def test_a_demonstration_out_of_every_window_changes_nothing() -> None:
    """With a window of 7, the query's tokens from 18 on see nothing before token 12."""
    result = knock_out(
        trace(lens("mistral-window"), tokens(24), TWO_POSITIONS, QUERY_START), GROUPS, [(0,), (1,), (3,)]
    )
    assert result.margin_changes[:2].abs().max() <= 1e-5
    assert result.margin_changes[2].abs() > 1e-3


def test_the_order_of_sets_does_not_matter() -> None:
    traced = trace(lens("gpt2", torch.float64), tokens(24), TWO_POSITIONS, QUERY_START)
    forwards, backwards = knock_out(traced, GROUPS, SETS), knock_out(traced, GROUPS, SETS[::-1])
    torch.testing.assert_close(forwards.margins, backwards.margins.flip(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_bigcode"])
def test_large_products_are_cut_by_heads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace(lens(name, torch.float64), tokens(24), TWO_POSITIONS, QUERY_START)
    whole = knock_out(traced, GROUPS, SETS)
    monkeypatch.setattr("iclens.lens.scores.knock_out.MOST_SCORES", 1)
    torch.testing.assert_close(knock_out(traced, GROUPS, SETS).margins, whole.margins, rtol=1e-12, atol=1e-12)


def test_one_trace_serves_many_knock_outs() -> None:
    traced = trace(lens("llama"), tokens(24), TWO_POSITIONS, QUERY_START)
    assert torch.equal(knock_out(traced, GROUPS, SETS).margins, knock_out(traced, GROUPS, SETS).margins)


@pytest.mark.parametrize(
    ("groups", "sets", "message"),
    [
        (GROUPS[:-1], [(0,)], "23 entries for a prompt of 24"),
        (GROUPS, [(4,)], "cannot knock out demonstration 4"),
        (GROUPS, [(-1,)], "cannot knock out demonstration -1"),
        (torch.arange(24) // 6, [(0,)], "tokens of the query"),
    ],
)
def test_groups_and_sets_that_do_not_fit_are_refused(
    groups: torch.Tensor, sets: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        knock_out(trace(lens("gpt2"), tokens(24), TWO_POSITIONS, QUERY_START), groups, sets)


def test_a_query_that_starts_the_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="starts at token 0"):
        knock_out(trace(lens("gpt2"), tokens(24), TWO_POSITIONS, 0), GROUPS, [(0,)])
