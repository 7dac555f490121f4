"""Documents and their sentences: cut and deleted as the model itself does it, cited, and the answer grounded or not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import byte_level, with_chat
from tests.lens.word_learner import learner
from transformers import GPT2Config, GPT2LMHeadModel

import iclens
from iclens import Explanation, UserError
from iclens.display_text import percent
from iclens.lens import Lens, LensModel, Prompt

TEMPLATE = "{text}\n\n{question}"
DOCUMENTS = [
    {"id": "farm", "text": "dog is dax .\noak is wug ."},
    {"id": "garden", "text": "rose is fep .\nelm is wug .\ncat is dax ."},
    {"id": "river", "text": "tuna is mib ."},
]
ASKED = {"documents": DOCUMENTS, "question": "cow is", "template": TEMPLATE}
ANSWERS = ["dax", "wug", "fep"]


def explained(document=ASKED, **options) -> Explanation:
    return iclens.explain(learner(), document, **{"answers": ANSWERS, "scores": ["influence", "path"]} | options)


@cache
def whole() -> Explanation:
    return explained(scores=["influence", "shares", "knock_out", "rerun"], within="lines", budget=3)


@cache
def plain_model() -> LensModel:
    """A tiny model of bytes, whose tokenizer puts no token first."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=400, n_embd=32, n_layer=3, n_head=4, n_positions=256, initializer_range=0.3)
    return LensModel.wrap(GPT2LMHeadModel(config).double().eval(), byte_level(), "untrained")


def own_margin(lens: Lens, cut: list[int], groups: list[int]) -> float:
    """The margin in transformers' own attention when no later token sees the tokens of some sources.

    Tokens see each other within their source.
    """
    own = torch.tensor(groups)
    n = len(own)
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    for source in cut:
        seen &= ~(own == source)[None] | (own == source)[:, None]
    mask = torch.zeros(n, n, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    with torch.no_grad():
        logits = lens.model.model(input_ids=lens.input_ids[None], attention_mask=mask[None, None]).logits
    return float(lens.readouts.margin(logits[:, lens.readouts.positions[0]])[0])


@settings(max_examples=12)
@given(st.data())
def test_a_source_cut_from_all_later_tokens_is_the_models_own_run_with_that_mask(data):
    text = "Read: dog is a cat. The red one sat; a film was dull and long. Output"
    ends = sorted(data.draw(st.sets(st.integers(0, len(text) - 6), min_size=4, max_size=8)))
    spans = [pair for pair in zip(ends[::2], ends[1::2], strict=False) if text[slice(*pair)].strip()]
    try:
        lens = Lens(plain_model(), Prompt.from_spans(text, spans), answers=["animal", "colour"])
    except UserError:
        return  # a span without a token of its own
    groups = lens.groups.tolist()
    assert groups[0] == -1
    alone = [[i] for i in range(len(spans))]
    sets = [*alone, list(range(len(spans)))]
    found = lens.knock_out(sets, query_only=False).margins.tolist()
    assert found == pytest.approx([own_margin(lens, one, groups) for one in sets], abs=1e-10)


def test_scores_of_documents_are_those_of_the_same_text_marked_by_hand():
    prompt = whole().lens.prompt
    marked = Prompt.from_spans(prompt.text, [(one.start, one.end) for one in prompt.sources])
    again = iclens.explain(learner(), marked, answers=ANSWERS, scores=["influence", "shares", "knock_out"])
    for mine, theirs in zip(whole().sources, again.sources, strict=True):
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-12)
        assert mine.knock_out.margin == pytest.approx(theirs.knock_out.margin, abs=1e-12)


def test_sources_are_knocked_out_by_number_or_by_name():
    by_name = explained(knock_out=[("river", "document farm"), ("garden",)]).group_knock_outs
    by_number = explained(knock_out=[(2, 0), ("1",)]).group_knock_outs
    assert by_name == by_number
    assert [one.demonstrations for one in by_name] == [(0, 2), (1,)]
    for group, said in [
        (("sea",), "no document of that name"),
        ((3,), "cannot knock out document 3"),
        ((), "is empty"),
    ]:
        with pytest.raises(UserError, match=said):
            explained(knock_out=[group])


