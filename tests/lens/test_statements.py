"""A response's statements: every token counts to one, so that they sum to the response, each with its own sources."""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cache

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, reader, tokenizer
from tests.lens.test_responses import RESPONSE, a_lens, log_probabilities
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.zoo import build

from iclens.errors import UserError
from iclens.lens.explaining import explain
from iclens.lens.explanation import Explanation
from iclens.lens.lens import Lens
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt import Prompt, tokenize
from iclens.lens.prompt.pieces import pieces
from iclens.lens.read.response import read_response
from iclens.lens.read.statements import statements


@cache
def strict(name):
    """A model that computes in float64 throughout."""
    return LensModel.wrap(build(name, torch.float64, throughout=True), tokenizer(), name)


def strictly(name, **options):
    return Lens(strict(name), PROMPTS[1], response=RESPONSE, **options)


def holds(found):
    """Whether the checks hold, but for one whose probe is of another type where a model has no float32."""
    return all(one.holds for one in found.residuals if one.key != "weighted")


SAID = ["w5 w6 is w7 .", "w8 w9"]
DOCUMENTS = {"documents": ["w1 is w2 .\nw3 is w4 .", "w5 is w6 .\nw7 is w8 .\nw9 is w1 ."], "question": "w5 is"}


@pytest.mark.parametrize("edges", ["later", "query"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen3_moe"])
def test_statements_sum_to_the_response_by_the_matrix_and_without_it(name, edges):
    found, alone = (strictly(name).explanation(["influence"], edges=edges, matrix=matrix) for matrix in (True, False))
    assert holds(found)
    assert holds(alone)
    assert [RESPONSE[one.start : one.end] for one in found.response.statements] == SAID
    influence = torch.tensor([one.scores["influence"] for one in found.sources], dtype=torch.float64)
    for one in (found, alone):
        rows = torch.tensor([part.influence for part in one.response.statements], dtype=torch.float64)
        size = rows.abs().max()
        torch.testing.assert_close(rows.sum(0) / size, influence / size, rtol=0, atol=1e-9)
        assert sum(part.log_probability for part in one.response.statements) == pytest.approx(one.margin, rel=1e-12)
    for mine, theirs in zip(found.response.statements, alone.response.statements, strict=True):
        assert mine.influence == pytest.approx(theirs.influence, rel=1e-8, abs=1e-10 * float(size))
    assert alone.response.influence == ()
    with pytest.raises(UserError, match="with its matrix"):
        alone.response_rows()


def test_a_statement_has_the_influence_that_it_has_as_the_part_that_is_read():
    found = a_lens().explanation(["influence"])
    assert found.influence_at.weight == 0.5
    for statement, said in zip(found.response.statements, SAID, strict=True):
        lens = a_lens(statement=said)
        alone = lens.by_demonstration(lens.influence(0.5).by_token)
        assert statement.influence == pytest.approx(alone.tolist(), rel=1e-9, abs=1e-12)
        assert statement.log_probability == pytest.approx(lens.answer.margin, rel=1e-12)


def test_each_is_cited_with_what_it_rests_on_and_what_it_loses_without_sources(tmp_path):
    found = a_lens().explanation(["influence"], grounding=True)
    cited = found.citations()
    assert [one["statement"] for one in cited] == SAID
    then = found.grounding.log_probabilities
    assert sum(then) == pytest.approx(found.grounding.log_probability, rel=1e-12)
    query = PROMPTS[1].without(range(len(PROMPTS[1].sources))).text
    assert then == pytest.approx(log_probabilities("gpt2", query, RESPONSE).tolist(), rel=1e-10)
    for one, statement in zip(cited, found.response.statements, strict=True):
        assert RESPONSE[one["start"] : one["end"]] == one["statement"]
        gain = one["log_probability"] - sum(then[statement.first : statement.last])
        assert one["context_share"] == pytest.approx(max(0.0, 1 - math.exp(-gain)), rel=1e-9)
        by_name = {effect.name: statement.influence[effect.index] for effect in found.sources}
        support = sum(max(0.0, score) for score in by_name.values())
        scores = [source["score"] for source in one["sources"]]
        assert scores == sorted((by_name[source["name"]] for source in one["sources"]), reverse=True)
        assert sum(scores) >= 2 / 3 * support > sum(scores[:-1])
        assert all(by_name[source["name"]] < 0 for source in one["opposed_by"])
    found.save(tmp_path / "o.json")
    again = Explanation.load(tmp_path / "o.json")
    assert again.citations() == cited
    assert again == dataclasses.replace(found, lens=None)


def test_what_is_one_statement_has_one_entry():
    (cited,) = a_lens(response="w5 w6").explanation(["influence"]).citations()
    assert (cited["statement"], cited["start"], cited["end"]) == ("w5 w6", 0, 5)
    (part,) = a_lens(statement="w8 w9").explanation(["influence"]).citations()
    assert RESPONSE[part["start"] : part["end"]] == part["statement"] == "w8 w9"
    for how in ({"measure": "logit"}, {"foil": "w5 w1"}):
        assert len(a_lens(**how).explanation(["influence"]).citations()) == 1
    assert len(a_lens().explanation(["gradient_step", "influence"]).citations()) == 1
    assert len(a_lens().explanation(["gradient_step", "influence"]).citations("influence")) == 2
    (answer,) = Lens(reader("gpt2"), PROMPTS[1], answers=["w5", "w6"]).explanation(["influence"]).citations()
    assert (answer["start"], answer["end"]) == (None, None)


def test_pieces_of_the_sources_are_had_for_every_statement():
    asked = DOCUMENTS | {"template": "{text}\n\n{question}"}
    found = explain(reader("gpt2"), asked, response=RESPONSE, within="lines", scores=["influence"])
    assert found.exact
    rows = found.response.statements
    for effect in found.sources:
        assert len(effect.pieces) == 2 + effect.index
        for statement in rows:
            own = statement.pieces[effect.index]
            assert sum(own) == pytest.approx(statement.influence[effect.index], rel=1e-9, abs=1e-12)
        for piece in effect.pieces:
            together = sum(statement.pieces[effect.index][piece.index] for statement in rows)
            assert together == pytest.approx(piece.scores["influence"], rel=1e-8, abs=1e-10)
    for entry, statement in zip(found.citations(), rows, strict=True):
        for source in entry["sources"]:
            (effect,) = (one for one in found.sources if one.name == source["name"])
            assert source["pieces"]
            for piece in source["pieces"]:
                assert piece["score"] == statement.pieces[effect.index][piece["index"]]


@pytest.mark.parametrize(
    "text",
    ["It is 🙂. So 🙂 it is!", "A.B.C. d", "Hm . . . . No .", "One.\nTwo.\n\nThree.", "  leading. trailing.  ", "🙂",
     "She said: «Nein.» He left…  Then\u200b what?", "the cat\nthe dog\n"],
)  # fmt: skip
def test_every_token_counts_to_one_statement_and_every_visible_character_is_in_one(text):
    words = byte_level()
    response = read_response(text, tokenize(Prompt.from_text("the cat\n\na dog"), words), words)
    found = statements(response)
    assert [one.first for one in found] == [0, *(one.last for one in found[:-1])]
    assert found[-1].last == len(response.tokens)
    assert all(one.first < one.last and text[one.start : one.end].strip() for one in found)
    inside = "".join(text[one.start : one.end] for one in found)
    assert "".join(inside.split()) == "".join(text.split())
    starts = {start for start, _ in pieces(text, "sentences")}
    assert {one.start for one in found} <= starts


def test_a_character_of_several_tokens_is_read_with_all_of_them():
    words = byte_level()
    response = read_response("a 🙂 b", tokenize(Prompt.from_text("the cat\n\na dog"), words), words)
    part = response.stated("🙂")
    assert part.last - part.first >= 4
    assert "".join(response.tokens[part.last :]).strip() == "b"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_a_foil_in_the_place_of_a_statement_follows_the_same_words(name):
    lens = strictly(name, statement="w7 .", foil="w1 w2 .")
    own = log_probabilities(name, PROMPTS[1].text, RESPONSE, strict(name))[3:5].sum()
    other = log_probabilities(name, PROMPTS[1].text, "w5 w6 is w1 w2 .", strict(name))[3:].sum()
    assert lens.answer.margin == pytest.approx(float(own - other), rel=1e-12)
    found = lens.explanation(["influence", "gradient_step", "path", "knock_out"], grounding=True)
    assert holds(found)
    assert (found.response.statement, found.response.foil) == ("w7 .", "w1 w2 .")
    weights = torch.full((lens.n_demonstrations,), 0.5, dtype=torch.float64)
    influence, step = lens.by_demonstration(lens.influence(0.5).by_token), 1e-5
    up, down = (weights + torch.eye(len(weights), dtype=torch.float64)[0] * s for s in (step, -step))
    change = lens.influence(up.tolist()).margin - lens.influence(down.tolist()).margin
    assert float(influence[0]) == pytest.approx(float(change) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statement": "w7 .", "foil": "w7 ."}, "the foil is the statement itself"),
        ({"statement": "w7 .", "foil": " "}, "the foil is empty"),
        ({"statement": "w7 .", "foil": "w1", "measure": "logit"}, "leave the measure out"),
        ({"foil": " "}, "the foil is empty"),
        ({"foil": "xyz"}, "the foil 'xyz' has no token"),
    ],
)
def test_foils_that_say_nothing_are_refused_in_a_sentence(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        a_lens(**options)


def test_what_the_matrix_costs_is_said_before_it_is_computed():
    said: list[str] = []
    found = a_lens(progress=said.append).explanation(["influence"])
    (stage,) = (one for one in said if one.startswith("influence on every token"))
    assert re.fullmatch(r"influence on every token: about \d+ passes", stage)
    assert "influence on every token" in found.cost.seconds


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe"])
def test_norms_that_go_through_single_precision_leave_the_matrix_exact_to_that(name):
    found = a_lens(name).explanation(["influence"])
    (check,) = (one for one in found.residuals if one.key == "response")
    assert check.value <= check.tolerance == 1e-5
    assert found.exact
