"""Ren & Liu's recipes that need no training: they find what is there, and their verdicts turn when it is not."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.contrastive_view import (
    DUAL,
    SIMSIAM,
    TARGETS,
    ContrastiveSettings,
    ContrastiveView,
    _contrastive_kernel,
    _dual,
    _measures,
)
from iclens.papers.ren_liu_2024.dual_descent import FULL_BATCH, MERCER, DescentSettings, DualDescent
from iclens.papers.ren_liu_2024.generalization import BoundSettings, GeneralizationBound
from iclens.papers.ren_liu_2024.random_features import FeatureSettings, RandomFeatures
from iclens.papers.ren_liu_2024.softmax_layer import random_layer
from iclens.recipes.table import Table

SMALL = {
    DualDescent: DescentSettings(n_seeds=3, n_features=50, taylor_order=2, n_orders=3),
    RandomFeatures: FeatureSettings(n_seeds=6, n_features=(10, 100, 1000), logit_scales=(0.03, 1.0, 16.0)),
    GeneralizationBound: BoundSettings(
        n_demonstrations=(8, 15, 64, 200),
        d_o=(2, 11),
        key_sizes=(0.1, 1.0),
        n_resamples=40,
        n_pool=300,
        n_prompts=4,
        n_seeds=3,
    ),
    ContrastiveView: ContrastiveSettings(n_seeds=6, steps=60, n_points=3),
}


@cache
def table_of(kind):
    return kind().run(SMALL[kind])


def verdicts(kind, change=lambda row: row):
    rows = [change(dict(row)) for row in table_of(kind)]
    return [verdict.holds for verdict in kind().check(Table(rows), SMALL[kind])]


@pytest.mark.parametrize("kind", SMALL)
def test_the_picture_is_drawn_from_the_table_alone(kind):
    columns = table_of(kind).to_columns()
    figure = kind().plot(Table.from_json_columns(columns), SMALL[kind])
    assert all(ax.get_xlabel() or ax.images or ax.get_label() == "<colorbar>" for ax in figure.axes)


def test_softmax_layer_is_softmax_attention():
    layer = random_layer(torch.Generator().manual_seed(1), 6, 5, 3)
    assert layer.v.shape == (7, 3)
    scores = 2.0 * layer.q[-1:] @ layer.k.mT / 5**0.5
    torch.testing.assert_close(layer.dual(2.0).predict(), scores.softmax(-1) @ layer.v)


# Fig. 3, left


def test_descent_ends_at_the_attention_output():
    assert verdicts(DualDescent) == [True, True, True, True]
    end = table_of(DualDescent).where(step=15.0)
    assert end.where(features=MERCER).column("distance").max() < 1e-12
    assert end.where(features="50 positive random").column("distance").min() > 1e-3


DESCENT_TURNS = [
    (0, lambda row: row | {"distance": 1e-6} if row["order"] == "in one step" and row["step"] == 15 else row),
    (1, lambda row: row | {"distance": 1e-6} if row["order"] == "order 2" and row["step"] == 15 else row),
    (2, lambda row: row | {"distance": 1 - row["step"] / 15} if row["order"].startswith("order") else row),
    (2, lambda row: row | {"distance": row["distance"] ** 2} if row["order"] == FULL_BATCH else row),
    (3, lambda row: row | {"distance_same_features": 1e-6} if row["features"] != MERCER else row),
    (3, lambda row: row | {"distance": 0.0} if row["features"] != MERCER else row),
]


# Figs. 6 to 8


def test_random_features_converge_where_scores_are_small():
    converges, scale, _ = RandomFeatures().check(table_of(RandomFeatures), SMALL[RandomFeatures])
    assert converges.holds
    assert converges.condition == "the scores are × 0.03"
    assert scale.holds


def test_attention_matrices_of_the_first_layer_are_kept():
    matrices = table_of(RandomFeatures).only("weight")
    assert matrices.unique("seed") == [0]
    exact = matrices.where(n_features=0, logit_scale=1.0).sorted_by("row", "column").column("weight").reshape(16, 16)
    layer = random_layer(torch.Generator().manual_seed(0), 15, 11)
    np.testing.assert_allclose(exact, (layer.q @ layer.k.mT / 11**0.5).softmax(-1).numpy(), rtol=1e-12)


def test_orthogonal_features_that_are_better_at_one_scale_are_better_under_that_condition():
    gentle = errors_of(
        lambda row: row["orthogonal"] and row["logit_scale"] == 0.03, "output_relative", lambda row: 1e-3
    )
    verdict = RandomFeatures().check(changed(RandomFeatures, gentle), SMALL[RandomFeatures])[2]
    assert verdict.outcome == "holds under"


# Theorem 3.2


def test_the_bound_holds_on_random_and_trained_layers():
    table = table_of(GeneralizationBound)
    assert len(table.where(layer="trained").unique("head")) == 8
    found = GeneralizationBound().check(table, SMALL[GeneralizationBound])
    assert [verdict.holds for verdict in found] == [True, True, False, True, True]
    random = table.where(layer="random")
    assert (random.column("frobenius_first_term") <= random.column("printed_first_term")).all()


BOUND_TURNS = [
    (0, lambda row: row | {"coverage_printed": 0.9}, False),
    (1, lambda row: row | {"coverage_spectral": 0.9}, False),
    (2, lambda row: row | {"spectral": row["spectral"] / 20}, True),
    (3, lambda row: row | {"gap": row["gap"] * row["N"] ** 0.6}, False),
    (4, lambda row: row | {"printed_over_gap": 2.0 + 0.01 * row["seed"]}, False),
]


# Fig. 2


def test_the_dual_s_predictions_are_those_of_its_dual_model():
    """f(k_i) at the end of the step against the dual model that is asked at the keys; D cancels in a direction."""
    from iclens.kernels import SoftmaxKernel

    layer = random_layer(torch.Generator().manual_seed(2), 6, 5)
    kernel = SoftmaxKernel(5**-0.5)
    after = _dual(layer, kernel, 1.0)
    asked = layer._replace(q=layer.k).dual(queries=slice(0, -1))
    torch.testing.assert_close(after / after.norm(dim=-1, keepdim=True), torch.nn.functional.normalize(asked.predict()))
    before = torch.nn.functional.normalize(_dual(layer, kernel, 0.0), dim=-1)
    torch.testing.assert_close(before, torch.nn.functional.normalize(asked.initial(), dim=-1))


def test_measures_at_their_limits():
    same = torch.ones(5, 3)
    found = _measures(same, -same)
    assert found["alignment"] == pytest.approx(-1)
    assert found["uniformity"] == pytest.approx(0)
    assert found["collapse"] == pytest.approx(1)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert _measures(opposite, opposite) == pytest.approx({"alignment": 1.0, "uniformity": 8.0, "collapse": 0.0})


def test_contrastive_kernel_is_the_best_orthonormal_projection():
    """No random orthonormal W reaches a higher contrast."""
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)

    def contrast(z1, z2):
        inner = z1 @ z2.mT
        positives = inner.diagonal().mean()
        return float(positives - (inner.sum() - inner.diagonal().sum()) / (8 * 7))

    best = contrast(*_contrastive_kernel((left, right), 3))
    for _ in range(50):
        W = torch.linalg.qr(torch.randn(6, 3, generator=generator)).Q
        assert contrast(left @ W, right @ W) <= best + 1e-12


def test_the_contrastive_view_as_it_is_aligns_and_spreads_and_no_more():
    assert verdicts(ContrastiveView) == [True, False, False, True]


def changed(kind, change=lambda row: row):
    return Table(change(dict(row)) for row in table_of(kind))


def listed(kind, *entries):
    """Claims by their place, with what plants the effect and what takes it away."""
    return [
        Planted(kind.claims[place], partial(changed, kind, with_it), partial(changed, kind, without), SMALL[kind])
        for place, with_it, without in entries
    ]


def at_end(row):
    return row.get("method") == DUAL and row["share"] == 1


def as_it_is(row):
    return row


def aligned_before(row):
    return row | {"alignment": 0.9} if row["method"] == DUAL and row["share"] == 0 else row


def no_rise(row):
    """The prediction is as near to its positive before the step as after it."""
    return row | {"alignment": 0.5 + 0.01 * row["seed"]} if row["method"] == DUAL else row


def collapsed(row):
    return row | {"collapse": 0.9 + 0.01 * row["seed"]} if at_end(row) else row


def spread_out(row):
    return row | {"collapse": 0.01 * row["seed"]} if row["method"] in (DUAL, TARGETS) else row


def weak_simsiam(row):
    return row | {"alignment": 0.1 + 0.01 * row["seed"]} if row["method"] == SIMSIAM else row


def strong_simsiam(row):
    return row | {"alignment": 0.99 + 0.001 * row["seed"]} if row["method"] == SIMSIAM else row


def even_dual(row):
    return row | {"uniformity": 3.0 + 0.01 * row["seed"]} if row["method"] == DUAL else row


def errors_of(condition, name, factor):
    def change(row):
        return row | {name: row[name] * factor(row)} if "output_relative" in row and condition(row) else row

    return change


PLANTED = {
    "ren-liu-fig-3-left": listed(DualDescent, *((place, as_it_is, change) for place, change in DESCENT_TURNS)),
    "ren-liu-figs-6-8": listed(
        RandomFeatures,
        (0, as_it_is, errors_of(lambda row: True, "attention_relative", lambda row: row["n_features"] ** 0.4)),
        (1, as_it_is, errors_of(lambda row: row["logit_scale"] == 16, "output_relative", lambda row: 1e-3)),
        (
            1,
            as_it_is,
            errors_of(lambda row: row["logit_scale"] == 16, "output_relative", lambda row: row["n_features"] ** -0.5),
        ),
        (1, as_it_is, errors_of(lambda row: row["logit_scale"] == 0.03, "output_relative", lambda row: 1e3)),
        (
            2,
            errors_of(lambda row: row["orthogonal"], "output_relative", lambda row: 0.1),
            errors_of(lambda row: row["orthogonal"], "output_relative", lambda row: 10),
        ),
    ),
    "ren-liu-theorem-3-2": listed(
        GeneralizationBound,
        *((place, as_it_is, change) for place, change, holds in BOUND_TURNS if not holds),
        *((place, change, as_it_is) for place, change, holds in BOUND_TURNS if holds),
    ),
    "ren-liu-fig-2": listed(
        ContrastiveView,
        (0, as_it_is, no_rise),
        (0, as_it_is, aligned_before),
        (1, spread_out, collapsed),
        (2, weak_simsiam, strong_simsiam),
        (3, as_it_is, even_dual),
    ),
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
