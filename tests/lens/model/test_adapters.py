"""Adapters are merged into their model, which gives the adapted model's own logits, or are refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.lens.many_prompts import PROMPTS, tokenizer
from tests.lens.zoo import build, tokens

from iclens.errors import UserError
from iclens.lens import explain
from iclens.lens.many.model_source import ModelSource
from iclens.lens.model.loading import LensModel, load

# peft asks transformers by a name that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

LORA = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
KINDS = {
    "lora": LORA,
    "dora": peft.LoraConfig(r=3, target_modules=["o_proj"], use_dora=True, init_lora_weights=False),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}


def adapted(config: Any = LORA) -> Any:
    return peft.get_peft_model(build("llama"), copy.deepcopy(config)).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens(12)).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapped_model_is_merged_in_a_copy(kind: str) -> None:
    theirs = adapted(KINDS[kind])
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    model = LensModel.wrap(theirs, tokenizer())
    own = logits(theirs)
    assert not torch.allclose(own, logits(build("llama")), atol=1e-2)
    torch.testing.assert_close(logits(model.model), own, rtol=0, atol=1e-5)
    after = theirs.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert explain(theirs, PROMPTS[0], tokenizer=tokenizer()).exact


def test_an_adapter_that_is_switched_off_is_not_merged() -> None:
    theirs = adapted()
    theirs.base_model.disable_adapter_layers()
    torch.testing.assert_close(logits(LensModel.wrap(theirs).model), logits(build("llama")), rtol=0, atol=0)


def test_a_model_that_is_merged_already_stays_as_it_is() -> None:
    theirs = adapted()
    own = logits(theirs)
    theirs.merge_adapter()
    torch.testing.assert_close(logits(LensModel.wrap(theirs).model), own, rtol=0, atol=1e-5)


def test_an_adapter_that_transformers_put_in_is_merged() -> None:
    theirs = build("llama")
    theirs.add_adapter(copy.deepcopy(LORA))
    theirs.eval()
    own = logits(theirs)
    model = LensModel.wrap(theirs, tokenizer())
    torch.testing.assert_close(logits(model.model), own, rtol=0, atol=1e-5)
    assert theirs.active_adapters() == ["default"]
    assert explain(model, PROMPTS[0]).exact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    adapted().save_pretrained(tmp_path / "adapter")
    told(tmp_path / "adapter", base_model_name_or_path="../base")
    return tmp_path / "adapter"


def told(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_folder_of_an_adapter_loads_with_its_model(folder: Path) -> None:
    model = load(str(folder))
    torch.testing.assert_close(logits(model.model), logits(adapted()), rtol=0, atol=1e-5)
    assert explain(model, PROMPTS[0]).exact
    assert ModelSource(str(folder)).identity() != ModelSource(str(folder.parent / "base")).identity()


def test_learned_prompts_are_refused_by_name(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    theirs = peft.get_peft_model(build("llama"), config)
    with pytest.raises(UserError, match="adapted by PROMPT_TUNING, which adds learned positions"):
        LensModel.wrap(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    told(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(UserError, match="PROMPT_TUNING"):
        load(str(tmp_path / "adapter"))


def test_folders_that_do_not_fit_are_refused(folder: Path) -> None:
    told(folder, base_model_name_or_path="")
    with pytest.raises(UserError, match="does not say which model it belongs to"):
        load(str(folder))
    told(folder, base_model_name_or_path="./nowhere")
    with pytest.raises(UserError, match=r"belongs to the model \./nowhere: there is no folder"):
        load(str(folder))
    told(folder, base_model_name_or_path="../base", r=4)
    with pytest.raises(UserError, match="does not fit its model"):
        load(str(folder))
    told(folder, r=3, peft_type="OF_TOMORROW")
    with pytest.raises(UserError, match=r"adapter_config\.json of .* cannot be read"):
        load(str(folder))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        load(str(folder))


def test_an_adapter_that_lacks_tensors_is_refused(folder: Path) -> None:
    told(folder, target_modules=["q_proj", "v_proj", "down_proj", "up_proj"])
    with pytest.raises(UserError, match="does not fit its model"):
        load(str(folder))
