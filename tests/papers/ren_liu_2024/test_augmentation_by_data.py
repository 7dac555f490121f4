"""Augmentations by kind of data: what they are, and verdicts that follow planted errors."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.papers.ren_liu_2024.augmentation_by_data import NORMAL, AugmentationByData, AugmentationSettings, rows_of
from iclens.papers.ren_liu_2024.augmentation_by_data_kinds import KINDS, MessagePassing, PixelConvolution, graph
from iclens.recipes.contract import silent
from iclens.recipes.table import Table

RECIPE = AugmentationByData()
SETTINGS = AugmentationSettings(places=("g1 & g2",), n_seeds=8)


def planted(factors):
    """Errors of every row with noise of its own, times the factor of (kind, augmentation)."""
    draws = np.random.default_rng(0)
    common = 1 + 0.1 * draws.standard_normal(SETTINGS.n_seeds)
    return Table(
        {
            "kind": kind,
            "row": row,
            "seed": seed,
            "error": factors.get((kind, name), 1.0) * common[seed] * (1 + 0.02 * draws.standard_normal()),
        }
        for kind in SETTINGS.kinds
        for row, (name, _) in rows_of(kind, SETTINGS).items()
        for seed in range(SETTINGS.n_seeds)
    )


def verdicts(factors):
    return RECIPE.check(planted(factors), SETTINGS)


def test_a_designed_augmentation_that_wins_is_found_where_it_wins():
    helps, designed, structure = verdicts({("graphs", "message passing"): 0.7})
    assert [verdict.condition for verdict in (helps, designed, structure)] == ["the data are graphs"] * 3


def test_a_gain_of_the_adapter_helps_but_is_not_designed():
    helps, designed, _ = verdicts({(kind, "adapter"): 0.7 for kind in KINDS})
    assert helps.outcome == "holds"
    assert not designed.holds


def test_a_row_that_is_far_worse_does_not_hide_a_gain():
    helps, *_ = verdicts({("graphs", "message passing"): 0.7, ("graphs", "adapter"): 20.0})
    assert helps.condition == "the data are graphs"


def test_a_design_that_gains_nothing_owes_nothing_to_the_structure():
    """Worse than normal attention, and its shuffled copy worse still."""
    factors = {("graphs", "message passing"): 1.3, ("graphs", "shuffled"): 2.0}
    structure = verdicts(factors)[2]
    assert not structure.holds
    assert "below normal attention" in structure.numbers


def test_gains_are_corrected_for_the_kinds():
    """With six seeds no p is below 1/64, which is not below a quarter of 0.05, and is below 0.05 with one kind."""
    few = dataclasses.replace(SETTINGS, n_seeds=6)
    table = planted({("graphs", "message passing"): 0.7})
    found = RECIPE.check(Table(row for row in table if row["seed"] < 6), few)[0]
    assert not found.holds
    assert "p < 0.0125" in found.test
    alone = dataclasses.replace(few, kinds=("graphs",))
    assert RECIPE.check(Table(row for row in table if row["seed"] < 6), alone)[0].holds


def test_pixel_convolution_mixes_neighbouring_pixels_only():
    torch.manual_seed(0)
    g = PixelConvolution().double()
    x = torch.randn(2, 1, 3, 67)
    torch.testing.assert_close(g(x), x)
    torch.nn.init.normal_(g.second.weight)
    moved = x.clone()
    moved[..., 27] += 1.0  # row 3, column 3
    changed = (g(moved) - g(x)).abs().amax((0, 1, 2)) > 1e-12
    rows, columns = np.divmod(changed[:64].nonzero().squeeze(1).numpy(), 8)
    assert abs(rows - 3).max() <= 2
    assert abs(columns - 3).max() <= 2
    assert not changed[64:].any()


@pytest.mark.parametrize("shuffled", [False, True])
def test_pixel_convolution_is_that_of_torch(shuffled):
    torch.manual_seed(0)
    g = PixelConvolution(shuffled=shuffled).double()
    torch.nn.init.normal_(g.second.weight)
    torch.nn.init.normal_(g.second.bias)
    x = torch.randn(2, 3, 67)
    images = x[..., g.order].reshape(-1, 1, 8, 8)
    change = g.second(torch.relu(g.first(images))).reshape(2, 3, 64)
    expected = x.clone()
    expected[..., g.order] += change
    torch.testing.assert_close(g(x), expected)


def test_shuffled_convolution_is_the_convolution_of_shuffled_pixels():
    torch.manual_seed(0)
    plain, shuffled = PixelConvolution().double(), PixelConvolution(shuffled=True).double()
    torch.nn.init.normal_(plain.second.weight)
    shuffled.load_state_dict(plain.state_dict())
    x = torch.randn(3, 64)
    torch.testing.assert_close(shuffled(x)[:, shuffled.order], plain(x[:, shuffled.order]))


def test_message_passing_sees_neighbours_only():
    neighbours = graph(16)
    torch.testing.assert_close(neighbours.sum(-1), torch.ones(16))
    assert neighbours.diagonal().abs().max() == 0
    assert ((neighbours > 0) == (neighbours > 0).mT).all()
    assert not torch.equal(neighbours, graph(16, seed=1))
    g = MessagePassing(3, neighbours)
    x = torch.randn(16, 3)
    torch.testing.assert_close(g(x), x)
    torch.nn.init.normal_(g.W)
    moved = x.clone()
    moved[5] += 1.0
    changed = (g(moved) - g(x)).abs().amax(-1) > 1e-12
    assert changed.tolist() == [(j == 5 or float(neighbours[j, 5]) > 0) for j in range(16)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_prompts_repeat_with_their_seed(kind, held_out):
    first, second = (KINDS[kind].draw(torch.Generator().manual_seed(3), 4, 15, held_out) for _ in range(2))
    assert first.inputs.shape == (4, 16, KINDS[kind].d)
    assert first.labels.shape == (4, 16, KINDS[kind].d_y)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.labels, second.labels)
    if KINDS[kind].classes:
        torch.testing.assert_close(first.labels.sum(-1), torch.ones(4, 16))


def test_text_keeps_pairs_of_word_and_label_for_the_end():
    def pairs(held_out):
        drawn = KINDS["text"].draw(torch.Generator().manual_seed(0), 500, 15, held_out)
        words, labels = drawn.inputs.argmax(-1), drawn.labels.argmax(-1)
        return words, labels, (words % 6 + words // 6) % 4 == labels

    assert not pairs(False)[2].any()
    assert pairs(True)[2][:, -1].all()
    assert not pairs(True)[2][:, :-1].any()


def test_nodes_depend_on_their_neighbours():
    drawn = KINDS["graphs"].draw(torch.Generator().manual_seed(0), 1, 15, False)
    own, seen = drawn.inputs[0], drawn.inputs[0] + graph(16) @ drawn.inputs[0]

    def misfit(features):
        return float((features @ torch.linalg.lstsq(features, drawn.labels[0]).solution - drawn.labels[0]).norm())

    assert misfit(seen) < 1e-10
    assert misfit(own) > 0.1


def test_a_tiny_run_is_checked_and_drawn_from_its_table_alone():
    settings = AugmentationSettings(n_context=5, places=("g1", "g1 & g2"), steps=2, n_seeds=2)
    table = RECIPE.run(settings, silent)
    assert np.isfinite(table.column("error")).all()
    assert len(RECIPE.check(table, settings)) == 3
    assert table.where(row=NORMAL).unique("kind") == list(KINDS)
    figure = RECIPE.plot(Table.from_json_columns(table.to_columns()), settings)
    assert all(ax.get_xlabel() for ax in figure.axes)


_WINS = partial(planted, {("graphs", "message passing"): 0.7})
_NOTHING = partial(planted, {})
_SHUFFLED_TOO = partial(planted, {("graphs", "message passing"): 0.7, ("graphs", "shuffled"): 0.7})
_ADAPTER = partial(planted, {(kind, "adapter"): 0.7 for kind in KINDS})
_NO_GAIN = partial(planted, {("graphs", "message passing"): 1.3, ("graphs", "shuffled"): 2.0})
PLANTED = {
    "augmentation-by-data": [
        *(Planted(claim, _WINS, _NOTHING, SETTINGS) for claim in RECIPE.claims),
        Planted(RECIPE.claims[1], _WINS, _ADAPTER, SETTINGS),
        Planted(RECIPE.claims[2], _WINS, _SHUFFLED_TOO, SETTINGS, also=()),
        Planted(RECIPE.claims[2], _WINS, _NO_GAIN, SETTINGS),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
