"""Attention as a weighted mean: the least disagreement, and leaving one out, against brute force."""

from __future__ import annotations

import pytest
import torch
from tests.dual.test_counterfactual import head
from torch.nn.functional import scaled_dot_product_attention

from iclens.dual import DualModel, disagreement, leave_one_out
from iclens.errors import UserError


@pytest.mark.parametrize("mask", [False, True])
def test_the_output_is_where_the_disagreement_is_least_and_autograd_sees_no_slope(mask):
    dual = head(mask=mask)
    found = disagreement(dual)
    out = dual.predict().requires_grad_()

    def spread(b):
        return (dual.coefficients * (dual.v - b.unsqueeze(-2)).square().sum(-1)).sum(-1)

    torch.testing.assert_close(spread(out), found.total, rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(spread(out).sum(), out)
    assert float(slope.abs().max()) <= 1e-12
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        moved = out.detach() + 0.1 * torch.randn(out.shape, generator=generator)
        assert bool((spread(moved) > found.total).all())


def test_relative_disagreement_is_what_the_mean_loses_of_the_squared_length():
    dual = head()
    found = disagreement(dual)
    size = (dual.coefficients * dual.v.square().sum(-1)).sum(-1)
    torch.testing.assert_close(found.relative, 1 - dual.predict().square().sum(-1) / size, rtol=1e-10, atol=1e-12)
    same = DualModel.from_attention(dual.q, dual.k, dual.v[:1].expand(9, -1), 9)
    assert float(disagreement(same).relative.max()) <= 1e-15
    nothing = DualModel.from_attention(dual.q, dual.k, torch.zeros(9, 5), 9)
    assert disagreement(nothing).relative.tolist() == [0.0] * 3


@pytest.mark.parametrize("size", [0.5, 3.0, 60.0])
def test_leaving_a_key_out_in_closed_form_is_attention_without_it(size):
    """At 60 one key has all of the attention, to rounding."""
    dual = head(size=size)
    found = leave_one_out(dual)
    for i in range(9):
        kept = [j for j in range(9) if j != i]
        without = scaled_dot_product_attention(dual.q, dual.k[kept], dual.v[kept])
        torch.testing.assert_close(found[:, i], dual.v[i] - without, rtol=1e-9, atol=1e-9)
        moved = dual.coefficients[:, i : i + 1] * found[:, i]
        torch.testing.assert_close(dual.predict() - moved, without, rtol=1e-9, atol=1e-9)


def test_leaving_out_under_a_mask_and_with_training_weights_is_the_duals_own():
    for dual in (head(mask=True), DualModel.from_attention(head().q, head().k, head().v, 9, training_weights=2.5)):
        found = leave_one_out(dual)
        for i in range(1, 9):
            seen = torch.ones(3, dtype=torch.bool) if dual.mask is None else dual.mask[:, i] & (dual.mask.sum(-1) > 1)
            expected = (dual.v[i] - dual.without(i))[seen]
            torch.testing.assert_close(found[seen, i], expected, rtol=1e-9, atol=1e-9)
            assert float(found[~seen, i].abs().sum()) == 0.0


def test_the_derivative_by_a_log_weight_is_the_weight_times_what_is_apart():
    """∂out/∂log w_i = α_i (v_i − out), the first order of leaving one out."""
    dual = head()
    logs = torch.zeros(9, requires_grad=True)
    for row in range(3):
        for column in range(5):
            weighted = DualModel.from_attention(dual.q, dual.k, dual.v, 9, training_weights=logs.exp())
            (slope,) = torch.autograd.grad(weighted.predict()[row, column], logs)
            alpha = dual.coefficients[row]
            closed = leave_one_out(dual)[row, :, column] * alpha * (1 - alpha)
            torch.testing.assert_close(slope, closed, rtol=1e-9, atol=1e-12)


def test_what_is_no_mean_and_what_has_one_key_are_refused():
    dual = head()
    linear = DualModel.from_attention(dual.q, dual.k, dual.v, 9, kernel="linear")
    for refused in (disagreement, leave_one_out):
        with pytest.raises(UserError, match="does not normalise"):
            refused(linear)
    with pytest.raises(UserError, match="no key to attend to but one"):
        leave_one_out(DualModel.from_attention(dual.q, dual.k[:1], dual.v[:1], 1))
