"""The page in a browser: every interaction, by keyboard, on a narrow screen, from a disk, and with hostile prompts."""

import re

import pytest
from tests.explorer.browsing import MARKS, SHORT, link, number, refuse_addresses, says, scores, serious, visits

pytestmark = MARKS


@pytest.fixture
def visit(browser, served):
    with visits(browser, served.address, "body.settled") as opened:
        yield opened


@pytest.fixture
def short(visit, served):
    """A page with a short prompt."""
    return visit(served.address + link(SHORT))


def settled(page):
    # The policy forbids to evaluate strings, also for `wait_for_function`.
    page.wait_for_selector("body.answered.settled:not(.waiting)")


def texts(page):
    return [area.input_value() for area in page.locator(".demonstration textarea").all()]


def test_the_numbers_on_the_page_are_those_of_explain(short, served):
    _, whole = served.ask("explain", SHORT)
    assert short.locator("#answer").inner_text() == whole["answer"]
    assert scores(short) == pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-5, abs=6e-4)
    assert short.locator("#conclusion span").all_inner_texts() == whole["conclusion"] != []
    assert f"All {len(whole['residuals'])} checks" in short.locator("#checks").inner_text()
    short.locator("input[value=gradient_step]").check(force=True)
    assert scores(short) == pytest.approx([one["gradient_step"] for one in whole["sources"]], abs=6e-4)


def test_further_scores_are_computed_when_they_are_asked_for(short, served):
    offered = short.locator("input[name=colour]")
    assert offered.evaluate_all("all => all.map((one) => one.value)") == ["influence", "gradient_step"]
    short.get_by_role("button", name="more").click()
    settled(short)
    assert short.locator("#more").is_hidden()
    every = ["influence", "gradient_step", "path", "knock_out"]
    assert offered.evaluate_all("all => all.map((one) => one.value)") == every
    _, whole = served.ask("explain", {**SHORT, "scores": every})
    assert f"All {len(whole['residuals'])} checks" in short.locator("#checks").inner_text()
    short.locator("input[value=knock_out]").check(force=True)
    changes = [one["knock_out"]["margin_change"] for one in whole["sources"]]
    assert scores(short) == pytest.approx(changes, abs=6e-4)
    assert "--scores influence gradient_step path knock_out" in short.locator("#command").text_content()


def test_sources_are_ordered_as_iclens_explain_does_when_it_is_asked_for(short, served, visit):
    assert "by influence" in short.locator("#conclusion").inner_text()
    short.get_by_role("button", name="refine").click()
    settled(short)
    _, seen = served.ask("glance", SHORT)
    _, whole = served.ask("explain", {**SHORT, "scores": [seen["refined"], "influence", "gradient_step"]})
    assert scores(short) == pytest.approx([one["scores"][seen["refined"]] for one in whole["sources"]], abs=6e-4)
    assert short.locator("#conclusion span").all_inner_texts() == whole["conclusion"]
    assert short.locator("input[name=colour]").first.get_attribute("value") == seen["refined"]
    assert short.locator("#refine").is_hidden()
    # A link opens in the same order.
    assert scores(visit(short.evaluate("location.href"))) == scores(short)


def test_while_the_explanation_is_on_its_way_nothing_of_another_score_or_prompt_is_shown(visit, served):
    page = visit(served.address + link(SHORT))
    known = page.locator("#conclusion").inner_text()
    assert known
    waiting = []
    page.route("**/api/explain", lambda route: waiting.append(route))
    page.locator("#query").fill("lion is")
    assert page.locator("#conclusion").inner_text() == ""
    page.wait_for_selector("body.answered:not(.waiting):not(.settled)")
    assert page.locator("#conclusion").inner_text() == ""
    assert page.locator(".demonstration .score").all_inner_texts() == ["…"] * 3
    assert page.locator("#tokens-note").inner_text() == "Coloured by influence: …"
    assert page.locator("#tokens .tinted, .cell.tinted, .demonstration.tinted").count() == 0
    assert page.locator(".cell").first.get_attribute("title") == "layer 0, head 0: …"
    assert page.locator("#map-note").inner_text().endswith("influence through each head: …")
    # Direct effects are known from the same pass as the answer.
    page.locator("input[value=gradient_step]").check(force=True)
    _, seen = served.ask("glance", {**SHORT, "query": "lion is"})
    assert scores(page) == pytest.approx([one["gradient_step"] for one in seen["sources"]], abs=6e-4)
    with page.expect_response("**/api/explain"):
        page.wait_for_timeout(300)
        waiting.pop().continue_()
    page.unroute("**/api/explain")
    settled(page)
    _, whole = served.ask("explain", {**SHORT, "query": "lion is"})
    assert page.locator("#conclusion span").all_inner_texts() == whole["conclusion"]
    # What is switched off changes neither scores nor conclusion: they stay.
    page.route("**/api/explain", lambda route: waiting.append(route))
    page.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    page.wait_for_selector("#without:not([hidden])")
    assert page.locator("#conclusion span").all_inner_texts() == whole["conclusion"]
    page.locator("input[value=influence]").check(force=True)
    assert scores(page) == pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-5, abs=6e-4)
    page.wait_for_timeout(300)
    waiting.pop().abort()


