"""Quantised weights are turned back into the plain ones that they stand for, or refused by name with the remedy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import build, tokens
from torch import nn

from iclens.errors import UserError
from iclens.lens import explain
from iclens.lens.model.loading import LensModel, load, outline


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens(12)).logits


def save(folder: Path, config: dict[str, Any]) -> Path:
    build("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"quantization_config": config}))
    return folder


def quantise(folder: Path, config: dict[str, Any], packed: Any) -> Any:
    """Save a model whose linear maps are `packed` (name, weight) -> tensors and their value; return the plain model."""
    save(folder, config)
    plain = build("llama")
    kept: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            kept[name] = weight
            continue
        tensors, value = packed(name, weight)
        kept |= tensors
        plain.get_parameter(name).data.copy_(value)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return plain


def fp8(name: str, weight: torch.Tensor, block: int = 16) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    blocks = weight.unflatten(0, (-1, block)).unflatten(2, (-1, block))
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448
    packed = (blocks / scale).to(torch.float8_e4m3fn)
    tensors = {name: packed.reshape(weight.shape), f"{name}_scale_inv": scale[:, 0, :, 0].contiguous()}
    return tensors, (packed.float() * scale).reshape(weight.shape)


def int8(name: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    packed = (weight / scale).round()
    return {name: packed.to(torch.int8), f"{name}_scale": scale}, packed * scale


def test_fp8_is_turned_back_at_loading(tmp_path: Path) -> None:
    config = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    plain = quantise(tmp_path, config, fp8)
    model = load(str(tmp_path))
    assert model.dtype == torch.float32
    assert not hasattr(model.model.config, "quantization_config")
    torch.testing.assert_close(logits(model.model), logits(plain), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(plain), logits(build("llama")), atol=1e-2)
    assert explain(model, PROMPTS[0], precise=True).exact
    assert outline(str(tmp_path)).n_parameters == model.n_parameters


def test_compressed_tensors_are_turned_back_at_loading(tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="reads compressed tensors")
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "format": "int-quantized"}}
    config = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": groups,
    }
    plain = quantise(tmp_path, config, int8)
    model = load(str(tmp_path))
    torch.testing.assert_close(logits(model.model), logits(plain), rtol=0, atol=1e-5)
    assert explain(model, PROMPTS[0]).exact


@pytest.mark.filterwarnings("ignore")
def test_bitsandbytes_is_turned_back_after_loading(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="reads its weights")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    build("llama").save_pretrained(tmp_path / "plain")
    options = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "dtype": torch.float32}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", **options)
    theirs.save_pretrained(tmp_path / "packed")
    tokenizer().save_pretrained(tmp_path / "packed")
    own = logits(copy.deepcopy(theirs))
    for model in (LensModel.wrap(theirs, tokenizer()), load(str(tmp_path / "packed"))):
        # Its own pass rounds activations, too.
        assert float((logits(model.model) - own).norm() / own.norm()) < 0.1
        assert explain(model, PROMPTS[0]).exact
    assert type(theirs.model.layers[0].mlp.up_proj).__name__ == "Linear8bitLt"


@pytest.mark.parametrize("method", ["gptq", "awq", "torchao", "of-tomorrow"])
def test_others_are_refused_by_name_before_their_weights_are_read(tmp_path: Path, method: str) -> None:
    folder = save(tmp_path, {"quant_method": method, "bits": 4, "group_size": 128})
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=f"quantised with {method}, which .* load the original weights"):
        load(str(folder))


@pytest.mark.parametrize("method", ["bitsandbytes", "compressed-tensors"])
def test_a_missing_package_is_named(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = method.replace("-", "_")
    # As where it is not installed.
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=f"need the package {method}: `pip install {method}`"):
        load(str(save(tmp_path, {"quant_method": method})))


def test_a_loaded_model_with_packed_weights_is_refused_by_name() -> None:
    model = build("llama")
    model.config.quantization_config = {"quant_method": "torchao"}
    weight = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UserError, match="quantised with torchao"):
        LensModel.wrap(model)
