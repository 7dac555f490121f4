"""LayerDual: equality with the plain layer and with PyTorch's own, and the laws of its parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iclens import UserError
from iclens.dual.feed_forward import ACTIVATIONS, FeedForward
from iclens.dual.heads import HeadsDual
from iclens.dual.layer import LayerDual
from iclens.dual.layer_weights import LayerWeights
from iclens.dual.norms import Norm

TOLERANCE = 1e-12


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def random_mask(generator, *shape):
    mask = torch.rand(shape, generator=generator) < 0.6
    mask[..., 0] = True
    return mask


@st.composite
def layers(draw):
    """Weights, tokens, group ids, query positions and a mask."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n_heads = draw(st.integers(1, 4))
    n_kv_heads = draw(st.sampled_from([m for m in range(1, n_heads + 1) if n_heads % m == 0]))
    activation = draw(st.sampled_from([None, "relu", "gelu", "gelu-tanh", "silu"]))
    d_head = draw(st.integers(1, 5))
    weights = LayerWeights.random(
        generator,
        d_model=draw(st.integers(2, 13)),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        rotary=d_head % 2 == 0 and draw(st.booleans()),
        d_ff=draw(st.integers(1, 9)),
        activation=activation,
        gated=activation is not None and draw(st.booleans()),
        norm=draw(st.sampled_from(["layer", "rms", None])),
        placement=draw(st.sampled_from(["pre", "post"])),
        bias=draw(st.booleans()),
    )
    n = draw(st.integers(2, 8))
    leading = draw(st.sampled_from([(), (2,), (3, 2)]))
    x = torch.randn(*leading, n, weights.d_model, generator=generator)
    ids = torch.randint(-1, 2, (n,), generator=generator)
    ids[:2] = torch.tensor([0, 1])
    mask = None
    if draw(st.booleans()):
        mask = random_mask(generator, *draw(st.sampled_from([(), leading])), n, n)
    queries = draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=3, unique=True) | st.none())
    return weights, x, ids, queries, mask


@settings(deadline=None, max_examples=60)
@given(layers())
def test_dual_equals_the_plain_layer(case):
    weights, x, ids, queries, mask = case
    dual = LayerDual.from_layer(weights, x, ids, queries, mask)
    expected = weights.forward(x, mask)
    expected = expected if queries is None else expected[..., queries, :]
    contributions = dual.contributions()
    assert contributions.shape == (*expected.shape[:-1], 2, weights.d_model)
    assert relative(dual.predict(), expected) <= TOLERANCE
    parts = torch.cat([dual.offset().unsqueeze(-2), dual.initial().unsqueeze(-2), contributions], -2)
    assert relative(parts.sum(-2), expected) <= TOLERANCE * max(1, (parts.abs().max() / expected.abs().max()).item())
    assert torch.equal(dual.before(), dual.offset() + dual.initial())


@settings(deadline=None, max_examples=30)
@given(layers())
def test_heads_sum_and_targets_give_plain_dual_models(case):
    weights, x, ids, queries, mask = case
    dual = LayerDual.from_layer(weights, x, ids, queries, mask)
    size = dual.contributions().abs().max() + dual.initial().abs().max()
    by_head = dual.contributions(by_head=True)
    assert by_head.shape[-3:] == (weights.n_heads, 2, weights.d_model)
    assert (by_head.sum(-3) - dual.contributions()).abs().max() <= TOLERANCE * size
    assert (dual.initial(by_head=True).sum(-2) - dual.initial()).abs().max() <= TOLERANCE * size
    single = dual.duals()
    assert single.v.shape[-1] == weights.d_model
    trained = single.predict().sum(-4).squeeze(-2)
    assert (trained - (dual.predict() - dual.offset())).abs().max() <= TOLERANCE * (size + dual.offset().abs().max())
    # (..., head, query, 1, demonstration, d_model) against (..., query, head, demonstration, d_model).
    assert (single.contributions().squeeze(-3).movedim(-4, -3) - by_head).abs().max() <= TOLERANCE * size


