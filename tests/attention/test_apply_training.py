"""Training a model with a variant in it: Trainer, gradient checkpointing, adapters, torch.compile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lens.zoo import build as zoo_model
from tests.lens.zoo import tokens
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

from iclens.attention import apply, from_pretrained

# Transformers renames gradient checkpointing on the way to version 6; peft still asks for the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(tokens(12, 2))[0]


def classifier() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(zoo_model("bert").config)


def examples(n: int) -> list[dict[str, torch.Tensor]]:
    ids = tokens(10, n)
    return [{"input_ids": row, "labels": (row[0] > 30).long()} for row in ids]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=8,
        max_steps=4,
        learning_rate=1e-2,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        **changes,
    )


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"bf16": True}])
def test_the_trainer_trains_the_strengths_and_saves_them(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    model = classifier()
    handle = apply(model, "regularized", alpha=0.1, learned=True)
    trainer = Trainer(model=model, args=arguments(tmp_path, **changes), train_dataset=examples(32))
    trainer.train()
    alphas = torch.stack([p for variant in handle.variants.values() for p in variant.parameters()])
    assert (alphas - 0.1).abs().min() > 1e-4
    trainer.save_model(str(tmp_path / "model"))
    again = from_pretrained(tmp_path / "model")
    theirs = again.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    if "bf16" not in changes:  # The Trainer leaves a model trained so under autocast.
        assert torch.equal(logits(again), logits(model.eval()))


@pytest.mark.parametrize("variant", ["regularized", "negative"])
def test_gradient_checkpointing_gives_the_same_gradients(variant: str) -> None:
    options: dict[str, Any] = {"alpha": 0.3} if variant == "regularized" else {"n_negatives": 1, "beta": 0.3}
    gradients = []
    for checkpointing in (False, True):
        model = zoo_model("llama", torch.float64).train()
        apply(model, variant, learned=True, **options)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(tokens(12, 2), use_cache=False)[0].square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert any("iclens_attention" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_an_adapter_trains_and_saves_the_strengths(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    def base() -> Any:
        model = zoo_model("llama", torch.float64)
        apply(model, "regularized", alpha=0.1, learned=True)
        return model

    untrained = logits(base())
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["iclens_attention"], r=2)
    model = get_peft_model(base(), lora)
    assert torch.equal(logits(model), untrained)
    trainable = [p for p in model.parameters() if p.requires_grad]
    strengths = [p for name, p in model.named_parameters() if "iclens_attention" in name and p.requires_grad]
    assert len(strengths) == 3
    optimizer = torch.optim.SGD(trainable, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens(12, 2))[0].square().mean().backward()
        optimizer.step()
    assert all((p - 0.1).abs().min() > 0 for p in strengths)
    out = logits(model.eval())
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(base(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(again), out)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged), out)
    merged.save_pretrained(str(tmp_path / "merged"))
    torch.testing.assert_close(logits(from_pretrained(tmp_path / "merged")), out)


def test_a_variant_goes_into_an_adapted_model_and_out_again() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(zoo_model("llama"), LoraConfig(target_modules=["q_proj"], r=2)).eval()
    before = logits(model)
    with apply(model, "regularized", alpha=0.3) as patched:
        assert patched is model
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


COMPILED = """
import sys, torch
from transformers import AutoConfig, AutoModel
from iclens.attention import apply
family, variant, strength = sys.argv[1:]
fields = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
torch.manual_seed(0)
model = AutoModel.from_config(AutoConfig.for_model(family, num_attention_heads=4, **fields)).eval()
handle = apply(model, variant, learned=True, **{strength: 0.3})
ids = torch.randint(3, 57, (2, 12))
mask = torch.ones_like(ids)
mask[0, 8:] = 0
compiled = torch.compile(model)
for given in ({}, {"attention_mask": mask}):
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        out = run(ids, **given)[0][:, :8]
        out.square().sum().backward()
        gradients.append([out] + [p.grad for v in handle.variants.values() for p in v.parameters()])
    for eager, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize(
    ("variant", "strength"), [("regularized", "alpha"), ("weight-decay", "alpha"), ("negative", "beta")]
)
def test_a_compiled_model_agrees(family: str, variant: str, strength: str) -> None:
    # In a process of its own: the checks of types that the tests run with cannot be compiled.
    done = subprocess.run([sys.executable, "-c", COMPILED, family, variant, strength], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
