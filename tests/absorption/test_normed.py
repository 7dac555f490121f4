"""A map before a norm: with the scale held, the change found is the best of its rank for what the norm gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from iclens.absorption.low_rank import LowRank, best_maps
from iclens.absorption.normed import HeldNorm

N, D_IN, WIDTH, RANK = 40, 9, 7, 2


class UnevenRMSNorm(nn.RMSNorm):
    """Gains that differ by four orders of magnitude, and one that drops its coordinate."""

    def __init__(self) -> None:
        super().__init__(WIDTH, eps=1e-6, dtype=torch.float64)
        with torch.no_grad():
            self.weight.copy_(10.0 ** -torch.linspace(0, 4, WIDTH))
            self.weight[3] = 0.0


@pytest.fixture
def case():
    drawn = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    norm = UnevenRMSNorm()
    # Outputs of very different sizes, so that the scales differ too.
    given = normal(N, WIDTH) * 10.0 ** normal(N, 1).clamp(-1, 1)
    made = norm(given).detach()
    return norm, HeldNorm.of(norm, given, made), normal


def test_scale_and_gain_are_those_of_the_norm(case):
    norm, held, _ = case
    torch.testing.assert_close(held.scale * held.gain * held.given, held.made, rtol=1e-9, atol=1e-12)
    # Apart from one factor the gain is the norm's, and the scale 1/rms.
    torch.testing.assert_close(held.gain / held.gain[0], norm.weight.detach() / norm.weight[0].detach())
    torch.testing.assert_close(held.scale.mean(), torch.ones((), dtype=torch.float64))


def test_no_other_change_of_the_rank_brings_the_branch_nearer(case):
    _, held, normal = case
    x, now, target = normal(N, D_IN), normal(N, WIDTH), held.made + 0.3 * normal(N, WIDTH) * held.gain
    counts = torch.rand(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5

    def lost(change: LowRank) -> float:
        """How far the branch is from its target with the scale held, token by token."""
        moved = held.scale * held.gain * (now + change(x) - held.given)
        return float((counts[:, None] * (held.made + moved - target).square()).sum())

    found = held.before(best_maps(x, held.lacking(now, target), held.weights(counts), 0.0).of_rank(RANK))
    least = lost(found)
    drawn = torch.Generator().manual_seed(2)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            near = [
                part * (1 + size * torch.randn(part.shape, generator=drawn, dtype=part.dtype))
                for part in (found.a, found.b)
            ]
            assert lost(LowRank(*near)) >= least * (1 - 1e-9)
    # Fitted to the map's own output, as where no norm follows, it is clearly worse.
    inside = held.given - now + torch.where(held.gain == 0, 0.0, (target - held.made) / (held.scale * held.gain))
    assert lost(best_maps(x, inside.nan_to_num(0.0), counts, 0.0).of_rank(RANK)) > 1.01 * least


def test_the_prompts_own_branch_is_reached_exactly(case):
    _, held, normal = case
    x, now = torch.eye(N, dtype=torch.float64), normal(N, WIDTH)
    found = held.before(best_maps(x, held.lacking(now, held.made), held.weights(torch.ones(N)), 0.0).of_rank(WIDTH))
    seen = held.gain != 0
    torch.testing.assert_close((now + found(x))[:, seen], held.given[:, seen], rtol=1e-7, atol=1e-7)
