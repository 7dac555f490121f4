"""A response of any length: its number is the model's own, its parts sum to it, and deletions are real."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader, tokenizer
from tests.lens.tiny_tokenizers import greedy
from tests.lens.word_learner import PROMPT, learner

from iclens.errors import UserError
from iclens.lens.explaining import explain
from iclens.lens.explanation import Explanation
from iclens.lens.lens import Lens
from iclens.lens.prompt import Prompt, tokenize
from iclens.lens.read.response import read_response
from iclens.lens.rows import COLUMNS

RESPONSE = "w5 w6 is w7 . w8 w9"
FOIL = "w5 w1 ."
FAMILIES = ["gpt2", "llama", "gemma2", "gemma3_text", "gpt_neox", "opt-350m", "phi", "cohere2", "granite", "qwen3_moe",
            "deepseek_v2", "gpt_oss", "llama4_text"]  # fmt: skip


def a_lens(name="gpt2", response=RESPONSE, **options):
    return Lens(reader(name), PROMPTS[1], response=response, **options)


def log_probabilities(name, prompt, response, model=None):
    """Of each token of a response, by the model itself, from the definition."""
    ids, more = (tokenizer()(text, add_special_tokens=False)["input_ids"] for text in (prompt, response))
    logits = (model or reader(name)).model(input_ids=torch.tensor([ids + more])).logits[0].detach()
    rows = torch.log_softmax(logits, -1)[len(ids) - 1 : -1]
    return rows[torch.arange(len(more)), more]


def test_the_number_is_the_models_own_log_probability():
    own = log_probabilities("gpt2", PROMPTS[1].text, RESPONSE)
    lens = a_lens()
    assert lens.answer.margin == pytest.approx(float(own.sum()), rel=1e-12)
    assert lens.answer.log_probability == lens.answer.margin
    found = lens.explanation(["influence"]).response
    assert found.log_probabilities == pytest.approx(own.tolist(), rel=1e-12)
    assert "".join(found.tokens).strip() == found.text == RESPONSE
    logit = float(own.sum()) - math.log1p(-float(own.sum().exp()))
    assert a_lens(measure="logit").answer.margin == pytest.approx(logit, rel=1e-12)
    part = a_lens(statement="w7 . w8")
    assert part.answer.margin == pytest.approx(float(own[3:6].sum()), rel=1e-12)
    assert part.answer.text == "w7 . w8"
    other = log_probabilities("gpt2", PROMPTS[1].text, FOIL)
    assert a_lens(foil=FOIL).answer.margin == pytest.approx(float(own.sum() - other.sum()), rel=1e-12)


@pytest.mark.parametrize("how", [{}, {"measure": "logit"}, {"statement": "w7 . w8"}, {"foil": FOIL}])
@pytest.mark.parametrize("name", FAMILIES)
def test_parts_by_head_and_token_sum_to_the_number(name, how):
    lens = a_lens(name, response="w5" if how.get("measure") else RESPONSE, **how)
    found = lens.explanation(["path", "gradient_step"])
    assert found.exact, found.residuals
    parts = sum(token.path for token in found.tokens) + sum(one.path for one in found.others if one.name == "entropy")
    size = max(abs(found.margin), *(abs(token.path) for token in found.tokens))
    assert abs(parts - found.margin) / size < 1e-10
    step = lens.gradient_step
    assert abs(float(step.total) - found.margin) / float(step.largest) < 1e-10
    for effect in found.sources:
        assert sum(map(sum, effect.by_layer_and_head)) == pytest.approx(effect.gradient_step, rel=1e-9, abs=1e-9)
        assert set(effect.of_output) == {"path", "gradient_step"}


def test_the_entropy_is_what_belongs_to_no_token():
    lens = a_lens()
    ids = lens.input_ids
    logits = lens.model.model(input_ids=ids[None]).logits[0, lens.tokenized.n_tokens - 1 :].detach()
    entropy = torch.distributions.Categorical(logits=logits).entropy().sum()
    torch.testing.assert_close(lens.path.rest, -entropy)
    assert float(a_lens(response="w5", measure="logit").path.rest) < 0
    assert not Lens(reader("gpt2"), PROMPTS[1], answers=["w5", "w6"]).path.rest.any()


@pytest.mark.parametrize("how", [{}, {"measure": "logit"}, {"statement": "w7 . w8"}, {"foil": FOIL}])
def test_influence_is_the_limit_of_differences_and_shares_are_complete(how):
    lens = a_lens(response="w5 w6" if how.get("measure") else RESPONSE, **how)
    weights = torch.full((lens.n_demonstrations,), 0.5, dtype=torch.float64)
    found = lens.by_demonstration(lens.influence(0.5).by_token)
    step = 1e-5
    for i in range(lens.n_demonstrations):
        one, two = (weights.clone().index_add(0, torch.tensor([i]), torch.tensor([s]).double()) for s in (step, -step))
        change = lens.influence(one.tolist()).margin - lens.influence(two.tolist()).margin
        assert float(found[i]) == pytest.approx(float(change) / (2 * step), rel=1e-5, abs=1e-7)
    shares = lens.shares()
    assert float(shares.gap) <= 0.05
    nothing = lens.knock_out([range(lens.n_demonstrations)], query_only=False)
    torch.testing.assert_close(shares.without, nothing.margins[0])


@pytest.mark.parametrize("how", [{}, {"measure": "logit"}, {"statement": "w7 . w8"}, {"foil": FOIL}])
def test_the_rows_of_the_matrix_sum_to_the_influence(how):
    lens = a_lens(response="w5 w6" if how.get("measure") else RESPONSE, **how)
    found = lens.explanation(["influence"])
    (check,) = (one for one in found.residuals if one.key == "response")
    assert check.value < 1e-10
    matrix = torch.tensor(found.response.influence)
    torch.testing.assert_close(lens.response_influence(), matrix.double())
    if not how or "statement" in how:
        summed = matrix[found.response.first : found.response.last].sum(0)
        torch.testing.assert_close(summed.tolist(), [one.scores["influence"] for one in found.sources])
    rows = found.response_rows()
    assert len(rows) == matrix.numel()
    assert [row["influence"] for row in rows] == matrix.flatten().tolist()
    assert {row["token"] for row in rows if row["read"]} == set(range(found.response.first, found.response.last))


@pytest.mark.parametrize("foil", [None, FOIL])
def test_text_removed_is_a_pass_of_the_model_without_it(foil):
    lens = a_lens(foil=foil)
    found = lens.explanation(["rerun", "lasso"], faithfulness=True)
    shorter = PROMPTS[1].without([2]).text
    own = log_probabilities("gpt2", shorter, RESPONSE).sum()
    own -= 0.0 if foil is None else log_probabilities("gpt2", shorter, foil).sum()
    assert found.sources[2].rerun_margin_change == pytest.approx(found.margin - float(own), rel=1e-10)


@pytest.mark.parametrize("foil", [None, FOIL])
def test_a_source_that_is_knocked_out_alone_or_with_others(foil):
    lens = a_lens(foil=foil)
    found = lens.explanation(["knock_out"], knock_out=[(0, 3)], edges="later")
    assert found.exact
    (group,) = found.group_knock_outs
    assert group.margin == pytest.approx(float(lens.knock_out([(0, 3)], query_only=False).margins[0]), rel=1e-12)
    assert len(lens.pairs().matrix) == lens.n_demonstrations


def test_prompts_beside_others_read_as_they_do_alone():
    """Explaining many: a response and answers in one batch."""
    from iclens.lens.explaining import explain_together
    from iclens.lens.read.question import ask
    from iclens.lens.read.responding import responding
    from iclens.lens.read.response_options import ResponseOptions

    model = reader("gpt2")
    asked = responding(model, ask(model, PROMPTS[1], response=ResponseOptions(RESPONSE)))
    logit = responding(model, ask(model, PROMPTS[3], response=ResponseOptions("w5", measure="logit")))
    some = [asked, ask(model, PROMPTS[0], ["w1", "w2"]), logit]
    scores = ["influence", "shares", "gradient_step", "path", "knock_out"]
    together = explain_together(model, some, scores)
    for question, beside in zip(some, together, strict=True):
        alone = Lens(model, question).explanation(scores)
        assert beside.exact
        assert beside.margin == pytest.approx(alone.margin, rel=1e-10)
        for name in scores:
            ours, theirs = ([one.score(name) for one in found.sources] for found in (beside, alone))
            assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    torch.testing.assert_close(
        torch.tensor(together[0].response.influence), torch.tensor(a_lens().explanation().response.influence)
    )


def test_a_generated_response_is_the_likeliest_or_drawn_with_a_seed():
    lens = Lens(reader("gpt2"), PROMPTS[1], generate=6)
    ids = lens.tokenized.input_ids.tolist()
    for index in lens.passes.questions[0].response.token_ids:
        logits = lens.model.model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert index == int(logits.argmax())
        ids.append(index)
    drawn = [Lens(reader("gpt2"), PROMPTS[1], generate=6, seed=seed).readout.answer for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    state = torch.random.get_rng_state()
    _ = Lens(reader("gpt2"), PROMPTS[1], generate=2, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_it_is_saved_and_read_back(tmp_path):
    found = explain(reader("gpt2"), PROMPTS[1], response=RESPONSE, statement="w7 . w8")
    found.save(tmp_path / "o.json")
    again = Explanation.load(tmp_path / "o.json")
    assert again == dataclasses.replace(found, lens=None)
    assert again.response == found.response
    assert "Log-probability" in str(again)
    assert "Statement" in str(again)
    assert {name for name, _, _ in COLUMNS} == set(again.to_rows()[0])


def test_a_response_that_the_tokenizer_joins_to_the_prompt_is_read_apart_with_a_note():
    joined = greedy("=8")
    prompt = Prompt.from_text("2+2=4\n\n3+5=")
    found = read_response("8", tokenize(prompt, joined), joined)
    assert "".join(found.tokens) == "8"
    assert any("would join" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"response": " "}, "the response is empty"),
        pytest.param({"response": 3}, "the response is a int", marks=pytest.mark.wrong_types),
        ({"response": "xyz"}, "has no token that the tokenizer knows"),
        ({"response": "w1 \ud800"}, "surrogate"),
        ({"response": "w1 " * 200}, "the model's context holds 128: shorten one of them"),
        ({"response": "w1 w2", "statement": " "}, "the statement is empty"),
        ({"response": "w1 w2", "statement": "w3"}, "does not occur in the response"),
        ({"response": "w1 w2 w1", "statement": "w1"}, "occurs 2 times in the response"),
        ({"response": "w1", "answers": ["w1"]}, "not both"),
        ({"response": "w1", "generate": 3}, "take one of the two"),
        ({"statement": "w1"}, "is for a response"),
        ({"foil": "w1"}, "is for a response"),
        ({"measure": "logit"}, "is for a response"),
        ({"response": "w1", "measure": "odds"}, "give 'log_probability' or 'logit'"),
        ({"response": "w1", "foil": "w1"}, "the foil is the response itself"),
        ({"response": "w1", "foil": "w2", "measure": "logit"}, "leave the measure out"),
        ({"generate": 0}, "at least 1 token"),
        ({"generate": True}, "generate is True: give a whole number of tokens"),
        pytest.param(
            {"generate": "5"}, "generate is '5': give a whole number of tokens", marks=pytest.mark.wrong_types
        ),
        pytest.param(
            {"response": "w1", "statement": 5}, "the statement is a int: give it as text", marks=pytest.mark.wrong_types
        ),
        pytest.param(
            {"response": "w1", "foil": 5}, "the foil is a int: give it as text", marks=pytest.mark.wrong_types
        ),
        ({"generate": 200}, "holds 102 more"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Lens(reader("gpt2"), PROMPTS[1], **options)


def test_rows_by_token_need_a_response():
    with pytest.raises(UserError, match="no response was explained"):
        explain(learner(), PROMPT, answers=["dax", "wug"]).response_rows()
    with pytest.raises(UserError, match="there is no response"):
        Lens(learner(), PROMPT).response_influence()
