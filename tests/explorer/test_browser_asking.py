"""Asking on the page: a response that is written or generated, a part of it, and the ways to split a prompt."""

import json

import pytest
from tests.explorer.browsing import MARKS, link, number, says, scores, serious, unfold, visits
from tests.explorer.browsing import SHORT as PROMPT
from tests.explorer.test_browser_response import ASKED, HOSTILE, RESPONSE, tokens

from iclens.explorer.ask import Ask

pytestmark = MARKS

SCORES = {"scores": ["influence", "gradient_step"]}
SHORT = {**PROMPT, **SCORES}
DOCUMENTS = Ask.read({**ASKED, **SCORES, "response": RESPONSE, "within": "lines"}).to_document() | SCORES


@pytest.fixture
def visit(browser, served):
    with visits(browser, served.address, "body.settled") as opened:
        yield opened


def settled(page):
    page.wait_for_selector("body.answered.settled:not(.waiting)")


def expected(served, asked):
    status, whole = served.ask("explain", {**asked, **SCORES})
    assert status == 200
    return pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-4, abs=6e-4)


def test_a_response_takes_the_place_of_the_answers_and_gives_it_back(visit, served):
    page = visit(served.address + link(SHORT))
    answered = scores(page)
    assert page.locator("#response-section").is_hidden()
    page.locator("input[value=response]").check(force=True)
    assert page.locator("#answers").is_hidden()
    # Until there is one, the answer stays explained.
    assert scores(page) == answered
    with page.expect_response("**/api/explain"):
        page.locator("#response-text").fill(RESPONSE)
    settled(page)
    asked = {**SHORT, "answers": [], "response": RESPONSE}
    assert scores(page) == expected(served, asked)
    assert tokens(page).count() == len(RESPONSE.split())
    assert "is its log-probability" in page.locator("#margin").inner_text()
    assert f"--response '{RESPONSE}'" in page.locator("#command").text_content()
    # A part of it, by its tokens.
    tokens(page).nth(4).click()
    with page.expect_response("**/api/explain"):
        page.get_by_role("button", name="Explain this part alone").click()
    settled(page)
    page.mouse.move(1, 1)
    assert scores(page) == expected(served, {**asked, "statement": "nef"})
    assert page.locator("#response .unread").count() == len(RESPONSE.split()) - 1
    other = visit(page.evaluate("location.href"))
    assert scores(other) == scores(page)
    assert other.locator("#response-text").input_value() == RESPONSE
    with page.expect_response("**/api/explain"):
        page.get_by_role("button", name="Explain all of it").click()
    settled(page)
    assert scores(page) == expected(served, asked)
    unfold(page)
    with page.expect_response("**/api/explain"):
        page.locator("#foil").fill("nef .")
    settled(page)
    assert scores(page) == expected(served, {**asked, "foil": "nef ."})
    assert "is its log-probability difference" in page.locator("#margin").inner_text()
    with page.expect_response("**/api/explain"):
        page.locator("input[value=answer]").check(force=True)
    settled(page)
    assert scores(page) == answered
    assert page.locator("#response-section").is_hidden()


def test_the_model_writes_a_response(visit, served):
    page = visit(served.address + link(SHORT))
    page.locator("input[value=response]").check(force=True)
    unfold(page)
    page.locator("#n-written").fill("5")
    with page.expect_response("**/api/explain"):
        page.get_by_role("button", name="Let the model write one").click()
    settled(page)
    _, told = served.ask("write", {**SHORT, "answers": [], "generate": 5})
    assert page.locator("#response-text").input_value() == told["response"]
    assert tokens(page).count() == 5
    assert page.locator("#written").inner_text() == ""


def test_a_response_that_cannot_be_explained_is_told_and_taken_back(visit, served):
    page = visit(served.address + link({**DOCUMENTS, "within": None}))
    known = scores(page)
    page.route("**/api/write", lambda route: route.fulfill(status=422, json={"error": "No room for it."}))
    page.get_by_role("button", name="Let the model write one").click()
    says(page, "#asking-problem", "No room for it.")
    assert (page.locator("#problem").is_hidden(), scores(page)) == (True, known)
    page.locator("#response-text").fill("x" * 9)
    says(page, "#problem", "has no token that the tokenizer knows")
    page.get_by_role("button", name="Take back the edit").click()
    page.locator("#problem").wait_for(state="hidden")
    settled(page)
    assert scores(page) == known
    assert page.locator("#response-text").input_value() == RESPONSE


