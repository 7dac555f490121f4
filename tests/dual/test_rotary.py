"""Rotary positions: transformers' own rotation, and scores that depend on distances alone."""

from __future__ import annotations

import pytest
import torch

from iclens import UserError
from iclens.dual import LayerDual, LayerWeights, Rotary


@pytest.mark.parametrize("d", [2, 8])
def test_it_is_the_rotation_of_transformers(d: int) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=4 * d, num_attention_heads=4, rope_theta=100.0)
    turning = LlamaRotaryEmbedding(config)
    q, k = torch.randn(2, 4, 7, d, dtype=torch.float64), torch.randn(2, 2, 7, d, dtype=torch.float64)
    expected = apply_rotary_pos_emb(q, k, *turning(q, torch.arange(7)[None]))
    rotary = Rotary(turning.inv_freq, turning.attention_scaling)
    torch.testing.assert_close((rotary(q), rotary(k)), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(Rotary.of(d, 100.0).frequencies.float(), Rotary.of(d, 100.0, torch.float32).frequencies)


def test_scores_depend_on_distances_alone_and_lengths_stay() -> None:
    rotary = Rotary.of(6, base=50.0)
    q, k = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    here, there = torch.tensor([0, 3, 1, 4, 2]), torch.tensor([10, 13, 11, 14, 12])
    torch.testing.assert_close(rotary(q, here) @ rotary(k, here).mT, rotary(q, there) @ rotary(k, there).mT)
    torch.testing.assert_close(rotary(q).norm(dim=-1), q.norm(dim=-1))
    assert torch.equal(rotary(q)[0], q[0])
    assert float((rotary(q) - q)[1:].norm()) > 0.1


def test_features_beyond_the_frequencies_stay_and_a_factor_scales_the_others() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    part = Rotary(Rotary.of(4).frequencies, factor=2.0)
    assert torch.equal(part(x)[..., 4:], x[..., 4:])
    torch.testing.assert_close(part(x)[..., :4], 2 * Rotary.of(4)(x[..., :4]))


def test_positions_matter_to_a_layer_with_them_alone() -> None:
    def moved(rotary: bool) -> float:
        weights = LayerWeights.random(torch.Generator().manual_seed(0), d_model=8, rotary=rotary)
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        order = [1, 0, 2, 3, 4]
        here, there = (LayerDual.from_layer(weights, y, 4, -1).predict() for y in (x, x[order]))
        return float((here - there).norm() / here.norm())

    assert moved(rotary=False) < 1e-13
    assert moved(rotary=True) > 1e-3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="d=5 is odd"):
        Rotary.of(5)
    weights = LayerWeights.random(torch.Generator().manual_seed(0), d_model=8, n_heads=2)
    with pytest.raises(UserError, match="3 frequencies; heads of width 4 hold 2"):
        LayerWeights(weights.W_Q, weights.W_K, weights.W_V, weights.W_O, rotary=Rotary.of(6))
