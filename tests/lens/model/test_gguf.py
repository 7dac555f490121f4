"""A GGUF file is the model that was packed into it, or is refused: nothing that it states is left out in silence."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from tests.lens.many_prompts import tokenizer
from tests.lens.model.tiny_gguf import ARCHITECTURES, stated, tiny, write
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.zoo import build

from iclens.errors import UserError
from iclens.lens import explain
from iclens.lens.many.model_source import ModelSource
from iclens.lens.model.gguf import Header
from iclens.lens.model.gguf_settings import complete
from iclens.lens.model.loading import LensModel, load, outline

PROMPT = "a: red\n\nb: blue\n\na:"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 43)[None]).logits


@pytest.mark.parametrize("tied", [False, True])
def test_the_packed_model_comes_back(tmp_path: Path, tied: bool) -> None:
    packed = tiny(tie_word_embeddings=tied)
    # A name may be written in capitals.
    file = write(tmp_path / ("TINY.GGUF" if tied else "tiny.gguf"), packed)
    for name in (str(file), str(tmp_path)):
        model = load(name)
        assert model.name == name
        assert model.dtype == torch.float32
        assert all("a text begins" in note for note in model.notes)
        torch.testing.assert_close(logits(model.model), logits(packed), rtol=0, atol=1e-5)
    assert load(str(file), dtype=torch.float64).dtype == torch.float64
    sketch = outline(str(file))
    assert sketch.is_offloaded
    assert sketch.n_parameters == model.n_parameters
    assert len(ModelSource(str(file)).identity()) == 64


def test_a_description_is_read_once_a_load_and_the_reader_is_gguf_s_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "tiny.gguf", tiny())
    read, reader = [], gguf.GGUFReader
    fields = reader._build_fields
    monkeypatch.setattr(reader, "_build_fields", lambda self, *args: (read.append(self), fields(self, *args))[1])
    for count in (1, 2):
        load(str(file))
        assert len(read) == count
        assert gguf.GGUFReader is reader


DENSE: dict[str, dict[str, object]] = {
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"query_pre_attn_scalar": 8},
    # With the pattern of windows that all models of Gemma 3 have.
    "gemma3_text": {"query_pre_attn_scalar": 8, "num_hidden_layers": 7, "layer_types": None},
    "phi3": {},
    "starcoder2": {},
    "stablelm": {},
    "nemotron": {},
    "gpt2": {},
}
SPARSE: dict[str, dict[str, object]] = {
    "qwen2_moe": {"mlp_only_layers": []},
    "qwen3_moe": {"mlp_only_layers": [], "shared_expert_intermediate_size": None},
}


@pytest.mark.parametrize(("name", "changes"), (DENSE | SPARSE).items(), ids=(DENSE | SPARSE))
def test_other_architectures_come_back(tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    packed = tiny(name, **changes)
    model = load(str(write(tmp_path / "tiny.gguf", packed)))
    torch.testing.assert_close(logits(model.model), logits(packed), rtol=0, atol=1e-5)
    assert explain(model, PROMPT, answers=[" red", " blue"]).exact


@pytest.mark.parametrize("lost", ["blk.1.ffn_up_exps.weight", "blk.2.ffn_down_exps.weight"])
def test_experts_that_are_not_there_are_not_made_up(tmp_path: Path, lost: str) -> None:
    file = write(tmp_path / "tiny.gguf", tiny("qwen3_moe", **SPARSE["qwen3_moe"]), without=lost)
    with pytest.raises(UserError, match=f"lacks the tensor '{lost}'"):
        load(str(file))


def test_experts_without_a_place_are_refused(tmp_path: Path) -> None:
    for tensors in ({"blk.0.ffn_gate_exps.weight": torch.ones(4, 8, 32)}, {"blk.0.ffn_gate_exps.bias": torch.ones(8)}):
        with pytest.raises(UserError, match=f"holds the tensor '{min(tensors)}'"):
            load(str(write(tmp_path / "tiny.gguf", tiny(), tensors=tensors)))
    with pytest.raises(UserError, match="expert_count = 4, where transformers makes None of it"):
        load(str(write(tmp_path / "tiny.gguf", tiny(), {"expert_count": 4})))


@pytest.mark.parametrize(("model_type", "largest"), [("gemma2", 46), ("gemma3_text", 62)])
def test_the_scale_of_the_largest_gemma_is_that_of_its_width(model_type: str, largest: int) -> None:
    """A file does not state it: so many layers have the models of 27 billion parameters, as llama.cpp knows."""
    from transformers import AutoConfig

    for layers, scale in ((largest, 8), (largest - 1, 16)):
        config = AutoConfig.for_model(
            model_type, num_hidden_layers=layers, hidden_size=32, num_attention_heads=4, head_dim=16
        )
        assert config.query_pre_attn_scalar == 256
        complete(config, Header("27b.gguf", ARCHITECTURES[model_type], stated(config), None, None, {}, None))
        assert config.query_pre_attn_scalar == scale


def test_a_window_that_the_model_would_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="states a window of 7 tokens"):
        load(str(write(tmp_path / "tiny.gguf", tiny("qwen2-window"))))


def test_its_tokenizer_comes_back(tmp_path: Path) -> None:
    model = load(str(write(tmp_path / "tiny.gguf", tiny())))
    text = "Review: a great film\nSentiment: positive"
    ours, theirs = model.tokenizer(text)["input_ids"], byte_level(begin=True)(text)["input_ids"]
    # Earlier versions of transformers leave out the token that begins a text: then a note says so.
    assert ours == theirs[0 if model.notes == () else 1 :]


def test_files_beside_it_are_not_its_own(tmp_path: Path) -> None:
    """A folder may hold a saved model and a GGUF file of another one: each comes with its own tokenizer."""
    build("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    file = write(tmp_path / "tiny.gguf", tiny())
    packed, saved = load(str(file)), load(str(tmp_path))
    assert packed.tokenizer.get_vocab().keys() >= byte_level(begin=True).get_vocab().keys()
    assert packed.n_vocabulary == tiny().config.vocab_size
    assert saved.tokenizer.get_vocab() == tokenizer().get_vocab()


def test_quantised_weights_are_explained_exactly(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", tiny(intermediate_size=64), kind=GGMLQuantizationType.Q8_0)
    explanation = explain(str(file), PROMPT, answers=[" red", " blue"], precise=True)
    assert explanation.exact


def test_the_marks_of_quantisation_are_taken_off_a_model_that_the_user_has_read(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = write(tmp_path / "tiny.gguf", tiny(intermediate_size=64), kind=GGMLQuantizationType.Q8_0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    model = LensModel.wrap(theirs, byte_level(begin=True))
    assert not hasattr(theirs.config, "quantization_config")
    assert not getattr(theirs, "is_quantized", False)
    assert model.model is theirs
    assert model.in_double().dtype == torch.float64
    torch.testing.assert_close(logits(theirs), logits(load(str(file)).model), rtol=0, atol=0)


def test_llama_3_keeps_its_stretched_positions(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    packed = tiny(rope_parameters=rope)
    plain = 500000.0 ** (-torch.arange(0, 8, 2) / 8)
    stretch = {"rope_freqs.weight": plain / packed.model.rotary_emb.inv_freq}
    assert float(stretch["rope_freqs.weight"].max()) > 30
    file = write(tmp_path / "tiny.gguf", packed, {"rope.freq_base": 500000.0}, stretch)
    model = load(str(file))
    torch.testing.assert_close(logits(model.model), logits(packed), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.model.model.rotary_emb.inv_freq, packed.model.rotary_emb.inv_freq)


def test_positions_that_are_stretched_otherwise_are_refused(tmp_path: Path) -> None:
    stretch = {"rope_freqs.weight": torch.tensor([1.0, 2.0, 5.0, 8.0])}
    with pytest.raises(UserError, match=r"rope_freqs\.weight, which stretches rotary positions"):
        load(str(write(tmp_path / "tiny.gguf", tiny(), tensors=stretch)))


def test_factors_of_one_stretch_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", tiny(), tensors={"rope_freqs.weight": torch.ones(4)})
    torch.testing.assert_close(logits(load(str(file)).model), logits(tiny()), rtol=0, atol=1e-5)


def test_linear_stretching_is_copied(tmp_path: Path) -> None:
    packed = tiny(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    file = write(tmp_path / "tiny.gguf", packed, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    torch.testing.assert_close(logits(load(str(file)).model), logits(packed), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "stretches rotary positions by 'yarn'"),
        ({"rope.scaling.attn_factor": 1.5}, r"rope\.scaling\.attn_factor = 1\.5"),
        ({"attention.value_length": 16}, r"attention\.value_length = 16, where transformers makes 8 of it"),
        ({"attn_logit_softcapping": 30.0}, r"attn_logit_softcapping = 30, where transformers makes None"),
        ({"attention.sliding_window": 7}, r"attention\.sliding_window = 7"),
        ({"attention.scale": 0.7}, r"attention\.scale = 0\.7"),
        ({"attention.causal": False}, r"attention\.causal = False"),
    ],
)
def test_what_the_configuration_cannot_hold_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(str(write(tmp_path / "tiny.gguf", tiny(), settings)))


def test_what_nobody_knows_is_noted(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", tiny(), {"attention.turns": 3, "expert_count": 0}, splits="of-tomorrow")
    explanation = explain(str(file), PROMPT, answers=[" red", " blue"])
    assert any("llama.attention.turns = 3" in note for note in explanation.notes)
    assert any("'of-tomorrow'" in note for note in explanation.notes)
    assert not any("expert" in note for note in explanation.notes)


def test_sizes_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", tiny(), {"attention.key_length": 16, "attention.value_length": 16})
    with pytest.raises(UserError, match=r"'blk\.0\.attn_q\.weight' with 1024 numbers, where the llama model .* 2048"):
        load(str(file))


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds the tensor 'blk\.0\.attn_q\.bias'"):
        load(str(write(tmp_path / "tiny.gguf", tiny(), tensors={"blk.0.attn_q.bias": torch.ones(32)})))


def test_an_architecture_that_is_not_read_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf", tiny())
    file.write_bytes(file.read_bytes().replace(b"llama", b"bloop"))
    with pytest.raises(UserError, match="architecture 'bloop', which transformers does not read"):
        load(str(file))


def test_files_that_are_no_whole_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(UserError, match=r"a\.gguf is not a GGUF file that can be read"):
        load(str(tmp_path / "a.gguf"))
    whole = write(tmp_path / "a.gguf", tiny()).read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[:-4])
    with pytest.raises(UserError, match=rf"a\.gguf was cut short: it has {len(whole) - 4} bytes"):
        load(str(tmp_path / "a.gguf"))
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(UserError, match="holds 2 GGUF files: name one"):
        load(str(tmp_path))
    part = tmp_path / "c-00001-of-00002.gguf"
    part.write_bytes(b"")
    with pytest.raises(UserError, match="one part of a model"):
        load(str(part))
    with pytest.raises(UserError, match="there is no file"):
        load(str(tmp_path / "nowhere.gguf"))
