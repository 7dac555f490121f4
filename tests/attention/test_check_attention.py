"""`check_attention` fails for variants that are broken, each in one way."""

from __future__ import annotations

import pytest
import torch

from iclens.attention import AttentionVariant, RegularizedAttention, SoftmaxAttention
from iclens.errors import UserError
from iclens.testing import check_attention


class WrongFastPath(SoftmaxAttention):
    def attend(self, q, k, v, attending):
        return super().attend(q, k, v, attending) * 1.001


class WrongGradient(SoftmaxAttention):
    def attend(self, q, k, v, attending):
        return super().attend(q, k.detach(), v, attending)


class LooksAhead(SoftmaxAttention):
    def values(self, k, v, attending):
        return v + v.mean(-2, keepdim=True)

    def naive(self, q, k, v, attending):
        return super().naive(q, k, self.values(k, v, attending), attending)


class UndeclaredResidual(RegularizedAttention):
    def residual(self, q, k, v, attending, initial, weights):
        return None


class NotNeutral(SoftmaxAttention):
    def after(self, out):
        return 2 * out


class MixesBatch(SoftmaxAttention):
    def after(self, out):
        return out - out.mean(0, keepdim=True) if out.ndim > 3 else out

    def neutral_options(self):
        return None

    def naive(self, q, k, v, attending):
        return self.after(super().naive(q, k, v, attending))


class Positional(SoftmaxAttention):
    def values(self, k, v, attending):
        return v * torch.arange(1, v.shape[-2] + 1).to(v.dtype).unsqueeze(-1)

    def neutral_options(self):
        return None

    def naive(self, q, k, v, attending):
        return super().naive(q, k, self.values(k, v, attending), attending)


@pytest.mark.parametrize(
    ("variant", "law"),
    [
        (WrongFastPath, "neutral|fast"),
        (WrongGradient, "gradients"),
        (LooksAhead, "neutral|causal"),
        (UndeclaredResidual, "dual"),
        (NotNeutral, "neutral"),
        (MixesBatch, "batching|causal|dual"),
        (Positional, "permutation"),
    ],
)
def test_a_broken_variant_is_found(variant, law):
    def make(shape):
        return variant(shape, alpha=0.3) if issubclass(variant, RegularizedAttention) else variant(shape)

    with pytest.raises(AssertionError, match=law):
        check_attention(make, sizes=(7,))


def test_a_variant_that_is_not_registered_can_be_checked():
    def make(shape) -> AttentionVariant:
        return RegularizedAttention(shape, alpha=0.3)

    assert all(check.error <= check.tolerance for check in check_attention(make, sizes=(7,)))


def test_options_go_with_a_name():
    with pytest.raises(UserError, match="registered name"):
        check_attention(SoftmaxAttention, alpha=1)


def test_the_callers_random_state_and_dtype_stay():
    torch.set_default_dtype(torch.float32)
    state = torch.get_rng_state()
    check_attention("softmax", sizes=(7,))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
