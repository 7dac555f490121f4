"""The page from the answer down: what is seen first, what stays in sight, what keys reach, what can be taken back."""

import datetime
import json

import pytest
from tests.explorer.browsing import (
    MARKS,
    PATIENCE,
    SHORT,
    coded,
    link,
    number,
    playwright,
    says,
    scores,
    serious,
    visits,
)
from tests.explorer.conftest import serving
from tests.report.sample import make

from iclens.explorer.app import build_app
from iclens.explorer.ask import Ask
from iclens.explorer.explained import explained_page
from iclens.explorer.ready import offered, ready

pytestmark = MARKS

DOCUMENTS = Ask.read(
    {
        "documents": [
            {"id": "animals", "text": "cat is blick .\ndog is blick ."},
            {"id": "fruit", "text": "plum is vux ."},
        ],
        "question": "horse is",
        "response": "blick .",
    }
).to_document()


@pytest.fixture(scope="module")
def offering(model, example):
    """A server whose page offers prompts, as the command starts it."""
    with serving(build_app(model, example, ready=offered("bundled", example, False))) as running:
        yield running


@pytest.fixture
def visit(browser, offering):
    with visits(browser, offering.address, "body.settled") as opened:
        yield opened


@pytest.fixture
def short(visit, offering):
    return visit(offering.address + link(SHORT))


def settled(page):
    page.wait_for_selector("body.answered.settled:not(.waiting)")


def texts(page):
    return [area.input_value() for area in page.locator(".demonstration textarea").all()]


def chips(page):
    return page.locator("#answers .chip span").all_inner_texts()


def asks(request):
    return json.loads(request.post_data)["answers"]


def top(page, selector):
    return page.locator(selector).first.bounding_box()["y"]


CUT = """() => [...document.querySelectorAll("textarea")].filter((one) => one.clientHeight < one.scrollHeight)
  .map((one) => one.value)"""


def test_texts_are_seen_whole_in_a_browser_that_does_not_size_fields_itself(visit, offering):
    page = visit(offering.address)
    page.context.add_init_script(
        "CSS.supports = () => false;"
        "addEventListener('DOMContentLoaded', () => {"
        "  const sheet = new CSSStyleSheet(); sheet.replaceSync('textarea { field-sizing: fixed !important; }');"
        "  document.adoptedStyleSheets = [sheet]; });"
    )
    long = SHORT | {"demonstrations": ["cat is vux .\n" * 3, "plum is nef . " * 8], "query": "horse is\n" * 4}
    page.goto(offering.address + link(long))
    page.reload()
    settled(page)
    assert page.locator("#query").input_value() == long["query"]
    assert page.evaluate(CUT) == []
    page.locator("#query").press_sequentially("dog is vux . cat is " * 4)
    settled(page)
    assert page.evaluate(CUT) == []
    before = page.locator("#query").bounding_box()["height"]
    page.locator("#query").fill("horse is")
    settled(page)
    assert page.evaluate(CUT) == []
    assert page.locator("#query").bounding_box()["height"] < before / 2


# What is seen first


@pytest.mark.parametrize("width", [360, 1280])
def test_question_answer_and_conclusion_come_first(visit, offering, width):
    page = visit(offering.address + link(SHORT), width=width)
    assert page.locator("#asked").inner_text().endswith("horse is")
    assert top(page, "#asked") < top(page, "#answer") < top(page, "#conclusion") < top(page, "#matter") < 900
    _, whole = offering.ask("explain", SHORT)
    assert page.locator("#conclusion span").all_inner_texts() == whole["conclusion"]
    chance = page.locator("#chance").inner_text()
    likeliest = max(one["probability"] for one in whole["candidates"])
    assert float(chance.strip("<> %")) == pytest.approx(100 * likeliest, abs=0.06)
    # What takes longer to read is folded, and nothing of theory is in sight.
    for selector in ("#details", "table.bound", "#how li", "#layers"):
        assert not page.locator(selector).first.is_visible(), selector


def test_the_sources_that_matter_stand_there_with_their_effects(short, offering):
    _, whole = offering.ask("explain", SHORT)
    effects = {f"#{i}": one["scores"]["influence"] for i, one in enumerate(whole["sources"])}
    most = max(map(abs, effects.values()))
    ranked = sorted((name for name in effects if abs(effects[name]) >= most / 20), key=lambda name: -effects[name])
    # What supports the answer, then what opposes it.
    expected = [name for name in ranked if effects[name] > 0][:3] + [name for name in ranked if effects[name] < 0][-3:]
    assert short.locator("#matter b").all_inner_texts() == expected
    shown = [number(one) for one in short.locator("#matter .number").all_inner_texts()]
    assert shown == pytest.approx([effects[name] for name in expected], rel=1e-4, abs=6e-4)