def test_new_names_change_no_number():
    renamed = [{"id": f"other-{i}", "text": one["text"]} for i, one in enumerate(DOCUMENTS)]
    one, other = explained(), explained(ASKED | {"documents": renamed})
    assert [effect.name for effect in other.sources] == [f"document other-{i}" for i in range(3)]
    assert [effect.scores for effect in one.sources] == [effect.scores for effect in other.sources]
    assert one.margin == other.margin


def test_text_removed_is_the_prompt_written_without_the_document():
    for i, effect in enumerate(whole().sources):
        rest = [one for k, one in enumerate(DOCUMENTS) if k != i]
        shorter = Lens(learner(), ASKED | {"documents": rest}, answers=ANSWERS, readout=whole().lens.readout)
        assert effect.rerun_margin_change == pytest.approx(whole().margin - shorter.answer.margin, abs=1e-12)


def test_the_pieces_of_a_source_sum_to_it():
    found = explained(scores=["influence", "path", "gradient_step"], within="lines")
    for effect in found.sources:
        assert "\n".join(piece.text for piece in effect.pieces) == effect.text
        for name in found.scores:
            assert sum(piece.scores[name] for piece in effect.pieces) == pytest.approx(effect.score(name), abs=1e-12)


def test_tokens_across_two_pieces_and_between_them_count_once():
    text = "One cat.Two cats. \nThree dogs sat\nAsk"
    prompt = Prompt.from_spans(text, [(0, 33)])
    found = iclens.explain(plain_model(), prompt, answers=["animal", "colour"], scores=["path"], within="lines")
    (effect,) = found.sources
    assert [piece.text for piece in effect.pieces] == ["One cat.Two cats.", "Three dogs sat"]
    assert sum(piece.scores["path"] for piece in effect.pieces) == pytest.approx(effect.path, abs=1e-12)


def test_of_a_long_response_the_mean_probability_of_a_token_is_told():
    found = iclens.explain(learner(), ASKED, response="dax wug dax", scores=["influence"])
    before, now = (math.exp(one / 3) for one in (found.grounding.log_probability, found.answer_log_probability))
    told = f"would have {percent(before)} instead of {percent(now)} a token, in the geometric mean."
    assert sum(one.endswith(told) for one in found.conclusion) == 1


@pytest.mark.parametrize("how", [{}, {"measure": "logit"}, {"foil": "wug"}])
def test_grounding_of_a_response_is_what_deleting_every_document_leaves(how):
    found = iclens.explain(learner(), ASKED, response="dax", scores=["influence"], **how)
    without = found.lens.rerun([range(len(DOCUMENTS))])
    assert found.grounding.margin == pytest.approx(float(without.margins), abs=1e-10)
    assert found.grounding.log_probability == pytest.approx(float(without.log_probabilities), abs=1e-10)


def test_the_budget_goes_to_real_deletions_from_the_strongest_on():
    lens = explained().lens
    finer = lens.prompt.within("lines")
    first = [0, 2, 5]
    passes = {}
    for budget in range(8):
        found = explained(within="lines", budget=budget)
        passes[budget] = found.cost.forward_passes
        confirmed = [one for one in found.sources if one.rerun_margin_change is not None]
        pieces = [
            (one, piece) for one in found.sources for piece in one.pieces if piece.rerun_margin_change is not None
        ]
        # The river is one line, whose deletion is that of the document.
        alone = [one for one in confirmed if len(one.pieces) == 1]
        assert len(confirmed) + len(pieces) - len(alone) == budget
        assert {one.index for one, _ in pieces} <= {one.index for one in confirmed}
        strongest = sorted(found.sources, key=lambda one: -abs(one.score("influence")))
        assert {one.index for one in confirmed} == {one.index for one in strongest[: len(confirmed)]}
        for one, piece in pieces:
            text = (
                lens.prompt.without([one.index])
                if len(one.pieces) == 1
                else finer.without([first[one.index] + piece.index])
            )
            own = Lens(learner(), text, answers=ANSWERS, readout=lens.readout).answer.margin
            assert piece.rerun_margin_change == pytest.approx(found.margin - own, abs=1e-12)
    # A shorter text is less than a pass, and what texts begin with alike is read once.
    assert 0 < passes[7] - passes[0] <= 7


