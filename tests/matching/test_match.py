"""`iclens match` on models whose algorithm is known, because their weights were written by hand."""

from __future__ import annotations

import json

import pytest
import torch

from iclens.cli.main import main
from iclens.errors import UserError
from iclens.matching.comparisons import match
from iclens.matching.dual_layers import dual_heads
from iclens.matching.layers import layer_matches
from iclens.models.constructions import gradient_step
from iclens.models.model import build_model
from iclens.sweeps.store import Store
from iclens.sweeps.sweep import keep
from iclens.tasks.task import build_task
from iclens.training.config import RunConfig
from iclens.training.loop import TrainedRun
from iclens.training.metric import Metric


def config(**training) -> RunConfig:
    return RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 3, "noise_std": 0.5},
            "model": {"name": "linear-attention"},
            "training": {"n_context": 10, "loss": "query", "dtype": "float64", **training},
        }
    )


def written() -> dict[str, torch.Tensor]:
    return {name: value.detach()[0] for name, value in gradient_step(3, 1, 10, 0.6).named_parameters()}


def test_a_head_written_as_a_gradient_step_is_found_to_be_one():
    found = match(config(), written(), n_prompts=64)
    nearest = found.comparisons[0]
    assert nearest.estimator == "gradient descent, 1 step"
    assert nearest.spd.mean < 1e-20
    assert nearest.ilwd.mean < 1e-20
    assert nearest.alignment == pytest.approx(1.0)
    assert found.linearity == pytest.approx(1.0)
    assert found.bayes_alpha == pytest.approx(0.25)
    assert [head.residual < 1e-12 for head in found.heads] == [True]
    assert [layer.layer for layer in found.layers] == [0, 1]
    json.dumps(found.to_dict())
    assert repr(found).startswith("<Match on 64 prompts: error ")
    assert "nearest by spd: gradient descent, 1 step " in repr(found)


def test_the_read_out_of_the_step_is_nearest_to_one_step():
    task = build_task("linear", d=3)
    fit, prompt = (task.sample(torch.Generator().manual_seed(seed), 400, 10) for seed in (0, 1))
    before, after = layer_matches(gradient_step(3, 1, 10, 0.6), fit, prompt, learning_rate=0.6)
    assert before.steps["gradient-descent"] == 0
    assert after.steps["gradient-descent"] == 1
    # The read-out may shrink the answer, which lowers its error further.
    assert after.spd["gradient-descent"] < 0.1 * before.error
    assert after.error < before.error


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "joint", "query_in_keys": False},
        {"attention": "negative"},
        {"attention": "regularized", "attention_options": {"alpha": 0.3}},
        {"attention": "linear", "attention_options": {"features": "elu"}},
        {"attention": "augmented", "attention_options": {"g1": "mlp"}},
    ],
    ids=str,
)
def test_every_head_of_every_layer_is_its_dual_model(options):
    model = build_model("transformer", d=3, d_y=2, seeds=[0], n_layers=2, n_heads=2, width=8, ffn_width=8, **options)
    prompt = build_task("linear", d=3, d_y=2).sample(torch.Generator().manual_seed(0), 4, 5)
    heads = dual_heads(model, prompt)
    assert [(head.layer, head.head) for head in heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(head.residual < 1e-12 for head in heads)
    assert all(0 <= head.step_share <= 1 for head in heads)


def test_runs_that_cannot_be_matched_are_refused():
    with pytest.raises(UserError, match="trained on classes"):
        match(config(loss_kind="cross-entropy"), written())
    with pytest.raises(UserError, match="must be at least 8"):
        match(config(), written(), n_prompts=2)


def test_the_command_prints_the_nearest_algorithm_and_writes_json(tmp_path, capsys):
    run = TrainedRun(config(), written(), [Metric(5, "error", None, 1.0)], "finished", None, 1.0)
    keep(Store(tmp_path / "runs"), run, "cpu")
    target = tmp_path / "match.json"
    status = main(
        ["match", "--store", str(tmp_path / "runs"), "--prompts", "32", "--json", str(target), "--estimators", "lasso"]
    )
    assert status == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if "gradient descent, 1 step" in line]
    assert rows
    assert "Bayes' σ²/τ² = 0.25" in printed
    assert "lasso" in printed
    assert json.loads(target.read_text())["comparisons"][0]["estimator"] == "gradient descent, 1 step"
    assert main(["match", "ffff", "--store", str(tmp_path / "runs")]) == 2
    assert main(["match", "--store", str(tmp_path / "none")]) == 2