def test_a_link_of_an_earlier_version_keeps_its_colour(visit, served):
    page = visit(served.address + link({**SHORT, "colour": "knock_out"}))
    assert page.locator("input[value=knock_out]").is_checked()
    assert page.locator("#tokens-note").inner_text().startswith("Coloured by knock-out of whole demonstrations")
    assert len(scores(page)) == 3
    page = visit(served.address + link({**SHORT, "colour": "gradient_step"}))
    assert page.locator("input[value=gradient_step]").is_checked()
    assert page.locator("#more").is_visible()


def test_switching_a_demonstration_off_shows_what_was_estimated_and_what_is(short, served):
    short.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    short.wait_for_selector("#without:not([hidden])")
    _, seen = served.ask("glance", {**SHORT, "off": [1]})
    shown = [number(row.locator("td").first.inner_text()) for row in short.locator("#without-rows tr").all()]
    without = seen["without"]
    expected = [seen["margin"], without["estimated"]["margin"], without["measured"]["margin"]]
    assert shown == pytest.approx(expected, abs=6e-4)
    said = short.locator("#without-rows tr").nth(1).locator("th").inner_text()
    assert number(said.split("off by ")[1]) == pytest.approx(without["estimated"]["error"], abs=6e-4)
    short.get_by_role("button", name="Switch all on").click()
    short.wait_for_selector("#without", state="hidden")


def test_turned_means_that_another_answer_is_likeliest_than_before(visit, served):
    # The answer that is explained need not be the likeliest one.
    asked = {**SHORT, "answer": "nef"}
    page = visit(served.address + link({**asked, "off": [1]}))
    settled(page)
    assert page.locator("#answer").inner_text() == "nef"
    assert page.locator("#changed").inner_text() == ""
    page = visit(served.address + link({**SHORT, "off": [0, 2]}))
    settled(page)
    _, seen = served.ask("glance", {**SHORT, "off": [0, 2]})
    odds = {one["text"]: one["probability"] for one in seen["without"]["measured"]["candidates"]}
    assert odds["nef"] > odds["vux"]
    assert page.locator("#changed").inner_text() == "without #0, #2: nef"


def test_scores_stay_with_the_demonstrations_that_they_are_of(short):
    known = short.locator(".demonstration .score").all_inner_texts()
    short.route("**/api/glance", lambda route: route.fulfill(status=500, json={"error": "The model failed."}))
    short.locator(".demonstration textarea").nth(0).fill("cat is zup .")
    says(short, "#problem", "The model failed.")
    assert short.locator(".demonstration .score").all_inner_texts() == known
    short.get_by_role("button", name="Delete: demonstration 0").click()
    for selector in ("input[value=gradient_step]", "input[value=influence]"):
        assert short.locator(".demonstration .score").all_inner_texts() == ["…", "…"]
        short.locator(selector).check()
    short.locator("#query").fill("lion is")
    assert short.locator(".demonstration .score").all_inner_texts() == ["…", "…"]
    short.unroute("**/api/glance")
    short.locator("#query").fill("dog is")
    short.locator("#problem").wait_for(state="hidden")
    settled(short)
    assert len(scores(short)) == 2


@pytest.mark.parametrize("answers", [["cat", "dog", "plum", "saw", "horse", "nef", "vux"], ["vux nef", "vux zup"], []])
def test_a_heads_pulls_are_the_cells_of_the_maps(visit, served, answers):
    page = visit(served.address + link({**SHORT, "answers": answers, "layer": 3, "head": 0, "colour": "gradient_step"}))
    settled(page)
    says(page, "#head h3 >> nth=0", "Layer 3, head 0")
    rows = page.locator("#head table.dual tbody tr").all()
    pulls = [row.locator("td").nth(1).inner_text().strip() for row in rows]
    for i in range(3):
        page.locator("#of").select_option(str(i))
        cell = page.locator(".cell[aria-selected=true]").get_attribute("aria-label")
        assert cell == f"layer 3, head 0: {pulls[i]} nats"