def test_a_prompt_is_split_in_another_way_and_its_sources_are_named(visit, served):
    page = visit(served.address + link(SHORT))
    known = page.locator(".demonstration textarea").evaluate_all("all => all.map((one) => one.value)")
    unfold(page)
    with page.expect_response("**/api/explain"):
        page.locator("#split").select_option("lines")
    settled(page)
    text = "\n\n".join([*SHORT["demonstrations"], SHORT["query"]])
    assert scores(page) == expected(served, {"text": text, "split": "lines", "answers": SHORT["answers"]})
    assert page.locator(".source-head b").all_inner_texts() == ["line 0", "line 1", "line 2"]
    assert page.locator("#demonstrations textarea").count() == 0
    assert page.locator("#add").is_hidden()
    page.locator(".source input[type=checkbox]").nth(1).uncheck()
    page.wait_for_selector("#without:not([hidden])")
    assert page.locator("#without-title").inner_text() == "Without line 1"
    assert page.locator("#without-rows th").first.inner_text() == "with all lines"
    other = visit(page.evaluate("location.href"))
    assert other.locator(".source-head b").all_inner_texts() == ["line 0", "line 1", "line 2"]
    with page.expect_response("**/api/explain"):
        page.locator("#split").select_option("")
    settled(page)
    assert page.locator(".demonstration textarea").evaluate_all("all => all.map((one) => one.value)") == known


def test_documents_keep_their_names_while_their_question_is_edited(visit, served):
    page = visit(served.address + link(DOCUMENTS))
    asked = {**ASKED, "response": RESPONSE, "within": "lines"}
    assert scores(page) == expected(served, asked)
    assert page.locator("#query-name").inner_text() == "Question"
    assert page.locator(".pieces li").count() == 7
    with page.expect_response("**/api/explain"):
        page.locator("#query").fill("tiger is")
    settled(page)
    assert scores(page) == expected(served, {**asked, "question": "tiger is"})
    assert page.locator(".source-head b").all_inner_texts() == ["document animals", "document fruit", "document tools"]
    # Sources that are off are left out, whatever is explained.
    page.locator(".source input[type=checkbox]").nth(2).uncheck()
    page.wait_for_selector("#without:not([hidden])")
    _, seen = served.ask("glance", {**asked, "question": "tiger is", "off": [2]})
    shown = [number(row.locator("td").first.inner_text()) for row in page.locator("#without-rows tr").all()]
    without = seen["without"]
    assert shown == pytest.approx(
        [seen["margin"], without["estimated"]["margin"], without["measured"]["margin"]], abs=6e-3
    )


def test_a_prompt_is_taken_as_json_as_it_stands_in_a_file(visit, served):
    page = visit(served.address + link(SHORT))
    page.get_by_text("Instruction, or another prompt").click()
    with page.expect_response("**/api/explain"):
        page.locator("#whole").fill(json.dumps({**ASKED, "split": "lines"}))
        page.get_by_role("button", name="Use this prompt").click()
    settled(page)
    assert scores(page) == expected(served, {**ASKED, "split": "lines"})
    assert page.locator(".source-head b").first.inner_text() == "document animals, line 0"
    page.locator("#whole").fill('{"documents": []}')
    page.get_by_role("button", name="Use this prompt").click()
    says(page, "#asking-problem", "documents")
    assert page.locator(".source-head").count() == 8
    assert serious(page) == []


def test_hostile_documents_and_responses_do_nothing(visit, served, tmp_path):
    documents = [{"id": HOSTILE, "text": f"cat is vux .\n{HOSTILE}\n" * 3}, {"id": "b", "text": "plum is nef ."}]
    asked = Ask.read({**ASKED, "documents": documents, "response": f"vux {HOSTILE} nef"}).to_document()
    page = visit(served.address + link(asked))
    page.locator(".source-head").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the page").click()
    download.value.save_as(tmp_path / "page.html")
    for one in (page, visit((tmp_path / "page.html").as_uri())):
        assert one.locator("main img, main script").count() == 0
        shown = one.locator("main").inner_text()
        assert "<script>alert(2)</script>" in shown
        assert "\u202e" not in shown
        tokens(one).first.hover()
        assert len(set(scores(one))) > 1
