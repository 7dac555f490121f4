"""Identity features: linear attention."""

import pytest
import torch

from iclens import DualModel, UserError
from iclens.features import FEATURE_MAPS, Identity
from iclens.kernels import KERNELS, SoftmaxKernel


def test_the_dual_of_linear_attention_is_linear_regression_in_one_step():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, d, generator=generator) for n, d in ((3, 4), (9, 4), (9, 2)))
    dual = DualModel.from_attention(q, k, v, 6, scale=0.3, kernel="linear")
    training = dual.explicit("identity").train(order="sequential")
    assert torch.allclose(training.prediction, 0.3 * (q @ k.mT) @ v, rtol=1e-13, atol=1e-13)
    # One W for every query: Σ v_i k_iᵀ, with the scale shared between training inputs and test input.
    assert torch.allclose(training.W * 0.3**0.5, (0.3 * v.mT @ k).unsqueeze(1).expand(2, 3, 2, 4), rtol=1e-13)
    assert torch.allclose(training.W_0 * 0.3**0.5, (0.3 * v[:, 6:].mT @ k[:, 6:]).unsqueeze(1).expand(2, 3, 2, 4))


def test_it_agrees_with_mercer_features():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(n, d, generator=generator) for n, d in ((3, 4), (9, 4), (9, 2)))
    mask = torch.ones(3, 9, dtype=torch.bool).tril(3)
    dual = DualModel.from_attention(q, k, v, 6, mask=mask, kernel="linear")
    found, expected = (dual.explicit(name).train(steps=2) for name in ("identity", "mercer"))
    assert torch.allclose(found.prediction, expected.prediction, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.trajectory, expected.trajectory, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.W.flatten(-2).norm(dim=-1), dual.weight_norm(), rtol=1e-12)


def test_other_kernels_are_refused():
    with pytest.raises(UserError, match="belong to the linear kernel, not to SoftmaxKernel"):
        Identity().features(torch.randn(2, 3), SoftmaxKernel(1.0))


def test_every_registered_map_can_be_named_and_is_refused_or_trained_by_every_kernel():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (0.5 * torch.randn(n, 3, generator=generator) for n in (2, 6, 6))
    trained = set()
    for kernel in KERNELS:
        if kernel == "softcapped":
            continue
        dual = DualModel.from_attention(q, k, v, 4, kernel=kernel)
        for name in FEATURE_MAPS:
            try:
                explicit = dual.explicit(name)
            except UserError:
                continue
            assert torch.allclose(explicit.train(order="sequential").prediction, explicit.predict(), rtol=1e-12)
            trained.add((kernel, name))
    anything = {"mercer", "mercer-joint", "nystrom"}
    expected = {
        ("linear", "identity"),
        *((kernel, name) for kernel in ("softmax", "gaussian", "linear") for name in anything),
    }
    expected |= {(kernel, name) for kernel in ("softmax", "gaussian") for name in ("taylor", "positive-random")}
    assert trained >= expected
