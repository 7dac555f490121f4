"""Making variants by name: options, strengths, and every mistake's one clear error."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from iclens.attention import (
    augmented_attention,
    build,
    name_of,
    published_residual,
    regularized_attention,
    softmax_attention,
    weight_decay_attention,
)
from iclens.attention.attending import Attending
from iclens.errors import UserError

SIZES = {"n_heads": 4, "d": 6, "d_v": 6, "n_kv_heads": 2}


def tensors(n_query=5, n_key=5):
    return torch.randn(2, 4, n_query, 6), torch.randn(2, 2, n_key, 6), torch.randn(2, 2, n_key, 6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("negativ", {}, "Did you mean 'negative'"),
        ("negative", {"colour": 1}, "has no option"),
        ("negative", {"betas": 0.1}, "Did you mean 'beta'"),
        ("softmax", {"beta": 0.1}, "Its options: none"),
        ("regularized", {"alpha": float("inf")}, "alpha=inf must be finite"),
        ("regularized", {"alpha": [0.1, 0.2, 0.3]}, "one for each of 4 heads"),
        ("augmented", {"g1": "adaptor"}, "Did you mean 'adapter'"),
        ("augmented", {"g1": {"name": "adapter", "width": 3}}, "has no option 'width'"),
        ("augmented", {"g1": {"name": "adapter", "activation": "sin"}}, "unknown activation 'sin'"),
        ("augmented", {"g2": {"name": "conv1d", "size": 2, "causal": False}}, "odd unless causal"),
        ("linear", {"features": "exp"}, "unknown features 'exp'"),
        ("composed", {}, "needs parts"),
        ("composed", {"parts": [{"beta": 1}]}, "needs a 'name'"),
        ("composed", {"parts": [{"name": "linear"}]}, "not a modification of softmax attention"),
        ("parameter-matched", {"g1": "conv1d"}, "mixes tokens"),
    ],
)
def test_a_wrong_name_or_option_is_answered(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, **SIZES, **options)


def test_sizes_must_fit():
    with pytest.raises(UserError, match="multiple of n_kv_heads=3"):
        build("softmax", n_heads=4, d=6, d_v=6, n_kv_heads=3)


def test_a_map_that_changes_the_shape_is_refused():
    with pytest.raises(UserError, match=r"g1 changes the shape of its input from \(2, 2, 5, 6\) to \(2, 2, 5, 3\)"):
        build("augmented", g1=nn.Linear(6, 3), **SIZES)(*tensors())


def test_a_convolution_that_looks_ahead_is_refused_under_causality():
    variant = build("augmented", g1={"name": "conv1d", "causal": False}, **SIZES)
    variant(*tensors())
    with pytest.raises(UserError, match="not causal"):
        variant(*tensors(), is_causal=True)


def test_a_users_module_augments_but_has_no_json():
    g = nn.Linear(6, 6)
    variant = build("augmented", g2=g, **SIZES)
    q, k, v = tensors()
    torch.testing.assert_close(variant(q, k, v), softmax_attention(q, g(k), v))
    torch.testing.assert_close(augmented_attention(q, k, v, g2=g), variant(q, k, v))
    with pytest.raises(UserError, match="register its class"):
        variant.options()


def test_a_centred_convolution_is_that_of_torch():
    variant = build("augmented", g1={"name": "conv1d", "causal": False}, **SIZES)
    nn.init.normal_(variant.g1.w)
    x = torch.randn(1, 1, 9, 6)
    kernel = variant.g1.w.flip(0).T.unsqueeze(1)
    expected = x + nn.functional.conv1d(x[0].mT, kernel, padding=1, groups=6).mT
    torch.testing.assert_close(variant.g1(x), expected)


@pytest.mark.parametrize("name", ["regularized", "weight-decay"])
def test_cross_attention_with_more_queries_than_keys_is_refused(name):
    with pytest.raises(UserError, match="cross-attention"):
        build(name, alpha=0.1, **SIZES)(*tensors(6, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(5, 5)}, "must be bool"),
        ({"mask": torch.ones(5, 4, dtype=torch.bool)}, r"must be \(5, 5\)"),
        ({"scale": 0.0}, "positive finite"),
    ],
)
def test_a_wrong_call_is_answered(change, message):
    q, k, v = tensors()
    with pytest.raises(UserError, match=message):
        Attending.of(q, k, v, **change)
    with pytest.raises(UserError, match="multiple of it"):
        Attending.of(q[:, :3], k, v)
    with pytest.raises(UserError, match="same number"):
        Attending.of(q, k, v[..., :4, :])


def test_the_two_regularised_forms_differ_by_their_residual():
    q, k, v = tensors()
    for demonstrations in (None, torch.tensor([True, True, False, True, False])):
        exact = weight_decay_attention(q, k, v, alpha=0.7, demonstrations=demonstrations)
        published = regularized_attention(q, k, v, alpha=0.7)
        weights = (q @ k.repeat_interleave(2, -3).mT * 6**-0.5).softmax(-1)
        initial = torch.eye(5) if demonstrations is None else (~demonstrations).to(weights.dtype)
        W_0_phi = (weights * initial) @ v.repeat_interleave(2, -3)
        residual = published_residual(v, Attending.of(q, k, v), 0.7, W_0_phi)
        torch.testing.assert_close(published - exact, residual)


def test_options_survive_json_in_a_composition():
    parts = [{"name": "augmented", "g1": {"name": "adapter", "hidden": 2}}, {"name": "negative", "n_negatives": 2}]
    variant = build("composed", parts=parts, **SIZES)
    assert name_of(variant) == "composed"
    again = build("composed", **SIZES, **json.loads(json.dumps(variant.options())))
    again.load_state_dict(variant.state_dict())
    q, k, v = tensors()
    assert torch.equal(again(q, k, v), variant(q, k, v))


def test_control_has_as_many_parameters():
    maps = {"g1": {"name": "adapter", "per_head": True}, "g2": "mlp"}
    counts = [
        sum(p.numel() for p in build(name, **maps, **SIZES).parameters()) for name in ("augmented", "parameter-matched")
    ]
    assert counts[0] == counts[1] > 0