@settings(deadline=None, max_examples=40)
@given(layers(), st.sampled_from([0, 1, [0, 1]]))
def test_without_is_the_layer_that_never_sees_the_demonstration(case, left_out):
    weights, x, ids, queries, mask = case
    ids[-1] = -1
    n = x.shape[-2]
    mask = torch.ones(n, n, dtype=torch.bool) if mask is None else mask
    mask = mask | (torch.arange(n) == n - 1)
    kept = mask & ~torch.isin(ids, torch.tensor(left_out))
    if not bool(kept.any(-1).all()) or not bool((ids == 0).any()) or not bool((ids == 1).any()):
        return
    found = LayerDual.from_layer(weights, x, ids, queries, mask).without(left_out)
    expected = weights.forward(x, kept)
    assert relative(found, expected if queries is None else expected[..., queries, :]) <= TOLERANCE


def test_leaving_out_a_demonstration_is_not_subtracting_its_contribution():
    weights = LayerWeights.random(torch.Generator().manual_seed(0))
    dual = LayerDual.from_layer(weights, torch.randn(6, 16), 3, -1)
    difference = dual.without(0) - (dual.predict() - dual.contributions()[..., 0, :])
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_dual_equals_pytorch_encoder_layer(activation, norm_first, bias):
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first, bias=bias
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    x = torch.randn(2, 7, 12)
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    expected = layer(x, src_mask=~mask)
    weights = LayerWeights.from_encoder_layer(layer)
    assert relative(weights.forward(x, mask), expected) <= TOLERANCE
    dual = LayerDual.from_layer(weights, x, 4, mask=mask)
    assert relative(dual.predict(), expected) <= TOLERANCE
    assert relative(dual.offset() + dual.initial() + dual.contributions().sum(-2), expected) <= TOLERANCE


def test_an_activation_that_is_unknown_is_refused():
    layer = nn.TransformerEncoderLayer(4, 1, 4, activation=torch.tanh)
    with pytest.raises(UserError, match="neither relu nor gelu"):
        LayerWeights.from_encoder_layer(layer)


@pytest.mark.parametrize("bias", [True, False])
def test_heads_equal_pytorch_multihead_attention(bias):
    attention = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    query, context = torch.randn(2, 4, 12), torch.randn(2, 9, 12)
    expected, _ = attention(query, context, context)
    projections = attention.in_proj_weight.chunk(3)
    biases = (0, 0, 0) if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    q, k, v = (
        (tokens @ weight.mT + offset).unflatten(-1, (3, 4)).movedim(-2, -3)
        for tokens, weight, offset in zip((query, context, context), projections, biases, strict=True)
    )
    W_O = attention.out_proj.weight.mT.unflatten(0, (3, 4))
    heads = HeadsDual.from_attention(q, k, v, W_O, 5, b_O=attention.out_proj.bias)
    assert relative(heads.predict(), expected) <= TOLERANCE
    offset = 0 if heads.b_O is None else heads.b_O
    assert relative(heads.initial() + heads.contributions().sum(-2) + offset, expected) <= TOLERANCE
    assert relative(heads.absorbed.predict().sum(-3) + offset, expected) <= TOLERANCE
    absorbed = heads.absorbed.contributions()
    assert relative(heads.contributions(by_head=True), absorbed.movedim(-4, -3)) <= TOLERANCE
    # Heads are independent: the step of one does not know the values of another.
    other = v.clone()
    other[:, 1] = 0
    changed = HeadsDual.from_attention(q, k, other, W_O, 5, b_O=attention.out_proj.bias)
    same = heads.contributions(by_head=True) == changed.contributions(by_head=True)
    assert same[:, :, [0, 2]].all()
    assert not same[:, :, 1].any()


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_gate_times_input_is_the_activation_even_in_the_tails(name):
    # Not a quotient: it must hold at 0, at tiny arguments, and far out on the left, where values are small.
    u = torch.cat([torch.linspace(-9, 30, 501), torch.tensor([0.0, 1e-300, -1e-300, 1e-160])])
    activation = ACTIVATIONS[name]
    assert activation.gate(u).isfinite().all()
    close = (activation.gate(u) * u - activation.value(u)).abs()
    # PyTorch's own GELU adds 1 and erf, whose rounding is absolute.
    assert (close <= 1e-15 * u.abs() + 1e-300).all()
    gates = activation.gate(torch.linspace(1e-9, 30, 99))
    assert ((gates > 0) & (gates <= 1)).all()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    d=st.integers(1, 9),
    centred=st.booleans(),
    gain=st.booleans(),
    bias=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_held_norm_equals_the_norm_and_is_affine(seed, d, centred, gain, bias, scale):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d, generator=generator) if gain else None
    offset = torch.randn(d, generator=generator) if bias else None
    norm = Norm.layer(weight, offset, 1e-5) if centred else Norm.rms(weight, offset, 1e-5)
    x = torch.randn(2, 3, d, generator=generator) * scale
    reference = nn.LayerNorm(d, 1e-5) if centred else nn.RMSNorm(d, 1e-5)
    with torch.no_grad():
        reference.weight.copy_(torch.ones(d) if weight is None else weight)
        expected = reference(x) + (0 if offset is None else offset)
        held = norm.held(x)
        # A LayerNorm of one feature is 0 but for its bias: nothing to be relative to.
        size = expected.abs().max() + 1
        assert (norm(x) - expected).abs().max() <= TOLERANCE * size
        assert (held(x) - expected).abs().max() <= TOLERANCE * size
        a, b = torch.randn(2, 2, 3, d, generator=generator)
        assert (held(a + 2 * b) - held(a) - 2 * (held(b) - held.offset)).abs().max() <= 1e-10 * (
            held(a).abs() + held(b).abs()
        ).max()
        matrix = held.matrix(d)
        assert matrix.shape == (2, 3, d, d)
        assert ((x.unsqueeze(-2) @ matrix).squeeze(-2) + held.offset - expected).abs().max() <= 1e-9 * size


