"""The written adapter: peft, transformers and iclens itself load it, and it gives the same logits as ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.absorption.test_fitting import QUERIES, fitted, logits
from tests.lens.many_prompts import tokenizer
from tests.lens.zoo import build, lens

from iclens.errors import UserError
from iclens.lens import LensModel, load

# peft asks transformers by a name that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

FAMILIES = ("gpt2", "llama", "gpt_neox", "phi3")


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_loads_it_and_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = lens(name, torch.float64)
    adapter = fitted(model, rank=3, targets=("attention", "mlp-in", "mlp-out"), ridge=0.1)
    adapter.save(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(build(name, torch.float64), str(tmp_path / "adapter")).eval()
    with adapter.applied(model):
        own = logits(model, QUERIES[0])
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor([QUERIES[0]])).logits[0]
    assert not torch.allclose(own, logits(model, QUERIES[0]), atol=1e-2)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_tensors_added_to_the_matrices_by_hand_give_the_same_logits(name: str, tmp_path: Path) -> None:
    """Without peft: W + B A, of the layout that the file says."""
    model = lens(name, torch.float64)
    adapter = fitted(model, rank=3, ridge=0.1)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    changed = build(name, torch.float64)
    assert len(tensors) == 2 * len(config["target_modules"])
    assert config["lora_alpha"] == config["r"] == 3
    for module in config["target_modules"]:
        a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
        delta = b @ a
        with torch.no_grad():
            changed.get_submodule(module).weight.add_(delta.T if config["fan_in_fan_out"] else delta)
    with adapter.applied(model):
        own = logits(model, QUERIES[0])
    torch.testing.assert_close(logits(LensModel.wrap(changed), QUERIES[0]), own, rtol=0, atol=1e-10)


def test_iclens_loads_the_folder_by_the_name_of_its_model(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = tmp_path / "base"
    build("llama").save_pretrained(base)
    tokenizer().save_pretrained(base)
    model = load(str(base))
    adapter = fitted(model, rank=2, ridge=0.1)
    adapter.save(tmp_path / "adapter")
    with adapter.applied(model):
        own = logits(model, QUERIES[0])
    found = logits(load(str(tmp_path / "adapter")), QUERIES[0])
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)


def test_an_adapter_is_written_over_an_older_one_and_over_nothing_else(tmp_path: Path) -> None:
    adapter = fitted(lens("llama", torch.float64), rank=1, layers=(0,))
    adapter.save(tmp_path / "adapter")
    adapter.save(tmp_path / "adapter")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        adapter.save(tmp_path / "file")
    with pytest.raises(UserError, match=r"holds other files \(file\)|holds other files \(adapter\)"):
        adapter.save(tmp_path)


def test_half_precision_is_written_in_single(tmp_path: Path) -> None:
    adapter = fitted(LensModel.wrap(build("llama", torch.bfloat16), name="half"), rank=2, ridge=1.0)
    adapter.save(tmp_path)
    assert {one.dtype for one in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
