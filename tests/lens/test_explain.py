"""The whole lens on one prompt: what is reported is what the parts and the model say."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from iclens.errors import UserError
from iclens.lens import Lens, Prompt, explain
from iclens.lens.read.tolerance import path_residual, tolerance_of
from iclens.lens.scores.faithfulness import agreements, spearman, top_k

BLOCKS = (
    "Review: great film\nSentiment: positive",
    "Review: awful acting\nSentiment: negative",
    "Review: I loved it\nSentiment: positive",
    "Review: boring\nSentiment: negative",
)
QUERY = "Review: a great one\nSentiment:"
TEXT = "\n\n".join((*BLOCKS, QUERY))


@pytest.fixture(scope="module")
def tokenizer():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        BLOCKS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained)


def gpt2(tokenizer, dtype=torch.float64):
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=200, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(dtype).eval()


def llama(tokenizer, dtype=torch.float64):
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=200, initializer_range=0.3, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


@pytest.fixture(scope="module", params=[gpt2, llama], ids=["gpt2", "llama"])
def model(request, tokenizer):
    return request.param(tokenizer)


def logits(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("answers", [["positive", "negative"], ["good", "bad", "so so"], None])
def test_margin_and_probabilities_are_the_models_own(model, tokenizer, answers):
    found = explain(model, TEXT, tokenizer=tokenizer, answers=answers)
    last = logits(model, tokenizer, TEXT)[-1]
    log_probabilities = last.log_softmax(-1)
    for token in found.next_tokens:
        assert token.logit == pytest.approx(float(last[token.token_id]), rel=1e-12)
        assert token.probability == pytest.approx(float(log_probabilities[token.token_id].exp()), rel=1e-12)
    if answers is None:
        best = last.topk(10)
        assert found.margin == pytest.approx(float(best.values[0] - best.values[1:].mean()), rel=1e-10)
    else:
        for candidate in found.candidates:
            ids = tokenizer(TEXT + " " + candidate.text)["input_ids"]
            own = len(tokenizer(TEXT)["input_ids"])
            every = logits(model, tokenizer, TEXT + " " + candidate.text).log_softmax(-1)
            expected = sum(float(every[i - 1, ids[i]]) for i in range(own, len(ids)))
            assert candidate.log_probability == pytest.approx(expected, rel=1e-10)
        assert found.answer == max(found.candidates, key=lambda c: c.log_probability).text


@pytest.mark.parametrize("answers", [["positive", "negative"], ["good", "bad", "so so"], None])
def test_parts_sum_to_the_margin_and_tokens_to_their_demonstration(model, tokenizer, answers):
    found = explain(model, TEXT, tokenizer=tokenizer, answers=answers, scores=["gradient_step", "path", "knock_out"])
    assert found.exact
    assert all(residual.value < 1e-10 for residual in found.residuals)
    paths = sum(d.path for d in found.sources) + sum(o.path for o in found.others)
    assert paths == pytest.approx(found.margin, rel=1e-9)
    for d in found.sources:
        own = [token for token in found.tokens if token.part == d.index]
        assert len(own) == d.n_tokens
        assert d.gradient_step == pytest.approx(sum(token.gradient_step for token in own), rel=1e-9)
        assert d.path == pytest.approx(sum(token.path for token in own), rel=1e-9)
        assert d.gradient_step == pytest.approx(sum(map(sum, d.by_layer_and_head)), rel=1e-9)
        assert (len(d.by_layer_and_head), len(d.by_layer_and_head[0])) == (3, 4)
    for other in found.others:
        own = [token for token in found.tokens if token.role == other.name]
        assert other.gradient_step == pytest.approx(sum(token.gradient_step for token in own), rel=1e-9)


def test_rerun_is_the_model_on_the_shortened_text(model, tokenizer):
    found = explain(model, TEXT, tokenizer=tokenizer, answers=["positive", "negative"], rerun_text=True)
    sign = 1 if found.answer == "positive" else -1
    pair = [
        tokenizer(TEXT + " " + word)["input_ids"][len(tokenizer(TEXT)["input_ids"])]
        for word in ("positive", "negative")
    ]
    for d in found.sources:
        shortened = "\n\n".join((*(b for i, b in enumerate(BLOCKS) if i != d.index), QUERY))
        last = logits(model, tokenizer, shortened)[-1]
        assert found.margin - d.rerun_margin_change == pytest.approx(
            sign * float(last[pair[0]] - last[pair[1]]), rel=1e-9
        )


def test_knock_out_of_a_group_and_the_answer_of_several_tokens(model, tokenizer):
    options = {"scores": ["knock_out", "path"], "knock_out": [(2, 0), (1,)]}
    found = explain(model, TEXT, tokenizer=tokenizer, answers=["so great", "so boring"], **options)
    assert [k.demonstrations for k in found.group_knock_outs] == [(0, 2), (1,)]
    assert found.group_knock_outs[1].margin == pytest.approx(found.sources[1].knock_out.margin, rel=1e-9)
    assert found.group_knock_outs[0].margin != pytest.approx(found.sources[0].knock_out.margin, rel=1e-3)
    assert {token.role for token in found.tokens} >= {"answer", "query", "demonstration", "separator"}


def test_single_precision_is_within_its_tolerance(tokenizer):
    found = explain(gpt2(tokenizer, torch.float32), TEXT, tokenizer=tokenizer)
    assert found.exact
    assert {residual.tolerance for residual in found.residuals} == {1e-5}
    exact = explain(gpt2(tokenizer), TEXT, tokenizer=tokenizer)
    for one, other in zip(found.sources, exact.sources, strict=True):
        assert one.gradient_step == pytest.approx(other.gradient_step, abs=1e-4)


def test_instruction_and_special_tokens_set_the_initialisation(model, tokenizer):
    prompt = Prompt.from_text("Say how they feel.\n\n" + TEXT, instruction_blocks=1)
    found = explain(model, prompt, tokenizer=tokenizer)
    assert "instruction" in {other.name for other in found.others}
    assert len(found.sources) == 4


def test_json_is_plain_and_complete(model, tokenizer):
    document = explain(model, TEXT, tokenizer=tokenizer, rerun_text=True, faithfulness=True).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False))["exact"] is True
    assert "".join(token["text"] for token in document["tokens"]) == TEXT


def test_faithfulness_is_measured_on_request(model, tokenizer):
    found = explain(model, TEXT, tokenizer=tokenizer, rerun_text=True, faithfulness=True, seed=3)
    assert {entry.method for entry in found.faithfulness} == {
        "influence_deletions",
        "influence",
        "gradient_step",
        "rerun",
    }
    assert (
        found.faithfulness
        == explain(model, TEXT, tokenizer=tokenizer, rerun_text=True, faithfulness=True, seed=3).faithfulness
    )


def test_the_models_attention_is_as_it_was_afterwards(model, tokenizer):
    before, implementation = logits(model, tokenizer, TEXT), model.config._attn_implementation
    explain(model, TEXT, tokenizer=tokenizer)
    assert model.config._attn_implementation == implementation
    assert torch.equal(logits(model, tokenizer, TEXT), before)


def test_a_model_that_says_otherwise_the_second_time_is_reported(model, tokenizer):
    """The check runs the model once more by itself, and compares."""
    calls = []

    def drifting(module, inputs, output):
        calls.append(module)
        return output * (1 + 0.01 * (len(calls) - 1))

    handle = model.get_output_embeddings().register_forward_hook(drifting)
    try:
        found = explain(model, TEXT, tokenizer=tokenizer, scores=["gradient_step"])
    finally:
        handle.remove()
    assert len(calls) == found.cost.forward_passes == 2
    (failed,) = [residual for residual in found.residuals if not residual.holds]
    assert failed.key == "capture"
    assert failed.value == pytest.approx(0.01 / 1.01)
    assert not found.exact


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [0.0, 1.2])
def test_a_wrong_path_is_beyond_the_tolerance(tokenizer, dtype, factor):
    passes = Lens(gpt2(tokenizer, dtype), TEXT, tokenizer=tokenizer).passes
    right = passes.path
    wrong = replace(right, embedding=right.embedding * factor, bias=right.bias * factor)
    assert float(passes.path_residuals(right)) <= tolerance_of(dtype) < float(passes.path_residuals(wrong))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@given(st.floats(-50, 50, allow_subnormal=False), st.floats(0, 1), st.floats(0, 200))
def test_parts_that_are_all_zero_never_hold(dtype, margin, largest_part, largest_logit):
    margin, largest_part, largest_logit = (torch.tensor(x) for x in (margin, largest_part, largest_logit))
    found = float(path_residual(torch.zeros_like(margin), margin, largest_part * margin.abs(), largest_logit, dtype))
    assert found > tolerance_of(dtype) or margin == 0


def test_a_margin_is_known_as_well_as_its_logits():
    # 1e-4 of 2 is 5e-5 of the margin: too much by itself, and nothing beside float32 logits of 100.
    given = (torch.tensor(2.0001), torch.tensor(2.0), torch.tensor(2.0))
    assert float(path_residual(*given, torch.tensor(2.0), torch.float32)) > tolerance_of(torch.float32)
    assert float(path_residual(*given, torch.tensor(100.0), torch.float32)) < tolerance_of(torch.float32)
    assert float(path_residual(*given, torch.tensor(100.0), torch.float64)) > tolerance_of(torch.float64)


def test_a_margin_lost_in_rounding_is_remarked(tokenizer):
    built = gpt2(tokenizer)

    def doubts():
        return [note for note in explain(built, TEXT, tokenizer=tokenizer).notes if "leaves open" in note]

    assert doubts() == []
    # A constant on all logits moves no margin, and leaves nothing of it in bfloat16.
    built.lm_head.bias = torch.nn.Parameter(torch.full((built.lm_head.out_features,), 4096.0, dtype=built.dtype))
    assert [
        note for note in explain(built.to(torch.bfloat16), TEXT, tokenizer=tokenizer).notes if "leaves open" in note
    ]


def test_agreement_of_rankings():
    scores = {"a": [1.0, 2.0, 3.0, 4.0], "b": [10.0, 20.0, 30.0, 40.0], "c": [4.0, 3.0, 2.0, 1.0]}
    ab, ac, _ = agreements(scores)
    assert (ab.spearman, ab.top_k, ab.k) == (1.0, 1.0, 2)
    assert (ac.spearman, ac.top_k) == (-1.0, 0.0)
    assert spearman([1.0], [1.0]) is None
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None
    assert top_k([1.0, 1.0, 0.0], [1.0, 0.0, 1.0], 1) == 1.0


def test_edges_are_the_same_choice_for_influence_shares_and_knock_out(model, tokenizer):
    every = ["influence", "shares", "knock_out"]
    lens = Lens(model, TEXT, tokenizer=tokenizer, answers=["positive", "negative"])
    found = {edges: lens.explanation(every, edges=edges) for edges in (None, "later", "query")}
    for edges, one in found.items():
        assert one.edges == edges
        assert one.exact
        influence = lens.by_demonstration(lens.influence(query_only=edges == "query").by_token)
        cut = lens.knock_out(query_only=edges != "later").margin_changes
        assert [source.score("influence") for source in one.sources] == pytest.approx(influence.tolist(), rel=1e-9)
        assert [source.score("knock_out") for source in one.sources] == pytest.approx(cut.tolist(), rel=1e-9)
    default, later, query = (found[edges] for edges in (None, "later", "query"))
    for name, same, other in (("influence", later, query), ("shares", later, query), ("knock_out", query, later)):
        values = [source.score(name) for source in default.sources]
        assert values == pytest.approx([source.score(name) for source in same.sources], rel=1e-9)
        assert values != pytest.approx([source.score(name) for source in other.sources], rel=1e-3)
    with pytest.raises(UserError, match="'later' or 'query'"):
        lens.explanation(every, edges="all")


def test_pairs_are_those_of_the_lens_and_are_drawn(model, tokenizer):
    found = explain(model, TEXT, tokenizer=tokenizer, answers=["positive", "negative"], pairs=True, seed=2)
    own = found.lens.pairs(seed=2)
    assert found.pairs.matrix == tuple(map(tuple, own.matrix.tolist()))
    assert (found.pairs.error, found.pairs.spread) == (own.error, own.spread)
    assert (found.pairs.redundant, found.pairs.dependent) == (own.redundant, own.dependent)
    axes = found.plot_pairs()
    n = len(found.sources)
    assert axes.images[0].get_array().shape == (n, n)
    with pytest.raises(UserError, match="pairs=True"):
        explain(model, TEXT, tokenizer=tokenizer).plot_pairs()