def test_rms_gain_may_be_stored_less_one():
    weight, x = torch.randn(5), torch.randn(3, 5)
    assert torch.equal(Norm.rms(weight, plus_one=True)(x), Norm.rms(1 + weight)(x))


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_held_feed_forward_equals_the_block_and_its_matrices(name, gated, bias):
    weights = LayerWeights.random(
        torch.Generator().manual_seed(3), d_model=6, d_ff=11, activation=name, gated=gated, bias=bias
    )
    block, z = weights.feed_forward, torch.randn(2, 4, 6)
    held = block.held(z)
    assert relative(held(z), block(z)) <= TOLERANCE
    W_F = torch.einsum("df,ntf,fe->ntde", block.W_1, block.gate(z), block.W_2)
    assert relative(held.matrix(6), W_F) <= TOLERANCE
    # Held gates: W_F is not the Jacobian (it is for ReLU), and the map holds at z alone.
    if name != "relu" or gated:
        assert relative(held(2 * z), block(2 * z)) > 1e-3


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), d_model=st.integers(1, 8), d_ff=st.integers(1, 16), gated=st.booleans())
def test_rank_of_the_held_feed_forward_is_bounded_by_its_active_units(seed, d_model, d_ff, gated):
    generator = torch.Generator().manual_seed(seed)
    weights = LayerWeights.random(generator, d_model=d_model, n_heads=1, d_ff=d_ff, activation="relu", gated=gated)
    dual = LayerDual.from_layer(weights, torch.randn(5, d_model, generator=generator), 3)
    block, z = weights.feed_forward, weights.norm_2(dual.x_query + dual.heads.predict())
    W_F = block.held(z).matrix(d_model)
    output = (z.unsqueeze(-2) @ W_F).squeeze(-2) + block.held(z).offset
    assert relative(output, block(z)) <= TOLERANCE
    units = z @ block.W_gate + block.b_gate if gated else z @ block.W_1 + block.b_1
    active = (units > 0).sum(-1)
    assert torch.equal(dual.rank_bound(), active.clamp_max(d_model))
    # Beyond the bound the singular values are rounding; in it, for weights in general position, they are not.
    values = torch.linalg.svdvals(W_F)
    for t, bound in enumerate(dual.rank_bound().tolist()):
        assert (values[t, bound:] <= 1e-13 * values[t, :1]).all()
        assert (values[t, :bound] > 1e-13 * values[t, :1]).all()


