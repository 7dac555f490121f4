"""StackDual: equality with the plain stack, the path decomposition by three routes, and what the mask guarantees."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iclens import UserError
from iclens.dual.layer import LayerDual
from iclens.dual.layer_weights import LayerWeights
from iclens.dual.norms import Norm
from iclens.dual.stack import StackDual, StackWeights

TOLERANCE = 1e-12


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def causal(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


@st.composite
def stacks(draw):
    """Up to 4 layers that need not be alike, a final norm, embeddings, group ids and a mask."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    d_model = draw(st.integers(2, 9))
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        activation = draw(st.sampled_from([None, "relu", "gelu", "silu"]))
        n_heads, n_kv_heads = draw(st.sampled_from([(1, 1), (3, 3), (3, 1), (4, 2)]))
        d_head = draw(st.integers(1, 4))
        layers.append(
            LayerWeights.random(
                generator,
                d_model=d_model,
                n_heads=n_heads,
                n_kv_heads=n_kv_heads,
                d_head=d_head,
                rotary=d_head % 2 == 0 and draw(st.booleans()),
                d_ff=draw(st.integers(1, 8)),
                activation=activation,
                gated=activation is not None and draw(st.booleans()),
                norm=draw(st.sampled_from(["layer", "rms", None])),
                placement=draw(st.sampled_from(["pre", "post"])),
                bias=draw(st.booleans()),
            )
        )
    norm = draw(st.sampled_from([None, Norm.rms(torch.rand(d_model, generator=generator) + 0.5)]))
    n = draw(st.integers(3, 7))
    x = torch.randn(*draw(st.sampled_from([(), (2,), (2, 1)])), n, d_model, generator=generator)
    ids = torch.tensor([0, 1, *draw(st.lists(st.integers(-1, 1), min_size=n - 2, max_size=n - 2))])
    mask = draw(st.sampled_from([None, causal(n)]))
    # The stack is put together by the test: beartype draws random numbers to check a tuple, which no strategy may do.
    return layers, norm, x, ids, mask


@settings(deadline=None, max_examples=30)
@given(stacks())
def test_sequence_of_duals_equals_the_plain_stack(case):
    layers, norm, x, ids, mask = case
    weights = StackWeights(tuple(layers), norm)
    dual = StackDual.from_stack(weights, x, ids, mask)
    expected = weights.forward(x, mask)
    # Deep stacks without norms grow the rounding of their inputs.
    assert relative(dual.predict(), expected) <= TOLERANCE
    state = x
    for layer, before, step, inner in zip(weights.layers, dual.states(), dual.steps(), dual.layers, strict=False):
        assert relative(before, state) <= TOLERANCE
        state = layer.forward(state, mask)
        assert relative(step.after, state) <= TOLERANCE
        size = max(1, (step.before.abs().max() / state.abs().max()).item())
        assert relative(step.before + inner.contributions().sum(-2), state) <= TOLERANCE * size


@settings(deadline=None, max_examples=30)
@given(stacks(), st.lists(st.integers(-3, 2), min_size=1, max_size=2, unique=True) | st.none())
def test_paths_sum_to_the_output(case, queries):
    layers, norm, x, ids, mask = case
    weights = StackWeights(tuple(layers), norm)
    dual = StackDual.from_stack(weights, x, ids, mask)
    expected = dual.predict() if queries is None else dual.predict()[..., queries, :]
    paths = dual.paths(queries)
    parts, offset = dual.token_paths(queries)
    size = max(1, ((parts.abs().sum(-2) + offset.abs()).max() / expected.abs().max()).item())
    assert relative(paths.contributions.sum(-2) + paths.initial + paths.offset, expected) <= TOLERANCE * size
    assert relative(parts.sum(-2) + offset, expected) <= TOLERANCE * size
    assert paths.contributions.shape == (*expected.shape[:-1], 2, x.shape[-1])
    for g in range(2):
        grouped = parts[..., ids == g, :].sum(-2)
        assert (paths.contributions[..., g, :] - grouped).abs().max() <= TOLERANCE * size * expected.abs().max()


