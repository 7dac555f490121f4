"""Every head of every model is its dual model: mask, scale, soft cap and grouped heads included."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import CAUSAL, ENCODERS, lens, tokens

from iclens.errors import UserError
from iclens.kernels import SoftcappedKernel
from iclens.lens.read.capture import capture

GROUPS = torch.tensor([-1, -1, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1, 3, 3, -1, -1])


@pytest.mark.parametrize("name", [*CAUSAL, *ENCODERS])
def test_the_dual_of_a_head_predicts_its_output(name: str) -> None:
    for record in capture(lens(name, torch.float64), tokens(20)).records:
        for head in range(record.q.shape[1]):
            dual = record.dual(head, groups=GROUPS)
            torch.testing.assert_close(dual.predict(), record.output[0, head], rtol=1e-10, atol=1e-11)
            parts = dual.initial() + dual.contributions().sum(-2)
            torch.testing.assert_close(parts, record.output[0, head], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "gemma2", "bert"])
def test_some_queries_of_a_prompt_in_a_padded_batch(name: str) -> None:
    ids, mask = tokens(20, batch=2), torch.ones(2, 20, dtype=torch.long)
    mask[0, :5] = 0
    for record in capture(lens(name), ids, mask).records:
        for prompt in (0, 1):
            dual = record.dual(3, [19, 7, -2], GROUPS, prompt, dtype=torch.float64)
            assert dual.q.dtype == torch.float64
            assert dual.k.shape == (20, record.k.shape[-1])
            expected = record.output[prompt, 3, [19, 7, 18]].double()
            torch.testing.assert_close(dual.predict(), expected, rtol=1e-4, atol=1e-5)
        assert float(record.dual(3, 19, prompt=0).coefficients[0, :5].abs().max()) == 0.0


def test_without_groups_every_token_is_a_demonstration() -> None:
    record = capture(lens("gpt2"), tokens(20)).records[0]
    dual = record.dual(0, queries=-1)
    assert dual.n_demonstrations == 20
    assert float(dual.initial().abs().max()) == 0.0


def test_a_soft_cap_is_the_kernels_and_matters() -> None:
    record = capture(lens("gemma2", torch.float64), tokens(20)).records[1]
    dual = record.dual(0)
    assert isinstance(dual.kernel, SoftcappedKernel)
    assert (dual.kernel.scale, dual.kernel.cap) == (record.scale, record.softcap)
    scores = record.scale * (dual.q @ dual.k.mT)
    uncapped = torch.softmax(scores.masked_fill(~record.mask[0, 0], -torch.inf), -1) @ dual.v
    assert float((uncapped - dual.predict()).norm() / dual.predict().norm()) > 0.01


def test_grouped_heads_share_keys_and_values() -> None:
    record = capture(lens("llama"), tokens(20)).records[0]
    assert record.groups == 2
    assert torch.equal(record.head(0).k, record.head(1).k)
    assert not torch.equal(record.head(1).v, record.head(2).v)


def test_what_is_not_there_is_refused() -> None:
    record = capture(lens("gpt2"), tokens(8)).records[0]
    with pytest.raises(UserError, match=r"no head 4 in transformer\.h\.0\.attn: it has 4 heads"):
        record.dual(4)
    with pytest.raises(UserError, match="no prompt 1"):
        record.dual(0, prompt=1)
    with pytest.raises(UserError, match="position 8 is outside the 8 tokens"):
        record.dual(0, queries=[8])
