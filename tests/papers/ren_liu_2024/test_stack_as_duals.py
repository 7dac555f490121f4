"""Trained models as stacks of duals: the weights are read right, and the verdicts turn when the effect is absent."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from tests.recipes.planting import Planted, turning

from iclens.errors import UserError
from iclens.matching.stacks import lab_pass
from iclens.models.model import build_model
from iclens.papers.ren_liu_2024.stack_as_duals import BUNDLED, LAB, StackAsDuals, StackSettings
from iclens.recipes.table import Table
from iclens.tasks.task import build_task


def model_and_prompt(**options):
    model = build_model("transformer", d=2, d_y=1, seeds=[3], **{"width": 8, "n_heads": 2, "n_layers": 3, **options})
    prompt = build_task("linear", d=2).sample(torch.Generator().manual_seed(0), 4, 5)
    return model, prompt


@pytest.mark.parametrize("tokens", ["joint", "interleaved"])
@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize(("ffn_width", "activation"), [(0, "gelu"), (12, "relu"), (12, "gelu-tanh")])
def test_the_lab_s_transformer_is_its_stack_of_duals(tokens, norm, ffn_width, activation):
    model, prompt = model_and_prompt(tokens=tokens, norm=norm, ffn_width=ffn_width, activation=activation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        found = lab_pass(model, prompt)
        answers = model(prompt.inputs.unsqueeze(0), prompt.labels.unsqueeze(0))[0, :, -1]
        read = model.read_out(found.stack().predict()[:, -1:].unsqueeze(0))[0, :, -1]
    for dual, own in zip(found.stack().states(), found.states, strict=True):
        torch.testing.assert_close(dual, own, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(read, answers, rtol=1e-12, atol=1e-12)


def test_demonstrations_are_pairs_of_interleaved_tokens():
    model, prompt = model_and_prompt(tokens="interleaved")
    assert lab_pass(model, prompt).demonstrations.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1]


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "linear"},
        {"attention": "augmented", "attention_options": {"g1": "adapter"}},
        {"residual": False},
        {"tokens": "joint", "query_in_keys": False},
        {"tokens": "inputs"},
    ],
)
def test_other_models_are_refused(options):
    with pytest.raises(UserError, match="read as a stack"):
        lab_pass(*model_and_prompt(**options))


SMALL = StackSettings(steps=3, n_seeds=2, n_prompts=3, n_layers=2, width=8, ffn_width=8, n_context=5)


@cache
def table_of():
    return StackAsDuals().run(SMALL)


def test_a_tiny_run_is_exact_and_is_drawn_from_the_table_alone():
    table = table_of()
    assert [verdict.holds for verdict in StackAsDuals().check(table, SMALL)][:3] == [True, True, True]
    assert table.only("gain").unique("model") == [LAB, BUNDLED]
    figure = StackAsDuals().plot(Table.from_json_columns(table.to_columns()), SMALL)
    assert all(ax.get_xlabel() for ax in figure.axes)


def broken(name):
    return Table(row | {name: 1e-6} if row.get("layer") == 2 else row for row in table_of())


def moving(gain):
    return Table(
        row | {"gain": gain(row["layer"], row["seed"])} if row.get("gain") is not None else row for row in table_of()
    )


def test_tokens_that_move_in_one_layer_move_under_that_condition():
    table = moving(lambda layer, seed: 0.5 + 0.01 * seed if layer == 1 else seed - 0.5)
    assert StackAsDuals().check(table, SMALL)[3].outcome == "holds under"


_RESIDUALS = ("layer_residual", "stack_residual", "autograd_residual")
PLANTED = {
    "ren-liu-figs-4-5": [
        *(
            Planted(claim, table_of, partial(broken, name), SMALL, also=())
            for claim, name in zip(StackAsDuals.claims, _RESIDUALS, strict=False)
        ),
        Planted(
            StackAsDuals.claims[3],
            partial(moving, lambda layer, seed: 0.5 + 0.01 * seed),
            partial(moving, lambda layer, seed: seed - 0.5),
            SMALL,
        ),
    ]
}

test_every_verdict_turns_when_its_effect_is_absent = turning(PLANTED)