def held_pytorch_encoder(layers, x, mask):
    """PyTorch encoder layers written out once more, with scales, gates and attention weights cut from the graph."""

    def norm(module, z):
        centre = z - z.mean(-1, keepdim=True)
        return (
            centre / (centre.square().mean(-1, keepdim=True) + module.eps).sqrt().detach() * module.weight + module.bias
        )

    def attend(layer, z):
        heads = layer.self_attn.num_heads
        q, k, v = (
            part.unflatten(-1, (heads, -1)).movedim(-2, -3)
            for part in nn.functional.linear(z, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(
                3, -1
            )
        )
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
        return layer.self_attn.out_proj((scores.softmax(-1).detach() @ v).movedim(-3, -2).flatten(-2))

    def block(layer, z):
        hidden = layer.linear1(z)
        gate = (nn.functional.gelu(hidden) / hidden).detach()
        return layer.linear2(hidden * gate)

    for layer in layers:
        if layer.norm_first:
            x = x + attend(layer, norm(layer.norm1, x))
            x = x + block(layer, norm(layer.norm2, x))
        else:
            x = norm(layer.norm1, x + attend(layer, x))
            x = norm(layer.norm2, x + block(layer, x))
    return x


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_paths_equal_embedding_times_gradient_of_the_held_network(norm_first, masked):
    layers = [
        nn.TransformerEncoderLayer(6, 2, 9, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first)
        for _ in range(3)
    ]
    n = 5
    mask = causal(n) if masked else torch.ones(n, n, dtype=torch.bool)
    x = torch.randn(n, 6)
    dual = StackDual.from_stack(StackWeights(tuple(map(LayerWeights.from_encoder_layer, layers))), x, 3, mask)
    plain = x
    for layer in layers:
        plain = layer(plain.unsqueeze(0), src_mask=~mask).squeeze(0)
    assert relative(dual.predict(), plain) <= TOLERANCE
    assert relative(held_pytorch_encoder(layers, x, mask), plain) <= TOLERANCE
    jacobian = torch.autograd.functional.jacobian(lambda z: held_pytorch_encoder(layers, z, mask)[-1], x)
    expected = torch.einsum("ejd,jd->je", jacobian, x)
    parts, offset = dual.token_paths(-1)
    assert relative(parts.squeeze(0), expected) <= TOLERANCE
    assert relative(dual.paths(-1).contributions.squeeze(0), expected[:3]) <= TOLERANCE
    assert relative(offset.squeeze(0), plain[-1] - expected.sum(0)) <= 1e-11


def test_paths_of_attention_alone_equal_the_sum_over_every_path():
    generator = torch.Generator().manual_seed(5)
    weights = StackWeights(
        tuple(LayerWeights.random(generator, 5, 2, activation=None, norm=None, bias=False) for _ in range(3))
    )
    n, query = 4, 3
    x = torch.randn(n, 5, generator=generator)
    dual = StackDual.from_stack(weights, x, 2, causal(n))
    attention = [layer.heads.dual.coefficients for layer in dual.layers]
    expected = torch.zeros(n, 5)
    # A step of a path stays where it is (None) or goes to a token through a head.
    choices = [None, *itertools.product(range(2), range(n))]
    for path in itertools.product(choices, repeat=3):
        place, factor, maps = query, torch.ones(()), []
        for level in (2, 1, 0):
            if path[level] is not None:
                head, source = path[level]
                factor = factor * attention[level][head, place, source]
                maps.append(weights.layers[level].W_V[head] @ weights.layers[level].W_O[head])
                place = source
        vector = x[place]
        for matrix in reversed(maps):
            vector = vector @ matrix
        expected[place] += factor * vector
    parts, offset = dual.token_paths(query)
    assert relative(parts[0], expected) <= TOLERANCE
    assert (offset == 0).all()


def test_under_a_causal_mask_demonstrations_do_not_depend_on_the_query():
    generator = torch.Generator().manual_seed(2)
    weights = StackWeights(tuple(LayerWeights.random(generator, 6, 2, d_ff=7) for _ in range(3)))
    x = torch.randn(6, 6, generator=generator)
    other = x.clone()
    other[-1] = torch.randn(6, generator=generator)
    # The demonstrations see each other and not the query, which sees all.
    unseen = torch.ones(6, 6, dtype=torch.bool)
    unseen[:-1, -1] = False
    for mask in (causal(6), unseen):
        one, two = (StackDual.from_stack(weights, tokens, 5, mask) for tokens in (x, other))
        for a, b in zip(one.states(), two.states(), strict=True):
            assert torch.allclose(a[:-1], b[:-1], rtol=1e-13, atol=1e-14)
            assert not torch.allclose(a[-1], b[-1], rtol=1e-2)
    one, two = (StackDual.from_stack(weights, tokens, 5) for tokens in (x, other))
    assert not torch.allclose(one.states()[1][:-1], two.states()[1][:-1], rtol=1e-4)


def test_every_token_has_its_own_normaliser_and_held_map_under_full_attention():
    weights = StackWeights((LayerWeights.random(torch.Generator().manual_seed(0), 6, 2),) * 2)
    dual = StackDual.from_stack(weights, torch.randn(5, 6), 3)
    normalizer = dual.layers[1].heads.dual.log_normalizer
    assert normalizer.shape == (2, 5)
    assert normalizer.unique().numel() == 10
    maps = dual.layers[1].after.matrix(6)
    assert ((maps[:, None] - maps[None, :]).abs().amax((-1, -2)) > 1e-6).sum() == 20


@pytest.mark.parametrize("left_out", [1, [0, 2]])
def test_without_reruns_the_query_with_the_demonstration_masked_from_it(left_out):
    generator = torch.Generator().manual_seed(4)
    norm = Norm.layer(torch.rand(6, generator=generator))
    weights = StackWeights(tuple(LayerWeights.random(generator, 6, 2, d_ff=7) for _ in range(3)), norm)
    ids = torch.tensor([-1, 0, 0, 1, 1, 2, -1, -1])
    x = torch.randn(2, 8, 6, generator=generator)
    dual = StackDual.from_stack(weights, x, ids, causal(8))
    found = dual.without(left_out, [6, -1])
    # The plain network, with the demonstration hidden from the two query tokens alone.
    mask = causal(8)
    mask[6:] &= ~torch.isin(ids, torch.tensor(left_out))
    assert relative(found, weights.forward(x, mask)[:, 6:]) <= TOLERANCE
    assert relative(dual.without([], [6, 7]), dual.predict()[:, 6:]) <= TOLERANCE
    # The knock-out of a demonstration that nothing else sees is its deletion.
    if left_out == 1:
        hidden = causal(8) & ~((ids == 1) & (ids != ids[:, None]))
        shown = StackDual.from_stack(weights, x, ids, hidden | (torch.arange(8) >= 6)[:, None] & causal(8))
        rest = ids != 1
        deleted = weights.forward(x[:, rest], causal(8)[rest][:, rest])
        assert relative(shown.without(1, [6, 7]), deleted[:, -2:]) <= TOLERANCE


def test_a_stack_is_a_sequence_of_layer_duals():
    weights = StackWeights((LayerWeights.random(torch.Generator().manual_seed(0), 4, 2),) * 2)
    x = torch.randn(2, 5, 4)
    ids = torch.tensor([[0, 1, -1, -1, -1], [1, 0, 0, -1, -1]])
    dual = StackDual.from_stack(weights, x, ids)
    second = LayerDual.from_layer(weights.layers[1], weights.layers[0].forward(x), ids)
    assert relative(dual.layers[1].contributions(), second.contributions()) <= TOLERANCE
    alone = StackDual.from_stack(weights, x[1], ids[1])
    assert relative(dual.paths(-1).contributions[1], alone.paths(-1).contributions) <= TOLERANCE
    assert relative(dual.without(0, -1)[1], alone.without(0, -1)) <= TOLERANCE


def test_bad_input_is_named():
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(UserError, match="at least one layer"):
        StackWeights(())
    with pytest.raises(UserError, match="share one d_model"):
        StackWeights((LayerWeights.random(generator, 4), LayerWeights.random(generator, 6)))
    weights = StackWeights((LayerWeights.random(generator, 4),))
    with pytest.raises(UserError, match="a stack needs"):
        StackDual.from_stack(weights, torch.zeros(4), 1)
    dual = StackDual.from_stack(weights, torch.randn(3, 4), 2)
    with pytest.raises(UserError, match="no demonstration 2"):
        dual.without(2, -1)
    with pytest.raises(UserError, match="outside the 3 tokens"):
        dual.paths(3)


@pytest.mark.parametrize("masked", [True, False])
def test_training_weights_say_a_demonstration_more_or_less_often_in_every_layer(masked):
    generator = torch.Generator().manual_seed(5)
    weights = StackWeights(tuple(LayerWeights.random(generator, 6, 2, d_ff=7, norm="rms") for _ in range(3)))
    ids = torch.tensor([-1, 0, 0, 1, 1, 2, -1, -1])
    x, mask = torch.randn(2, 8, 6, generator=generator), causal(8) if masked else torch.ones(8, 8, dtype=torch.bool)
    inside = ids == ids[:, None]
    # Not at all: hidden from all tokens outside of it.
    none = StackDual.from_stack(weights, x, ids, mask, training_weights=[1.0, 0.0, 1.0])
    assert relative(none.predict(), weights.forward(x, mask & (inside | (ids != 1)))) <= TOLERANCE
    # Twice: a second copy that sees what the first one sees, and which the first one does not see.
    twice = StackDual.from_stack(weights, x, ids, mask, training_weights=torch.tensor([1.0, 2.0, 1.0]))
    index = torch.tensor([0, 1, 2, 3, 4, 3, 4, 5, 6, 7])
    copy = torch.tensor([0, 0, 0, 1, 1, 2, 2, 0, 0, 0])
    shown = mask[index][:, index] & ((copy[:, None] == copy) | (copy[:, None] == 0) | (copy == 0))
    repeated = weights.forward(x[:, index], shown)
    assert relative(twice.predict(), repeated[:, copy < 2]) <= TOLERANCE
    # Of the query's tokens alone: one row of weights for each token.
    rows = torch.ones(8, 3)
    rows[6:, 1] = 0
    asked = StackDual.from_stack(weights, x, ids, mask, training_weights=rows)
    plain = StackDual.from_stack(weights, x, ids, mask)
    if masked:
        assert relative(asked.predict()[:, 6:], plain.without(1, [6, 7])) <= TOLERANCE
        left_out = StackDual.from_stack(weights, x, ids, mask, training_weights=[0.5, 1.0, 3.0])
        rows[:] = torch.tensor([0.5, 1.0, 3.0])
        rows[6:, 1] = 0
        rows[ids >= 0, ids[ids >= 0]] = 1
        both = StackDual.from_stack(weights, x, ids, mask, training_weights=rows)
        assert relative(left_out.without(1, [6, 7]), both.predict()[:, 6:]) <= TOLERANCE
    # The layers' duals and paths are those of the weighted model.
    last = twice.layers[-1]
    assert relative(last.offset() + last.duals().predict().sum(-4).squeeze(-2), twice.states()[-1]) <= TOLERANCE
    paths = twice.paths()
    assert relative(paths.contributions.sum(-2) + paths.initial + paths.offset, twice.predict()) <= 10 * TOLERANCE
    with pytest.raises(UserError, match="the training weight of demonstration 2 is -1"):
        StackDual.from_stack(weights, x, ids, mask, training_weights=[1, 1, -1])