def test_on_a_small_screen_the_answer_stays_in_sight_of_the_switches(visit, offering):
    page = visit(offering.address + link(SHORT), width=360)
    bar = page.locator("#in-sight")
    answer = page.locator("#answer").inner_text()
    boxes = page.locator(".demonstration input[type=checkbox]")
    boxes.last.scroll_into_view_if_needed()
    playwright.expect(bar).to_be_in_viewport()
    assert bar.inner_text().startswith(answer)
    for i in (0, 2):
        boxes.nth(i).uncheck()
    says(page, "#in-sight", "without")
    playwright.expect(bar).to_be_in_viewport()
    # Without both the answer is another one.
    says(page, "#in-sight", "nef")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # A large one has the answer beside the prompt.
    assert visit(offering.address + link(SHORT), width=1280).locator("#in-sight").is_hidden()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_all_heads_of_a_large_model_are_on_one_screen(browser, tmp_path, width, height):
    file = tmp_path / "large.html"
    file.write_text(explained_page(make(n_layers=32, n_heads=32)), encoding="utf-8")
    with visits(browser, file.as_uri(), "body.settled") as opened:
        page = opened(width=width)
        page.set_viewport_size({"width": width, "height": height})
        assert page.locator(".cell").count() == 1024
        page.locator(".map-frame").scroll_into_view_if_needed()
        page.evaluate("document.querySelector('.map-frame').scrollIntoView()")
        for which in ("first", "last"):
            playwright.expect(getattr(page.locator(".cell"), which)).to_be_in_viewport(ratio=1)
        names = page.locator(".map-frame .axis-name")
        assert names.all_inner_texts() == ["head", "layer"]
        assert page.locator("#map-full").inner_text().startswith("full colour: ")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("map.scrollHeight <= map.clientHeight + 1 && map.scrollWidth <= map.clientWidth + 1")


def test_the_margin_is_drawn_after_each_layer(short, offering, model):
    _, view = offering.ask("layers", SHORT)
    figure = short.locator("#plot figure")
    figure.focus()
    shown = []
    for _ in range(model.n_layers + 1):
        short.keyboard.press("ArrowRight")
        shown.append(number(short.locator("#plot .readout").inner_text().split(" ")[-1]))
    assert shown == pytest.approx(view["margins"], rel=1e-3, abs=1e-3)


# Keys


@pytest.mark.parametrize("asked", [None, DOCUMENTS], ids=["demonstrations", "documents"])
def test_few_stops_of_the_tab_key_lead_to_the_map_of_heads(visit, offering, asked):
    page = visit(offering.address + ("" if asked is None else link(asked)))
    stops = 0
    while not page.evaluate("document.activeElement.matches('.cell')"):
        page.keyboard.press("Tab")
        stops += 1
        assert stops <= (12 if asked is None else 13)


def test_arrow_keys_reach_every_row_and_its_buttons(short):
    short.locator(".demonstration input[type=checkbox]").first.focus()
    short.keyboard.press("ArrowDown")
    short.keyboard.press("Space")
    short.wait_for_selector("#without:not([hidden])")
    assert short.locator("#without-title").inner_text() == "Without #1"
    short.keyboard.press("Space")
    for _ in range(4):
        short.keyboard.press("ArrowRight")
    assert short.evaluate("document.activeElement.ariaLabel") == "Delete: demonstration 1"
    short.keyboard.press("Enter")
    assert texts(short) == [SHORT["demonstrations"][0], SHORT["demonstrations"][2]]
    # From the last score, the right arrow leads to the further ones.
    short.locator("input[name=colour]").last.focus()
    short.keyboard.press("ArrowRight")
    assert short.evaluate("document.activeElement.id") == "refine"
    short.keyboard.press("ArrowRight")
    assert short.evaluate("document.activeElement.id") == "more"
    short.keyboard.press("ArrowLeft")
    short.keyboard.press("ArrowLeft")
    assert short.evaluate("document.activeElement.value") == "gradient_step"


# Candidates


def test_candidates_hold_commas(short, offering):
    field = short.locator("#answer-new")
    assert chips(short) == ["vux", "nef"]
    field.focus()
    short.keyboard.press("Backspace")
    assert chips(short) == ["vux"]
    assert field.input_value() == "nef"
    typed = '{"kind": "nef", "sure": true}'
    field.fill(typed)
    # The question without the last candidate may be on its way still.
    with short.expect_request(lambda sent: "glance" in sent.url and asks(sent) == ["vux", typed]):
        short.keyboard.press("Enter")
    assert chips(short) == ["vux", typed]
    # Twice the same is once.
    field.fill("vux")
    short.keyboard.press("Enter")
    assert chips(short) == ["vux", typed]
    short.get_by_role("button", name="Remove {").click()
    field.fill("nef")
    with short.expect_response("**/api/explain"):
        field.blur()
    settled(short)
    _, whole = offering.ask("explain", SHORT)
    assert scores(short) == pytest.approx([one["scores"]["influence"] for one in whole["sources"]], rel=1e-5, abs=6e-4)
    field.focus()
    short.keyboard.press("ArrowLeft")
    short.keyboard.press("ArrowLeft")
    short.keyboard.press("Enter")
    assert chips(short) == ["nef"]