def test_demonstrations_are_added_moved_flipped_and_deleted(short):
    short.get_by_role("button", name="Add a demonstration").click()
    short.keyboard.type("apple is nef .")
    assert texts(short) == [*SHORT["demonstrations"], "apple is nef ."]
    short.get_by_role("button", name=re.compile("^Move up.*demonstration 3")).click()
    assert texts(short)[2] == "apple is nef ."
    short.get_by_role("button", name=re.compile("^Give it the next.*demonstration 2")).click()
    assert texts(short)[2] == "apple is vux ."
    short.get_by_role("button", name="Delete: demonstration 0").click()
    assert texts(short) == ["plum is nef .", "apple is vux .", "dog is vux ."]
    settled(short)
    assert len(scores(short)) == 3


def test_everything_works_by_keyboard(short):
    area = short.locator(".demonstration textarea").nth(0)
    area.focus()
    short.keyboard.press("Alt+ArrowDown")
    assert texts(short)[:2] == ["plum is nef .", "cat is vux ."]
    assert short.evaluate("document.activeElement.value") == "cat is vux ."
    short.keyboard.press("Shift+Tab")
    short.keyboard.press("Space")
    short.wait_for_selector("#without:not([hidden])")
    settled(short)
    short.locator(".cell[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        short.keyboard.press(key)
    says(short, "#head h3 >> nth=0", "Layer 2, head 1")
    assert short.locator(".cell[aria-selected=true]").get_attribute("aria-label").startswith("layer 2, head 1")


def test_a_mistake_is_told_in_place_and_the_input_kept(short):
    short.locator(".demonstration textarea").nth(0).fill("")
    problem = short.locator("#problem")
    problem.wait_for()
    assert problem.inner_text() == "Demonstration 0 is empty: write something in it, or delete it."
    assert texts(short)[1:] == SHORT["demonstrations"][1:]
    short.locator(".demonstration textarea").nth(0).fill("word " * 200)
    says(short, "#problem", "context holds 128")
    assert texts(short)[0] == "word " * 200
    short.locator(".demonstration textarea").nth(0).fill("cat is vux .")
    problem.wait_for(state="hidden")


def test_a_refused_opening_prompt_is_told_in_place_and_can_be_mended(visit, served):
    page = visit(served.address + link({**SHORT, "query": "word " * 200}))
    says(page, "#problem", "context holds 128")
    assert page.locator("body.waiting").count() == 0
    page.locator("#query").fill("horse is")
    page.locator("#problem").wait_for(state="hidden")
    settled(page)
    assert len(scores(page)) == 3


def test_a_server_that_is_gone_is_told_in_place(short):
    short.route("**/api/*", lambda route: route.abort())
    short.locator("#query").fill("lion is")
    says(short, "#problem", "does not answer")
    assert short.locator("#query").input_value() == "lion is"


def test_a_model_that_fails_is_told_in_place(short):
    failed = {"status": 500, "json": {"error": "The model failed: out of memory"}}
    short.route("**/api/glance", lambda route: route.fulfill(**failed))
    short.locator("#query").fill("lion is")
    says(short, "#problem", "The model failed: out of memory")
    assert short.locator("#query").input_value() == "lion is"
    short.unroute("**/api/glance")
    short.locator("#query").fill("dog is")
    short.locator("#problem").wait_for(state="hidden")


def test_a_whole_prompt_is_taken_apart(short):
    short.get_by_text("Instruction, or another prompt").click()
    short.locator("#whole").fill("only one block")
    short.get_by_role("button", name="Use this prompt").click()
    assert texts(short) == SHORT["demonstrations"]
    short.locator("#whole").fill("saw is zup .\n\n  \ncat is\nnef .\n\nhammer is\n")
    short.get_by_role("button", name="Use this prompt").click()
    assert texts(short) == ["saw is zup .", "cat is\nnef ."]
    assert short.locator("#query").input_value() == "hammer is"
    settled(short)
    short.get_by_role("button", name="Back to the example").click()
    assert texts(short)[0] == "apple is vux ."


def test_a_chat_is_sent_as_a_chat_and_an_edit_of_it_is_taken_back(browser, chat):
    with visits(browser, chat.address, "body.settled") as opened:
        page = opened()
        known = page.locator("#answer").inner_text(), scores(page), texts(page)
        _, whole = chat.ask("explain", chat.example)
        # The question is the message, without the marks of roles around it.
        assert page.locator("#asked").inner_text().endswith(page.locator("#query").input_value().strip())
        assert known[1] == pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-5, abs=6e-4)
        page.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
        page.wait_for_selector("#without:not([hidden])")
        settled(page)
        page.locator(".demonstration textarea").nth(0).fill("dog is vux .")
        says(page, "#problem", "This prompt is a chat, whose messages cannot be edited as blocks of text")
        page.get_by_role("button", name="Take back the edit").click()
        page.locator("#problem").wait_for(state="hidden")
        settled(page)
        assert (page.locator("#answer").inner_text(), scores(page), texts(page)) == known
        assert not page.locator(".demonstration input[type=checkbox]").nth(1).is_checked()
        # A link carries the chat, too.
        other = opened(page.evaluate("location.href"))
        assert (other.locator("#answer").inner_text(), scores(other), texts(other)) == known


HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e is vux ."


def test_a_hostile_prompt_does_nothing(short):
    short.locator(".demonstration textarea").nth(1).fill(HOSTILE)
    settled(short)
    assert short.locator("main img, main script").count() == 0
    shown = short.locator("#tokens").inner_text()
    assert "<script>alert(2)</script>" in shown.replace("\n", "")
    assert "\u202e" not in short.locator("main").inner_text()
    assert "⟨U+202E⟩" in shown


def test_a_link_brings_everything_back(short, visit):
    short.locator(".demonstration input[type=checkbox]").nth(2).uncheck()
    short.get_by_role("button", name="more").click()
    short.get_by_text("knock-out", exact=True).first.click()
    short.locator(".cell").nth(3).click()
    settled(short)
    other = visit(short.evaluate("location.href"))
    assert texts(other) == texts(short)
    assert other.locator("#answers .chip span").all_inner_texts() == ["vux", "nef"]
    assert not other.locator(".demonstration input[type=checkbox]").nth(2).is_checked()
    assert other.locator("input[value=knock_out]").is_checked()
    assert other.locator(".cell[aria-selected=true]").get_attribute("aria-label").startswith("layer 1, head 1")
    assert scores(other) == scores(short)


def test_an_address_that_cannot_be_written_stops_nothing(visit, served):
    page = visit(served.address + link(SHORT), permissions=["clipboard-read", "clipboard-write"])
    refuse_addresses(page)
    page.locator("#query").fill("dog is")
    settled(page)
    _, whole = served.ask("explain", {**SHORT, "query": "dog is"})
    assert scores(page) == pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-5, abs=6e-4)
    page.get_by_role("button", name="Copy the link").click()
    says(page, "#said", "copied")
    other = visit(page.evaluate("navigator.clipboard.readText()"))
    assert other.locator("#query").input_value() == "dog is"


@pytest.mark.parametrize("hash", ["#q=", "#q=!!!", "#q=eyJkZW1vbnN0cmF0aW9ucyI6MX0", "#q=bnVsbA"])
def test_a_broken_link_opens_the_example(visit, served, hash):
    page = visit(served.address + hash)
    assert texts(page)[0] == "apple is vux ."


def test_a_saved_page_opens_from_a_disk(short, visit, tmp_path):
    short.locator(".demonstration textarea").nth(1).fill(HOSTILE)
    short.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    settled(short)
    with short.expect_download() as download:
        short.get_by_role("button", name="Save the page").click()
    download.value.save_as(tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    assert scores(page) == scores(short)
    assert page.locator("#answer").inner_text() == short.locator("#answer").inner_text()
    assert page.locator("#without-rows").inner_text() == short.locator("#without-rows").inner_text()
    page.locator(".cell").nth(5).click()
    says(page, "#head h3 >> nth=0", "Layer 2, head 1")
    assert page.locator("#add").is_hidden()
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_narrow_screen(visit, scheme):
    page = visit(width=360, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    page.wait_for_selector("#without:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    page = visit(color_scheme=scheme)
    page.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    page.wait_for_selector("#without:not([hidden])")
    settled(page)
    assert serious(page) == []