def test_gradients_flow_through_the_parts():
    weights = LayerWeights.random(torch.Generator().manual_seed(1), d_model=4, n_heads=2, d_ff=5)
    x = torch.randn(3, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(weights.forward(x)[-1].square().sum(), x)
    dual = LayerDual.from_layer(weights, x, 2, -1)
    total = dual.offset() + dual.initial() + dual.contributions().sum(-2)
    (found,) = torch.autograd.grad(total.square().sum(), x)
    assert relative(found, expected) <= TOLERANCE


def test_demonstrations_may_differ_between_batches():
    weights = LayerWeights.random(torch.Generator().manual_seed(1), d_model=6, n_heads=3, n_kv_heads=1)
    x = torch.randn(2, 5, 6)
    ids = torch.tensor([[0, 0, 1, 1, -1], [1, -1, 0, 1, -1]])
    both = LayerDual.from_layer(weights, x, ids, [-1, 0])
    for b in range(2):
        alone = LayerDual.from_layer(weights, x[b], ids[b], [-1, 0])
        assert relative(both.contributions()[b], alone.contributions()) <= TOLERANCE
        assert relative(both.without(1)[b], alone.without(1)) <= TOLERANCE
    assert relative(both.duals().predict().sum(-4).squeeze(-2) + both.offset(), both.predict()) <= TOLERANCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 3)}, "the layer needs"),
        ({"x": torch.full((5, 4), torch.nan)}, "non-finite"),
        ({"queries": 5}, "outside the 5 tokens"),
        ({"queries": [-6]}, "outside the 5 tokens"),
        ({"queries": []}, "no query position"),
        ({"mask": torch.ones(4, 5, dtype=torch.bool)}, "must be \\(5, 5\\)"),
        ({"mask": torch.zeros(5, 5, dtype=torch.bool)}, "no key to attend to"),
        ({"demonstrations": 6}, "out of range"),
    ],
)
def test_bad_input_is_named(change, message):
    weights = LayerWeights.random(torch.Generator().manual_seed(0), d_model=4)
    arguments = {"x": torch.randn(5, 4), "demonstrations": 2} | change
    with pytest.raises(UserError, match=message):
        LayerDual.from_layer(weights, **arguments)


def test_weights_that_do_not_fit_are_named():
    generator = torch.Generator().manual_seed(0)
    weights = LayerWeights.random(generator, d_model=4, activation=None)
    with pytest.raises(UserError, match="no feed-forward block"):
        LayerDual.from_layer(weights, torch.randn(3, 4), 1).rank_bound()
    with pytest.raises(UserError, match="W_O has shape"):
        LayerWeights(weights.W_Q, weights.W_K, weights.W_V, weights.W_O[:, :1])
    with pytest.raises(UserError, match="must be a multiple"):
        LayerWeights.random(generator, n_heads=3, n_kv_heads=2)
    with pytest.raises(UserError, match="'pre' or 'post'"):
        LayerWeights.random(generator, placement="sandwich")
    with pytest.raises(UserError, match="W_2 has shape"):
        FeedForward(torch.zeros(3, 4), torch.zeros(5, 3), "relu")
    with pytest.raises(UserError, match="Did you mean 'gelu'"):
        FeedForward(torch.zeros(3, 4), torch.zeros(4, 3), "gelo")
    with pytest.raises(UserError, match="without W_gate"):
        FeedForward(torch.zeros(3, 4), torch.zeros(4, 3), "relu", b_gate=torch.zeros(4))
    with pytest.raises(UserError, match="must not be negative"):
        Norm.layer(eps=-1.0)
    q, k, v = torch.randn(3, 2, 5, 4)
    with pytest.raises(UserError, match="W_O has shape"):
        HeadsDual.from_attention(q, k, v, torch.zeros(3, 4, 6), 2)
    with pytest.raises(UserError, match="b_O has shape"):
        HeadsDual.from_attention(q, k, v, torch.zeros(2, 4, 6), 2, b_O=torch.zeros(5))