# Taking back


def test_changes_are_taken_back_one_after_another(short):
    assert short.locator("#undo").is_hidden()
    known = texts(short), short.locator("#answer").inner_text(), scores(short)
    short.get_by_role("button", name="Delete: demonstration 0").click()
    short.wait_for_timeout(1100)
    short.locator("#query").fill("saw is")
    short.wait_for_timeout(1100)
    short.locator(".demonstration input[type=checkbox]").nth(1).uncheck()
    short.wait_for_selector("#without:not([hidden])")
    undo = short.get_by_role("button", name="Undo")
    undo.click()
    assert short.locator(".demonstration input[type=checkbox]").nth(1).is_checked()
    assert short.locator("#query").input_value() == "saw is"
    undo.click()
    assert short.locator("#query").input_value() == "horse is"
    # By the key too, outside of a text.
    undo.focus()
    with short.expect_response("**/api/explain"):
        short.keyboard.press("Control+z")
    settled(short)
    assert (texts(short), short.locator("#answer").inner_text(), scores(short)) == known
    assert short.locator("#undo").is_hidden()


# Ready prompts


def test_ready_prompts_say_what_they_are_about_and_are_taken(visit, offering):
    page = visit()
    names = [one.name for one in ready("bundled")]
    assert page.locator("#ready option").all_inner_texts() == names
    assert "made-up language" in page.locator("#ready-caption").inner_text()
    for one in ready("bundled")[1:]:
        with page.expect_response("**/api/explain", timeout=PATIENCE):
            page.locator("#ready").select_option(label=one.name)
        settled(page)
        assert page.locator("#ready-caption").inner_text() == one.caption
        assert page.locator("#problem").is_hidden()
        _, whole = offering.ask("explain", one.ask.to_document())
        assert len(scores(page)) == len(whole["sources"])
    shown = page.locator("#ready").evaluate("one => one.selectedOptions[0]?.text ?? ''")
    assert shown == ready("bundled")[-1].name
    page.get_by_role("button", name="Undo").click()
    assert "tiger is vux ." in texts(page)
    shown = page.locator("#ready").evaluate("one => one.selectedOptions[0]?.text ?? ''")
    assert shown == ready("bundled")[-2].name


def test_an_edited_prompt_is_none_of_the_list(visit):
    page = visit()
    chosen = page.locator("#ready")
    assert chosen.evaluate("one => one.selectedIndex") == 0
    page.get_by_role("button", name="Add a demonstration").click()
    assert chosen.evaluate("one => one.selectedIndex") == -1
    assert page.locator("#ready-caption").inner_text() == ""
    page.get_by_role("button", name="Undo").click()
    assert chosen.evaluate("one => one.selectedIndex") == 0


# The page that is saved


def test_a_saved_page_opens_with_question_answer_conclusion_model_and_date(short, visit, tmp_path):
    before = datetime.datetime.now(datetime.UTC).date()
    with short.expect_download() as download:
        short.get_by_role("button", name="Save the page").click()
    download.value.save_as(tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri(), width=1280)
    for selector in ("#saved-of", "#asked", "#answer", "#conclusion"):
        playwright.expect(page.locator(selector)).to_be_in_viewport(ratio=1)
    origin = page.locator("#saved-of").inner_text()
    assert origin.startswith("bundled · ")
    assert abs(datetime.date.fromisoformat(origin.split(" · ")[1]) - before) <= datetime.timedelta(days=1)
    assert page.locator("#asked").inner_text().endswith("horse is")
    assert page.locator("#answer").inner_text() == short.locator("#answer").inner_text()
    assert page.locator("#conclusion").inner_text() == short.locator("#conclusion").inner_text()
    assert page.locator("#ready-tools, #undo, #answer-new").locator("visible=true").count() == 0
    assert serious(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious_when_all_is_unfolded(visit, width, scheme):
    page = visit(width=width, color_scheme=scheme)
    page.locator("details").evaluate_all("all => { for (const one of all) one.open = true; }")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_folder_is_called_by_its_own_name(browser, model, example, tmp_path):
    from dataclasses import replace

    file = tmp_path / "page.html"
    explanation = make()
    file.write_text(
        explained_page(replace(explanation, model=replace(explanation.model, name="some/models/SmolLM2"))),
        encoding="utf-8",
    )
    with visits(browser, file.as_uri(), "body.settled") as opened:
        page = opened()
        assert page.locator("#model").inner_text().startswith("iclens explain · SmolLM2 · ")
        assert page.locator("#saved-of").inner_text().startswith("SmolLM2 · ")


def test_a_link_keeps_candidates_with_commas(visit, offering):
    answers = ['{"a": 1, "b": "vux"}', "nef"]
    page = visit(offering.address + "#q=" + coded({**SHORT, "answers": answers}))
    assert chips(page) == answers
