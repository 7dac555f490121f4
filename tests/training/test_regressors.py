"""The bundled regressors: their recipe, what is recorded of them, and that they learn in context."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from scripts.train_regressors import TrainRegressors, errors

import iclens
from iclens.training import regressors
from iclens.training.loop import train
from iclens.training.reproducibly import reproducibly


def test_the_shipped_weights_are_those_that_were_measured():
    recorded = regressors.recorded()
    size = 0
    assert list(recorded["regressors"]) == list(regressors.VARIANTS)
    for variant, one in recorded["regressors"].items():
        data = (regressors.folder() / f"{variant}.safetensors").read_bytes()
        size += len(data)
        assert hashlib.sha256(data).hexdigest() == one["weights_sha256"]
        assert one["config"] == json.loads(json.dumps(regressors.config(variant).to_dict(), default=dict))
    assert size <= 400_000


@pytest.mark.parametrize("variant", regressors.VARIANTS)
def test_they_learn_in_context_but_not_better_than_ridge(variant):
    recorded = regressors.recorded()
    measured = errors(regressors.load_regressor(variant), 128)
    ridge = errors(None, 128)
    for n in ("1", "4", "12", "20"):
        assert measured[n]["mean"] > ridge[n]["mean"] - 0.01
        # Another sample of the same prompts: the intervals meet.
        one = recorded["regressors"][variant]["error"][n]
        assert measured[n]["low"] < one["high"]
        assert one["low"] < measured[n]["high"]
    assert measured["20"]["mean"] < measured["4"]["mean"] / 2 < measured["1"]["mean"] / 2


def test_the_script_trains_measures_and_repeats_itself(tmp_path, capsys):
    out = tmp_path / "new"
    TrainRegressors(out, steps=2, prompts=16).run()
    assert "ridge, the best possible" in capsys.readouterr().out
    document = json.loads((out / "recipe.json").read_text())
    assert document["regressors"]["negative"]["config"]["training"]["steps"] == 2
    with reproducibly(0, threads=1):
        again = train([regressors.config("negative", steps=2)])[0].tensors
    written = load_file(out / "negative.safetensors")
    assert all(torch.equal(written[name], again[name].half()) for name in again)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(iclens.UserError, match="softmax, regularized"):
        regressors.load_regressor("nosuch")
    (tmp_path / "there").mkdir()
    for wrong, message in (
        (TrainRegressors(tmp_path / "there"), "there"),
        (TrainRegressors(tmp_path / "new", steps=0), "at least 1"),
    ):
        with pytest.raises(iclens.UserError, match=message):
            wrong.run()
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


def test_errors_of_the_best_estimator_are_those_of_theory():
    # With one point, ridge on the waves: E = σ² + 2τ² − (2τ²)-weighted gain; with many, it nears the noise.
    task = regressors.regressor_task()
    measured = errors(None, 512)
    torch.manual_seed(0)
    x = 2 * torch.rand(20000, 2, 1) - 1
    phi = task.features(x) * task.weight_std
    cross = (phi[:, 0] * phi[:, 1]).sum(-1)
    own = phi[:, 0].square().sum(-1) + task.noise_std**2
    expected = (phi[:, 1].square().sum(-1) + task.noise_std**2 - cross.square() / own).mean()
    assert measured["1"]["low"] < float(expected) < measured["1"]["high"]
    assert task.noise_std**2 < measured["20"]["mean"] < 2 * task.noise_std**2