def test_sources_deleted_anyway_leave_the_budget_to_the_pieces():
    pieces = [piece for effect in whole().sources[:2] for piece in effect.pieces]
    assert sum(piece.rerun_margin_change is not None for piece in pieces) == 3
    without = explained(scores=["influence"], budget=2)
    assert sum(effect.rerun_margin_change is not None for effect in without.sources) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": ["knock_out"], "within": "lines"}, "additive scores alone"),
        ({"within": "lines", "budget": -1}, "the budget is -1"),
        ({"within": "words"}, "split is 'words'"),
    ],
)
def test_what_cannot_be_explored_gets_one_sentence(options, said):
    with pytest.raises(UserError, match=said):
        explained(**options)


def test_grounding_is_what_the_model_says_to_the_question_alone():
    told = whole().grounding
    alone = Prompt.from_spans("x cow is", [(0, 1)]).without([0])
    assert alone.text == "cow is"
    lens = Lens(learner(), alone, answers=ANSWERS, readout=whole().lens.readout)
    assert told.margin == pytest.approx(lens.answer.margin, abs=1e-12)
    assert told.gain == pytest.approx(whole().answer_log_probability - told.log_probability, abs=1e-12)
    likeliest = max(lens.answer.candidates, key=lambda one: one.log_probability)
    assert (told.answer, told.probability) == (likeliest.text, pytest.approx(likeliest.probability))
    log_p = next(one.log_probability for one in lens.answer.candidates if one.text == whole().answer)
    assert told.log_probability == pytest.approx(log_p, abs=1e-10)
    said = f"Without the text of any document the model would say '{told.answer}'"
    assert sum(one.startswith(said) for one in whole().conclusion) == 1


def test_the_share_of_the_context_is_the_probability_that_is_lost_without_it():
    told = whole().grounding
    lost = 1 - math.exp(told.log_probability) / math.exp(whole().answer_log_probability)
    assert told.share == pytest.approx(max(lost, 0.0), abs=1e-12)
    assert replace(told, gain=-1.0).share == 0.0
    for gain, said in [(-0.1, "does not rest"), (0.1, "hardly rests"), (0.7, "rests in part"), (3.0, "is grounded in")]:
        found = replace(whole(), grounding=replace(told, gain=gain))
        assert f"The answer {said}" in found.conclusion[0]
        # Where it does not rest on them, none is said to carry it.
        assert any("The answer rests on document" in one for one in found.conclusion) == (gain >= 0.7)


def test_without_candidates_the_likeliest_token_is_what_the_model_says():
    found = explained(answers=None)
    alone = learner().model(input_ids=learner().tokenizer("cow is", return_tensors="pt")["input_ids"]).logits[0, -1]
    assert found.grounding.answer == learner().tokenizer.decode([int(alone.argmax())])
    assert explained(answers=None, grounding=False).grounding is None
    assert iclens.explain(learner(), "dog is dax .\n\ncow is", grounding=True).grounding is not None
    assert iclens.explain(learner(), "dog is dax .\n\ncow is").grounding is None


