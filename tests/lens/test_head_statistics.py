"""Numbers of every head: each against its definition on the head's own queries, keys and values."""

from __future__ import annotations

import matplotlib
import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader
from torch import Tensor

from iclens.errors import UserError
from iclens.lens import HEAD_COLUMNS, HeadStatistics, Lens
from iclens.lens.read.capture import capture
from iclens.report import head_maps

RIDGE = 1e-2
FAMILIES = ["gpt2", "llama", "qwen2-window", "gpt_oss", "gemma2"]


def a_lens(name: str) -> Lens:
    return Lens(reader(name), PROMPTS[0], answers=("w1", "w2"))


def heads_of(lens: Lens) -> tuple[int, list[list[tuple[Tensor, Tensor, Tensor, Tensor]]]]:
    """Position that is read, and by layer and head (weights, keys, values, output) of what it sees."""
    position = int(lens.readouts.positions[0, 0])
    found = []
    for record in capture(lens.model, lens.input_ids[None]).records:
        row = []
        for head in range(record.q.shape[1]):
            dual = record.dual(head, position, dtype=torch.float64)
            seen = dual.mask[0]
            row.append((dual.coefficients[0, seen], dual.k[seen], dual.v[seen], dual.predict()[0]))
        found.append(row)
    return position, found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_number_of_every_head_is_what_it_says(name: str) -> None:
    lens = a_lens(name)
    found = lens.head_statistics(ridge=RIDGE)
    position, heads = heads_of(lens)
    assert found.position == position
    for layer, row in enumerate(heads):
        seen = capture(lens.model, lens.input_ids[None]).records[layer].rows_at(torch.tensor([[position]]))[0, 0]
        for head, (weights, k, v, out) in enumerate(row):
            n = int(seen.sum())
            got = {name: float(found[name][layer, head]) for name in HEAD_COLUMNS}
            apart = float((weights * (v - out).square().sum(-1)).sum())
            size = float(out.norm())
            changes = []
            for i in range(n):
                rest = torch.cat([weights[:i], weights[i + 1 :]])
                changes.append(float((out - rest / rest.sum() @ torch.cat([v[:i], v[i + 1 :]])).norm()) / size)
            expected = {
                "disagreement": apart,
                "relative_disagreement": apart / float((weights * v.square().sum(-1)).sum()),
                "first_weight": float(weights[0]) if bool(seen[0]) else 0.0,
                "own_weight": float(weights[n - 1]),
                "n_effective": float((-weights * weights.log()).sum().exp()),
                "largest_change": max(changes),
            }
            if name != "gemma2":
                scale = lens.traced.layers[layer].scale
                gaussian = torch.exp(-scale * torch.cdist(k, k).square() / 2) + RIDGE * torch.eye(len(k))
                end = weights @ torch.linalg.solve(gaussian, v)
                eigenvalues = torch.linalg.eigvalsh(gaussian)
                expected |= {
                    "end_distance": float((end - out).norm()) / size,
                    "condition": float(eigenvalues[-1] / eigenvalues[0]),
                }
            for key, value in expected.items():
                assert got[key] == pytest.approx(value, rel=1e-4, abs=1e-7), (layer, head, key)
            if name != "gemma2":
                assert got["nearest_distance"] <= min(got["end_distance"], got["one_step_distance"]) * (1 + 1e-9)


def test_a_soft_cap_has_no_counterfactual_and_neither_has_none() -> None:
    for found in (a_lens("gemma2").head_statistics(), a_lens("gpt2").head_statistics(ridge=None)):
        assert bool(found["end_distance"].isnan().all())
        assert bool(found["disagreement"].isfinite().all())
        assert {row["end_distance"] for row in found.to_rows()} == {None}


def test_the_long_table_is_the_maps_and_the_text_a_line_a_layer() -> None:
    found = a_lens("llama").head_statistics()
    rows = found.to_rows()
    n_layers, n_heads = found["disagreement"].shape
    assert [(row["layer"], row["head"]) for row in rows] == [(i, j) for i in range(n_layers) for j in range(n_heads)]
    assert all(tuple(row)[2:] == tuple(HEAD_COLUMNS) for row in rows)
    assert rows[n_heads + 1]["n_effective"] == float(found["n_effective"][1, 1])
    frame = found.to_pandas()
    assert frame["first_weight"].tolist() == [row["first_weight"] for row in rows]
    assert len(str(found).splitlines()) == n_layers + 2
    assert repr(found).startswith("HeadStatistics(")


def test_the_maps_are_drawn_with_a_panel_a_number() -> None:
    matplotlib.use("Agg")
    found = a_lens("llama").head_statistics()
    figure = head_maps(found, ["first_weight", "end_distance", "nearest_time"])
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 3
    drawn = torch.as_tensor(panels[0].images[0].get_array().data)
    torch.testing.assert_close(drawn, found["first_weight"])
    with pytest.raises(UserError, match="heads have no number 'telepathy'"):
        head_maps(found, ["telepathy"])
    with pytest.raises(UserError, match="nothing to draw"):
        head_maps(found, [])


def test_no_pass_beyond_the_one_that_is_read() -> None:
    lens = a_lens("llama")
    _ = lens.answer
    before = lens.passes.forward_passes
    first, again = lens.head_statistics(), lens.head_statistics()
    assert lens.passes.forward_passes == before
    assert isinstance(first, HeadStatistics)
    torch.testing.assert_close(first["end_distance"], again["end_distance"], rtol=0.0, atol=0.0)


def test_of_a_response_every_token_has_a_place() -> None:
    lens = Lens(reader("llama"), PROMPTS[0], response=" w1 w2 w3")
    positions = lens.readouts.positions[0].tolist()
    found = [lens.head_statistics(place) for place in range(len(positions))]
    assert [one.position for one in found] == positions
    records = capture(lens.model, lens.input_ids[None]).records
    dual = records[1].dual(2, positions[-1], dtype=torch.float64)
    assert float(found[-1]["own_weight"][1, 2]) == pytest.approx(float(dual.coefficients[0, positions[-1]]), rel=1e-5)
    assert len({float(one["n_effective"].sum()) for one in found}) == len(found)


def test_what_does_not_fit_is_refused() -> None:
    lens = a_lens("gpt2")
    with pytest.raises(UserError, match="place=9"):
        lens.head_statistics(9)
    with pytest.raises(UserError, match="ridge=-1"):
        lens.head_statistics(ridge=-1.0)
    with pytest.raises(UserError, match="no number 'telepathy'"):
        lens.head_statistics()["telepathy"]
