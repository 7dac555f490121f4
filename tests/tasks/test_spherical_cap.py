"""Weights of a cap: their angles have the sphere's law, 180 degrees are the isotropic task, and bands fit together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest

from iclens.errors import UserError
from iclens.estimators import build_estimator
from iclens.tasks import build_task
from iclens.tasks.spherical_cap import degrees_from_pole


def weights(n=20_000, seed=0, **options):
    task = build_task("spherical-cap", **options)
    torch.set_default_dtype(torch.float64)
    return task.sample_function(torch.Generator().manual_seed(seed), (n,))["weight"].squeeze(-1)


def share(d, low, high):
    return quad(lambda t: math.sin(t) ** (d - 2), math.radians(low), math.radians(high))[0]


BANDS = [(2, 0.0, 60.0), (3, 0.0, 10.0), (4, 30.0, 75.0), (8, 0.0, 45.0), (8, 100.0, 180.0), (30, 0.0, 20.0),
         (30, 160.0, 180.0)]  # fmt: skip


@pytest.mark.parametrize(("d", "inner", "angle"), BANDS)
def test_angles_have_the_law_of_the_sphere(d, inner, angle):
    found = degrees_from_pole(weights(d=d, inner=inner, angle=angle))
    assert inner <= found.min() + 1e-9
    assert found.max() <= angle + 1e-9

    def below(x):
        return np.array([share(d, inner, one) for one in np.atleast_1d(x)]) / share(d, inner, angle)

    assert kstest(found[:2000].numpy(), below).pvalue > 0.001


@pytest.mark.parametrize(("d", "inner", "angle"), BANDS)
def test_moments_are_those_of_the_law(d, inner, angle):
    task = build_task("spherical-cap", d=d, inner=inner, angle=angle, weight_norm=3.0)
    for power, found in enumerate(task.moments(), 1):
        total = quad(
            lambda t, power=power: math.cos(t) ** power * math.sin(t) ** (d - 2),
            math.radians(inner),
            math.radians(angle),
        )[0]
        assert found == pytest.approx(total / share(d, inner, angle), abs=1e-8)
    drawn = weights(d=d, inner=inner, angle=angle, weight_norm=3.0)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.full((20_000,), 3.0))
    expected = task.second_moments().diag()
    torch.testing.assert_close(drawn.mT @ drawn / 20_000, expected, atol=0.15, rtol=0)


def test_180_degrees_are_the_whole_sphere():
    drawn = weights(d=5, angle=180.0)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(5), atol=0.015, rtol=0)
    torch.testing.assert_close(drawn.mT @ drawn / 20_000, torch.eye(5) / 5, atol=0.01, rtol=0)
    normal = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(1))
    isotropic = normal / normal.norm(dim=-1, keepdim=True)
    for axis in (0, 3):
        assert kstest(drawn[:, axis].numpy(), isotropic[:, axis].numpy()).pvalue > 0.001
    assert build_task("spherical-cap", d=5, angle=180.0).moments() == pytest.approx((0, 1 / 5))


def test_around_the_pole_all_directions_are_alike():
    rest = weights(d=4, angle=50.0)[:, 1:]
    directions = rest / rest.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(directions.mT @ directions / 20_000, torch.eye(3) / 3, atol=0.01, rtol=0)


def test_the_mirror_image_of_a_band_is_the_other_band():
    north, south = (
        build_task("spherical-cap", d=6, inner=low, angle=high) for low, high in ((20.0, 60.0), (120.0, 160.0))
    )
    mean, square = north.moments()
    assert south.moments() == pytest.approx((-mean, square))


def test_the_optimum_is_the_best_linear_estimator():
    """In expectation: no other multiple of its prior does better, nor does ridge regression of the whole sphere."""
    task = build_task("spherical-cap", d=4, angle=40.0, noise_std=0.5)
    prompt = task.sample(torch.Generator().manual_seed(0), 20_000, 3)
    optimal = task.optimal()

    def error(covariance):
        options = {**optimal.options, "prior_covariance": covariance}
        return float((build_estimator("ridge", options).predict(prompt) - prompt.target).square().mean())

    own = task.second_moments()
    best = error(own)
    assert best < error(torch.full((4,), 0.25, dtype=torch.float64)) - 0.05
    for other in (own * torch.tensor([1.5, 1, 1, 1]), own * torch.tensor([1, 2, 2, 2]), own / 2):
        assert best < error(other)


def test_without_noise_the_optimum_is_least_squares():
    assert build_task("spherical-cap", noise_std=0.0).optimal().estimator == "least-squares"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"d": 1}, "d=1 must be at least 2"),
        ({"angle": 0.0}, "0 ≤ inner < angle ≤ 180"),
        ({"angle": 181.0}, "0 ≤ inner < angle ≤ 180"),
        ({"inner": 90.0, "angle": 90.0}, "0 ≤ inner < angle ≤ 180"),
        ({"weight_norm": 0.0}, "weight_norm=0.0"),
        ({"d": 2000, "angle": 1.0}, "next to nothing of the sphere"),
    ],
)
def test_impossible_caps_are_answered(options, said):
    with pytest.raises(UserError, match=said):
        build_task("spherical-cap", **options)
