"""A learned sink is one more training pair, with target 0, in every way in which attention is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from tests.lens.zoo import GROUPS, lens, tokens, traced

from iclens.lens.explaining import explain
from iclens.lens.read.attend import eager, fast, softmax_rows, with_sink
from iclens.lens.read.capture import capture


def test_heads_with_a_sink_are_attention_with_one_more_key_whose_value_is_zero() -> None:
    for record in capture(lens("gpt_oss", torch.float64), tokens(20, batch=2)).records:
        k, v = (x.repeat_interleave(record.groups, 1) for x in (record.k, record.v))
        scores = (record.q @ k.mT * record.scale).masked_fill(~record.mask, -torch.inf)
        joined = torch.cat([scores, record.sinks[:, None, None].expand(2, -1, 20, 1)], -1).softmax(-1)
        torch.testing.assert_close(joined[..., :-1] @ v, record.output, rtol=1e-12, atol=1e-12)
        weights = softmax_rows(record, record.q, record.mask)
        torch.testing.assert_close(1 - weights.sum(-1), joined[..., -1], rtol=1e-10, atol=1e-12)
        # The sinks of these tests matter.
        assert float(joined[..., -1].mean()) > 0.05


def test_the_sink_is_a_pair_of_the_dual_that_says_nothing() -> None:
    found = traced(lens("gpt_oss", torch.float64), tokens(24))
    for layer in found.layers:
        for head in range(4):
            dual = layer.dual(head, GROUPS)
            assert dual.k.shape[-2] == 25
            assert not dual.v[-1].any()
            torch.testing.assert_close(dual.coefficients[:, -1], layer.sink_weights[0, head], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(dual.predict(), layer.output[0, head], rtol=1e-12, atol=1e-12)
            # Every query sees it, whatever its window: its kernel with each is e^sink.
            logs = dual.coefficients[:, -1].log() + dual.log_normalizer
            torch.testing.assert_close(logs, layer.sinks[head].expand_as(logs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("demonstrations", [3, GROUPS, GROUPS >= 0, None], ids=["first", "groups", "mask", "each"])
def test_the_sink_is_of_no_demonstration(demonstrations: int | torch.Tensor | None) -> None:
    record = capture(lens("gpt_oss", torch.float64), tokens(24)).records[1]
    dual = record.dual(2, [23, 7], demonstrations)
    torch.testing.assert_close(dual.predict(), record.output[0, 2, [23, 7]], rtol=1e-12, atol=1e-12)
    assert int(dual.groups.ids[-1]) == -1


@pytest.mark.parametrize("most_scores", [1 << 24, 200])
def test_fused_sinks_are_written_out_ones(most_scores: int) -> None:
    for record in capture(lens("gpt_oss", torch.float64), tokens(20)).records:
        ours = fast(record, most_scores=most_scores)
        torch.testing.assert_close(ours, eager(record), rtol=1e-12, atol=1e-12)
        one = replace(record, q=record.q[:, :, -1:])
        assert one.sinks is not None
        if record.mask[0, 0].tril().equal(torch.ones(20, 20, dtype=torch.bool).tril()):
            torch.testing.assert_close(fast(one), record.output[:, :, -1:], rtol=1e-12, atol=1e-12)


def test_a_sink_may_stand_first_or_last() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 5, width, generator=generator, dtype=torch.float64) for width in (8, 8, 3))
    sinks = torch.randn(4, generator=generator, dtype=torch.float64)
    q_1, k_1, v_1 = with_sink(q, k, v, sinks, 0.3)
    scores = 0.3 * q_1 @ k_1.mT
    torch.testing.assert_close(scores[..., :-1], 0.3 * q @ k.mT)
    torch.testing.assert_close(scores[..., -1], sinks[:, None].expand(4, 5))
    first = with_sink(q, k, v, sinks, 0.3, first=True)
    torch.testing.assert_close(first[1].roll(-1, -2), k_1)
    torch.testing.assert_close(first[2].roll(-1, -2), v_1)


def test_an_explanation_shows_the_sinks_part() -> None:
    found = explain(reader("gpt_oss"), PROMPTS[1], scores=["gradient_step", "path"])
    assert found.exact
    (part,) = (one for one in found.others if one.name == "learned_sinks")
    assert (part.gradient_step, part.path) == (0.0, 0.0)
    (note,) = (note for note in found.notes if "Learned sinks" in note)
    shares = [float(layer.sink_weights[0, :, 0].mean()) for layer in found.lens.traced.layers]
    assert f"take {sum(shares) / 3:.0%} of the attention" in note
    assert f"most in layer {shares.index(max(shares))} ({max(shares):.0%})" in note
    assert "learned sinks" in str(found)
    assert not [one for one in explain(reader("llama"), PROMPTS[1]).others if one.name == "learned_sinks"]
