"""The first position of a text is a part of its own: no cut and no weight of a demonstration contains it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.word_learner import PROMPT, learner
from transformers import GPT2Config, GPT2LMHeadModel

import iclens
from iclens import UserError
from iclens.lens import Lens, LensModel
from iclens.lens.facts import Token
from iclens.lens.remarks import about_the_first_token

TEXT = "red is colour\n\ndog is animal\n\none is"
SCORES = ("gradient_step", "path", "knock_out", "attention_weights", "gradient_x_input")


@cache
def model() -> LensModel:
    """A tiny model whose tokenizer puts no token first."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4, n_positions=128, initializer_range=0.3)
    return LensModel.wrap(GPT2LMHeadModel(config).double().eval(), byte_level(), "untrained")


@cache
def found() -> iclens.Explanation:
    return iclens.explain(model(), TEXT, answers=["animal", "colour"], scores=SCORES, rerun_text=True)


def margin_without(keys: list[int]) -> float:
    """The margin when the query's tokens do not see some keys, by transformers' own attention mask."""
    lens = found().lens
    n, start = len(lens.input_ids), lens.query_start
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen[start:, keys] = False
    mask = torch.zeros(n, n, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    with torch.no_grad():
        logits = model().model(input_ids=lens.input_ids[None], attention_mask=mask[None, None]).logits
    return float(lens.readouts.margin(logits[:, lens.readouts.positions[0]])[0])


def test_the_knock_out_is_the_models_own_with_the_first_position_kept():
    lens = found().lens
    own = [i for i, part in enumerate(lens.groups.tolist()) if part == 0]
    assert own[0] == 1
    assert found().sources[0].knock_out.margin == pytest.approx(margin_without(own), abs=1e-10)
    # To cut it as well is another number: the one that measures the sink.
    assert abs(margin_without([0, *own]) - margin_without(own)) > 1e-3
    both = lens.knock_out([(0, 1)]).margins[0]
    everything = [i for i, part in enumerate(lens.groups.tolist()) if part >= 0]
    assert float(both) == pytest.approx(margin_without(everything), abs=1e-10)


def test_every_token_is_in_one_part_and_the_parts_sum_to_the_margin():
    first, *tokens = found().tokens
    assert (first.role, first.part) == ("first", None)
    assert all(token.role != "first" for token in tokens)
    part = found().others[0]
    assert (part.name, part.gradient_step, part.path) == ("first", first.gradient_step, first.path)
    total = sum(effect.path for effect in found().sources) + sum(one.path for one in found().others)
    assert total == pytest.approx(found().margin, rel=1e-9)
    assert found().sources[0].n_tokens == sum(token.part == 0 for token in tokens)
    for effect in found().sources:
        assert effect.gradient_step == pytest.approx(
            sum(token.gradient_step for token in tokens if token.part == effect.index)
        )


def test_no_weight_contains_it():
    lens = found().lens
    weights = torch.stack([layer.weights[0].sum((0, 1)) for layer in lens.traced.layers]).sum(0)
    scores = lens.score("attention_weights").values
    outside = weights[lens.groups < 0]
    assert float(scores.sum() + outside.sum()) == pytest.approx(float(weights.sum()))
    assert float(scores[0]) == pytest.approx(float(weights[1 : int((lens.groups == 0).nonzero()[-1]) + 1].sum()))
    assert float(lens.head(0, 0).groups.ids[0]) == -1


def test_every_view_has_it():
    row = found().to_rows()[0]
    part, *others = found().others
    assert (row["first_token_gradient_step"], row["first_token_path"]) == (part.gradient_step, part.path)
    assert row["other_path"] == pytest.approx(sum(one.path for one in others))
    assert "first token (attention sink)" in str(found())
    assert found().to_dict()["others"][0]["name"] == "first"


def test_deleting_text_deletes_it_too():
    changed = found().sources[0].rerun_margin_change
    shorter = Lens(model(), "dog is animal\n\none is", readout=found().lens.readout)
    assert found().margin - shorter.answer.margin == pytest.approx(changed, abs=1e-10)


def test_where_a_token_stands_before_the_text_scores_are_those_of_the_whole_demonstration():
    """A beginning-of-text token is in no demonstration anyway."""
    lens = Lens(learner(), PROMPT, answers=["dax", "wug"])
    assert lens.tokenized.texts[0] == "<s>"
    n_words = [len(span.of(lens.prompt.text).split()) for span in lens.prompt.demonstrations]
    assert [int((lens.groups == i).sum()) for i in range(len(n_words))] == n_words


def test_a_note_where_it_takes_much_attention():
    token = Token("2", None, "first", 0.0, 0.0)
    (note,) = about_the_first_token(token, 0.469)
    assert "'2', takes 46.9 % of the last token's attention" in note
    assert about_the_first_token(token, 0.1) == ()
    assert about_the_first_token(Token("2", 0, "query", 0.0, 0.0), 0.9) == ()


def test_an_answer_that_the_model_would_not_give_is_said():
    notes = iclens.explain(model(), TEXT, answers=["zz", "qq"], scores=["gradient_step"]).notes
    assert any(
        "The model would say" in note and "none of the candidates: the likeliest of them" in note for note in notes
    )
    assert not any("The model would say" in note for note in iclens.explain(model(), TEXT).notes)
    assert any("not 'zz', which has" in note for note in iclens.explain(model(), TEXT, answer="zz").notes)


def test_an_answer_that_differs_in_white_space_alone_is_said():
    (likeliest, *_) = iclens.explain(model(), TEXT, scores=["gradient_step"]).next_tokens
    answers = ["\n" + likeliest.text.strip(), "zz"]
    notes = iclens.explain(model(), TEXT, answers=answers, scores=["gradient_step"]).notes
    assert any("differ in white space alone" in note and repr(answers[0]) in note for note in notes)


def test_a_margin_against_the_whole_answers_is_said():
    """Of many answers of two tokens, some are the likelier as a whole though not at their first token."""
    said = []
    for first, second in zip("bcdfgh", "klmnpq", strict=True):
        one = iclens.explain(model(), TEXT, answers=[first * 2 + "\n", second * 3 + "\n"], scores=["gradient_step"])
        against = any("As a whole" in note for note in one.notes)
        assert against == (one.margin < 0)
        said.append(against)
    assert any(said)


def test_how_a_prompt_is_written_goes_by_keyword():
    lines = TEXT.replace("\n\n", ";")
    asked = {"answers": ["animal", "colour"], "scores": ["gradient_step"]}
    one = iclens.explain(model(), lines, separator=";", **asked)
    (many,) = iclens.explain_many(model(), [lines], separator=";", **asked)
    (said,) = iclens.explain_many(model(), [{"prompt": lines, "separator": ";"}], separator="#", **asked)
    lens = Lens(model(), lines, separator=";", answers=["animal", "colour"])
    assert one.prompt == many.prompt == said.prompt == lens.prompt.text == lines
    assert [effect.text for effect in one.sources] == ["red is colour", "dog is animal"]
    with pytest.raises(UserError, match="is a Prompt already"):
        iclens.explain(model(), lens.prompt, separator=";")
    with pytest.raises(UserError, match="system_in_user is for chats"):
        iclens.explain(model(), TEXT, system_in_user=True)
    # A default of many prompts is for those that it fits.
    (plain,) = iclens.explain_many(model(), [TEXT], system_in_user=True, template_args={"a": 1}, **asked)
    assert len(plain.sources) == 2