def test_citations_are_the_fewest_that_carry_the_answer(tmp_path):
    (cited,) = whole().citations()
    scores = {effect.name: effect.score("influence") for effect in whole().sources}
    support = sum(max(0.0, score) for score in scores.values())
    reached = sum(one["score"] for one in cited["sources"])
    assert cited["statement"] == whole().answer
    assert reached >= 2 / 3 * support
    assert reached - cited["sources"][-1]["score"] < 2 / 3 * support
    assert all(one["score"] == scores[one["name"]] < 0.0 for one in cited["opposed_by"])
    for one in cited["sources"]:
        effect = next(effect for effect in whole().sources if effect.id == one["id"])
        assert one["text"] == effect.text
        assert [piece["text"] for piece in one["pieces"]] == [effect.pieces[p["index"]].text for p in one["pieces"]]
    with pytest.raises(UserError, match="was not computed"):
        whole().citations("lasso")
    whole().save(tmp_path / "e.json")
    document = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    assert document["citations"] == json.loads(json.dumps([cited]))
    assert Explanation.load(tmp_path / "e.json") == replace(whole(), lens=None)


def test_what_is_printed_names_the_sources():
    text = str(whole())
    assert "Documents  nats" in text
    assert "document garden, line 1" in text
    assert "emonstration" not in text
    lines = explained(ASKED | {"split": "lines"})
    assert [effect.name for effect in lines.sources][2:4] == ["document garden, line 0", "document garden, line 1"]
    assert "Lines  nats" in str(lines)
    assert "6 lines" in repr(lines)


def test_rows_of_a_data_set_go_in_and_out():
    rows = [ASKED | {"id": "a"}, {"documents": ["dog is dax ."], "question": "cat is", "template": TEMPLATE}]
    found = list(iclens.explain_many(learner(), rows, answers=ANSWERS))
    out = [row for one in found for row in one.to_rows()]
    assert [(row["id"], row["name"]) for row in out] == [
        ("a", "document farm"), ("a", "document garden"), ("a", "document river"), (None, "document 0"),
    ]  # fmt: skip
    one = iclens.explain(learner(), rows[0], answers=ANSWERS)
    assert out[0]["context_share"] == pytest.approx(one.grounding.share, abs=1e-10)
    assert out[0]["answer_without_sources"] == one.grounding.answer
    assert [row["scores"]["influence"] for row in out[:3]] == pytest.approx(
        [effect.score("influence") for effect in one.sources], abs=1e-10
    )


def test_a_data_set_of_the_hub_goes_in_as_it_is():
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list([ASKED, ASKED | {"question": "rose is"}])
    found = list(iclens.explain_many(learner(), made, answers=ANSWERS))
    back = datasets.Dataset.from_list([row for one in found for row in one.to_rows()])
    assert back["name"][:3] == ["document farm", "document garden", "document river"]


def test_the_instruction_and_the_messages_of_a_chat_are_scored_as_any_source():
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    tokenizer = with_chat(template)
    model = LensModel.wrap(plain_model().model, tokenizer, "untrained")
    chat = [{"role": "system", "content": "Sort: animal or colour."}, {"role": "user", "content": "a dog"}]
    chat += [{"role": "assistant", "content": "animal"}, {"role": "user", "content": "red"}]
    found = iclens.explain(model, chat, split="messages", answers=["animal", "colour"], scores=["influence", "path"])
    assert [effect.name for effect in found.sources] == [
        "message 0 (system)",
        "message 1 (user)",
        "message 2 (assistant)",
    ]
    assert found.exact
    scored = iclens.explain(model, chat, score_instruction=True, answers=["animal", "colour"], scores=["influence"])
    assert [effect.name for effect in scored.sources] == ["instruction", "demonstration 0"]
    # Half weight on the system message alone is the same source in either prompt.
    weights = [0.5, 1.0, 1.0]
    lens = Lens(model, chat, split="messages", answers=["animal", "colour"])
    with_pair = Lens(model, chat, score_instruction=True, answers=["animal", "colour"])
    mine = lens.by_demonstration(lens.influence(weights).by_token)[0]
    theirs = with_pair.by_demonstration(with_pair.influence(weights[:2]).by_token)[0]
    assert float(mine) == pytest.approx(float(theirs), abs=1e-10)


def test_a_page_and_a_table_of_documents_can_be_saved(tmp_path):
    for ending in ("html", "parquet"):
        whole().save(tmp_path / f"e.{ending}")
    assert "document garden" in (tmp_path / "e.html").read_text(encoding="utf-8")
