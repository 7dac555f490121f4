"""Any shapes, types, layouts and sizes of numbers: the law holds, or one `UserError` says why not.

No other exception, and out of finite numbers whose products are in their dtype's range no NaN comes.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.tensors import DTYPES, FLOATS, examples, is_moderate, multiply_in_range, refused, tensors
from torch import Tensor

from iclens.attention import ATTENTIONS, build
from iclens.bounds import generalization_bounds, rademacher_complexity
from iclens.dual import DualModel
from iclens.estimators.estimator import ESTIMATORS, build_estimator
from iclens.features import FEATURE_MAPS
from iclens.kernels import KERNELS
from iclens.matching.distances import (
    alignment,
    implied_weight_difference,
    squared_prediction_difference,
)

sizes = st.integers(0, 4)
some = st.integers(1, 4)
leading = st.lists(st.integers(0, 2), max_size=2).map(tuple)


def tolerance(*given: Tensor) -> float:
    """Of sums of products of these numbers."""
    largest = max((float(one.detach().abs().max()) for one in given if one.numel()), default=0.0)
    return 1e3 * max(torch.finfo(one.dtype).eps for one in given) * max(1.0, largest)


@st.composite
def heads(draw, dtypes=FLOATS, fit=False):
    """q, k, v with leading axes; only mostly of shapes that fit."""
    batch = draw(leading)
    n_query, n_key, d, d_v = (draw(some if fit else sizes) for _ in range(4))
    wrong = not fit and draw(st.integers(0, 5)) == 0
    kinds = {} if not fit else {"kinds": ["normal", "zeros", "equal", "tiny", "subnormal", "large", "mixed"]}
    dtype = draw(st.sampled_from(list(dtypes)))
    chosen = [dtype] if draw(st.integers(0, 5)) else list(dtypes)
    q = draw(tensors((*batch, n_query, d), chosen, **kinds))
    k = draw(tensors((*batch, n_key, d + wrong), chosen, **kinds))
    v = draw(tensors((*batch, n_key, d_v), chosen, **kinds))
    return q, k, v


@st.composite
def masks(draw, n_query, n_key):
    if draw(st.booleans()):
        return None
    shape = draw(st.sampled_from([(n_query, n_key), (1, n_key), (n_query,), (n_key, n_query), (2, n_query, n_key)]))
    return draw(tensors(shape, [torch.bool, torch.bool, torch.bool, torch.float64]))


@examples(60)
@given(data=st.data(), kernel=st.sampled_from(sorted(KERNELS)))
def test_dual_models(data, kernel):
    q, k, v = data.draw(heads(DTYPES))
    demonstrations = data.draw(
        st.integers(-2, 6)
        | st.sampled_from([torch.tensor(True), torch.zeros(3, dtype=torch.long), torch.ones(2, dtype=torch.bool)])
    )
    mask = data.draw(masks(q.shape[-2], k.shape[-2]))
    scale = data.draw(st.sampled_from([None, None, 1.0, 1e-30, 0.0, -1.0, float("nan"), float("inf")]))
    dual = refused(lambda: DualModel.from_attention(q, k, v, demonstrations, mask, scale, kernel=kernel))
    if dual is None:
        return
    with torch.no_grad():
        found = [
            refused(dual.predict),
            refused(dual.initial),
            refused(dual.contributions),
            refused(dual.weights),
            refused(lambda: dual.without(0)),
            refused(lambda: dual.weight_norm(log=True)),
            *(refused(dual.alignment) or ()),
        ]
        log_loss = refused(lambda: dual.loss(log=True))
        if not is_moderate(q, k, v) or (scale or 1.0) > 1 or q.dtype not in FLOATS:
            return
        if not dual.kernel.normalizes and not multiply_in_range(q, k, v):
            return
        assert not any(bool(one.isnan().any()) for one in found if one is not None)
        if log_loss is not None:
            assert not any(bool(one.log_abs.isnan().any()) for one in log_loss)
        prediction, initial, contributions = found[:3]
        if prediction.isfinite().all():
            error = (initial + contributions.sum(-2) - prediction).abs()
            bound = tolerance(v) if dual.kernel.normalizes else tolerance(q) * tolerance(k) * tolerance(v) * 1e18
            assert not error.numel() or float(error.max()) <= bound


@examples(40)
@given(data=st.data(), name=st.sampled_from(sorted(KERNELS)))
def test_kernels(data, name):
    scale, cap = (data.draw(st.sampled_from([0.5, 1.0, 1.0, 0.0, -1.0, float("nan"), float("inf")])) for _ in range(2))
    options = {"scale": scale, "cap": cap} if name == "softcapped" else {"scale": scale}
    kernel = refused(lambda: KERNELS[name](**options))
    if not all(0 < value < float("inf") for value in options.values()):
        assert kernel is None
        return
    x, y, _ = data.draw(heads(fit=True))
    if x.dtype != y.dtype:
        return
    # A kernel is given what a dual model has checked.
    one, other = kernel.log(x, y), kernel.log(y, x)
    if not is_moderate(x, y):
        return
    assert not one.log_abs.isnan().any()
    torch.testing.assert_close(one.log_abs, other.log_abs.mT, rtol=1e-4, atol=tolerance(x, y, x * x, y * y))


@examples(25)
@given(data=st.data(), name=st.sampled_from(sorted(FEATURE_MAPS)), kernel=st.sampled_from(sorted(KERNELS)))
def test_feature_maps(data, name, kernel):
    q, k, v = data.draw(heads(fit=True))
    dual = refused(lambda: DualModel.from_attention(q, k, v, 1, kernel=kernel))
    if dual is None:
        return
    with torch.no_grad():
        explicit = refused(lambda: dual.explicit(name))
        if explicit is None:
            return
        prediction = refused(explicit.predict)
    if prediction is None or not is_moderate(q, k, v):
        return
    if not dual.kernel.normalizes and not multiply_in_range(q, k, v):
        return
    assert not prediction.isnan().any()


@examples(60)
@given(data=st.data(), name=st.sampled_from(sorted(ATTENTIONS)))
def test_attention_variants(data, name):
    batch, n_heads, n_kv = data.draw(leading), data.draw(some), data.draw(some)
    n_query, n_key, d, d_v = (data.draw(sizes) for _ in range(4))
    dtype = data.draw(st.sampled_from(DTYPES[:5]))
    torch.manual_seed(0)
    variant = refused(lambda: build(name, n_heads=n_heads, d=d, d_v=d_v, n_kv_heads=n_kv))
    if variant is None:
        return
    if dtype.is_floating_point:
        variant = variant.to(dtype).eval()
    q = data.draw(tensors((*batch, n_heads, n_query, d), [dtype]))
    k = data.draw(tensors((*batch, n_kv, n_key, d), [dtype]))
    v = data.draw(tensors((*batch, n_kv, n_key, d_v), [dtype]))
    mask = data.draw(masks(n_query, n_key))
    is_causal = data.draw(st.booleans())
    with torch.no_grad():
        out = refused(lambda: variant(q, k, v, mask, is_causal=is_causal))
    if out is None:
        return
    assert out.shape == (*batch, n_heads, n_query, d_v)
    if dtype in FLOATS and is_moderate(q, k, v) and not name.startswith("linear"):
        assert not out.isnan().any()


@examples(60)
@given(data=st.data(), name=st.sampled_from(sorted(ESTIMATORS)))
def test_estimators(data, name):
    batch, n_points, d, d_y = data.draw(leading), data.draw(st.integers(0, 5)), data.draw(sizes), data.draw(sizes)
    estimator = refused(lambda: build_estimator(name))
    if estimator is None:
        return
    dtypes = [data.draw(st.sampled_from([*FLOATS, *FLOATS, torch.float16, torch.int64]))]
    inputs = data.draw(tensors((*batch, n_points, d), dtypes)).detach()
    n_labels = n_points + (data.draw(st.integers(0, 5)) == 0)
    labels = data.draw(tensors((*batch, n_labels, d_y), dtypes)).detach()
    found = refused(lambda: estimator.prefixes(inputs, labels))
    if found is None:
        return
    assert found.shape == labels.shape
    if not is_moderate(inputs, labels):
        return
    assert not found.isnan().any()
    # The last label is nobody's.
    if n_points:
        other = labels.clone()
        other[..., -1, :] = 7.0
        assert torch.equal(estimator.prefixes(inputs, other), found)


@examples(30)
@given(data=st.data(), delta=st.sampled_from([0.05, 0.5, 0.0, 1.0, -1.0, 2.0, float("nan")]))
def test_bounds(data, delta):
    q, k, v = data.draw(heads(fit=True))
    n = data.draw(some)
    dual = refused(lambda: DualModel.from_attention(q, k, v, min(n, k.shape[-2])))
    if dual is None:
        return
    with torch.no_grad():
        bounds = refused(lambda: generalization_bounds(dual, delta=delta))
        complexity = refused(lambda: rademacher_complexity(dual))
    if bounds is None:
        assert not (0 < delta < 1) or not is_moderate(q, k, v)
        return
    assert 0 < delta < 1
    if is_moderate(q, k, v):
        for bound in (bounds.printed, bounds.frobenius, bounds.spectral):
            assert not bound.gap.log_abs.isnan().any()
        assert complexity is not None


@examples(30)
@given(data=st.data())
def test_distances_of_predictors(data):
    batch, d, d_y = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    one, other = data.draw(tensors((batch, d, d_y))), data.draw(tensors((batch, d, d_y)))
    for distance in (squared_prediction_difference, implied_weight_difference, alignment):
        try:
            found = refused(lambda distance=distance: distance(one, other))
        except RuntimeError:
            assert one.dtype != other.dtype
            continue
        if found is None or not is_moderate(one, other):
            continue
        if distance is alignment:
            # Documented: a cosine with nothing has no value.
            nothing = (one.flatten(1).norm(dim=1) == 0) | (other.flatten(1).norm(dim=1) == 0)
            assert torch.equal(found.isnan(), nothing)
        else:
            assert bool((found >= 0).all())
