"""Saving a model with a variant in it, and loading it again with every trained number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.lens.zoo import build as zoo_model
from tests.lens.zoo import tokens
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BertForSequenceClassification

from iclens import UserError
from iclens.attention import apply, from_pretrained, remove

LEARNED: dict[str, dict[str, Any]] = {
    "softmax": {},
    "regularized": {"alpha": [0.1, 0.2, -0.3, 0.0], "learned": True},
    "negative": {"n_negatives": 1, "beta": 0.2, "learned": True},
    "augmented": {"g1": {"name": "adapter", "hidden": 4}, "g2": {"name": "adapter", "hidden": 4}},
}


def trained(
    family: str = "llama", name: str = "regularized", dtype: torch.dtype = torch.float64, **options: Any
) -> Any:
    model = zoo_model(family, dtype)
    handle = apply(model, name, **(options or LEARNED[name]))
    with torch.no_grad():
        for variant in handle.variants.values():
            for parameter in variant.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(tokens(12, 2))[0]


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("family", ["llama-biased-tied", "gpt2", "gemma3_text", "bert", "distilbert"])
def test_a_reloaded_model_is_the_model(family: str, name: str, tmp_path: Path) -> None:
    model = trained(family, name)
    out = logits(model)
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert torch.equal(logits(again), out)
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.config.iclens_attention == model.config.iclens_attention
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(from_pretrained(tmp_path / "again")), out)
    remove(again)
    remove(model)
    assert torch.equal(logits(again), logits(model))


def test_the_folder_holds_a_note_and_the_parameters(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    options = {"alpha": [0.1, 0.2, -0.3, 0.0], "learned": True}
    assert config["iclens_attention"] == {"name": "regularized", "options": options, "version": 1}
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        stored = [key for key in weights.keys() if "iclens_attention" in key]  # noqa: SIM118
    assert stored == [f"model.layers.{layer}.self_attn.iclens_attention.alpha" for layer in range(3)]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("alpha", [0.1, [0.1, 0.2, -0.3, 0.0]])
def test_the_config_holds_the_users_own_numbers_in_single_precision_too(
    alpha: Any, learned: bool, tmp_path: Path
) -> None:
    torch.set_default_dtype(torch.float32)
    model = zoo_model("llama")
    apply(model, "regularized", alpha=alpha, learned=learned)
    model.save_pretrained(tmp_path)
    note = json.loads((tmp_path / "config.json").read_text())["iclens_attention"]
    assert note["options"] == {"alpha": alpha, "learned": learned}
    again = from_pretrained(tmp_path, options={"alpha": alpha, "learned": learned})
    assert torch.equal(logits(again), logits(model))


def test_fixed_strengths_of_heads_return_from_the_config(tmp_path: Path) -> None:
    model = trained("llama", alpha=[0.1, 0.2, -0.3, 0.0])
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path)), logits(model))


def test_a_module_of_the_users_is_given_again(tmp_path: Path) -> None:
    model = trained("llama", "augmented", g1=torch.nn.Linear(8, 8))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="pass them again"):
        from_pretrained(tmp_path)
    again = from_pretrained(tmp_path, options={"g1": torch.nn.Linear(8, 8)})
    assert torch.equal(logits(again), logits(model))


def test_in_several_files_and_in_another_dtype(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(from_pretrained(tmp_path)), logits(model))
    small = from_pretrained(tmp_path, dtype=torch.float32)
    assert {value.dtype for value in small.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(logits(small), logits(model).float(), rtol=1e-4, atol=1e-4)


def test_with_an_auto_class_or_a_class(tmp_path: Path) -> None:
    model = BertForSequenceClassification(zoo_model("bert").config).eval()
    apply(model, "regularized", alpha=0.2, learned=True)
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModelForSequenceClassification, BertForSequenceClassification, None):
        again = from_pretrained(tmp_path, auto_class=auto_class, variant="regularized", options={"alpha": 0.2})
        assert type(again) is BertForSequenceClassification
        assert torch.equal(logits(again), logits(model))


def test_another_head_is_refused_unless_asked_for(tmp_path: Path) -> None:
    model = trained("bert")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"checkpoint lacks classifier\.bias and 1 more"):
        from_pretrained(tmp_path, auto_class=AutoModelForSequenceClassification)
    again = from_pretrained(tmp_path, auto_class=AutoModelForSequenceClassification, strict=False)
    with torch.no_grad():
        assert torch.equal(again.bert(tokens(12, 2))[0], logits(model))


def test_another_variant_or_other_options_are_one_clear_error(tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="saved with the attention variant 'regularized', not with 'negative'"):
        from_pretrained(tmp_path, variant="negative")
    with pytest.raises(UserError, match=r"learned=True, not learned=False"):
        from_pretrained(tmp_path, options={"learned": False})
    with pytest.raises(UserError, match="no option 'beta'"):
        from_pretrained(tmp_path, options={"beta": 0.1})


def rewrite(folder: Path, note: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"iclens_attention": note}))


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (
            {"name": "softmax", "options": {}, "version": 1},
            "do not fit.*'softmax'.*has model.layers.0.self_attn.iclens",
        ),
        ({"name": "unheard", "options": {}, "version": 1}, "unknown attention variant 'unheard'"),
        ({"name": "softmax", "options": {}, "version": 2}, "newer iclens"),
        ({"name": "softmax"}, "unreadable iclens_attention"),
        ("softmax", "unreadable iclens_attention"),
        ({"name": "softmax", "options": None, "version": 1}, "pass them again"),
    ],
)
def test_a_config_that_does_not_fit_its_weights(note: Any, message: str, tmp_path: Path) -> None:
    trained().save_pretrained(tmp_path)
    rewrite(tmp_path, note)
    with pytest.raises(UserError, match=message):
        from_pretrained(tmp_path)


def test_a_plain_checkpoint_is_refused(tmp_path: Path) -> None:
    zoo_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="without an attention variant"):
        from_pretrained(tmp_path)


def test_plain_transformers_leaves_the_variant_out_and_apply_notices(tmp_path: Path) -> None:
    model = trained()
    model.save_pretrained(tmp_path)
    plain, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert all("iclens_attention" in key for key in report["unexpected_keys"])
    assert len(report["unexpected_keys"]) == 3
    with pytest.raises(UserError, match=r"saved with the variant 'regularized'.*from_pretrained"):
        apply(plain, "regularized", alpha=0.1)
    remove(model)
    assert torch.equal(logits(plain), logits(model))
    del plain.config.iclens_attention
    apply(plain, "softmax")
