"""The Lab view in a browser when something is amiss or is to come back: mistakes, answers that are late or fail, links,
saved pages."""

import pytest
from tests.explorer.browsing import MARKS, coded, playwright, refuse_addresses, says
from tests.explorer.lab_pages import lab_visits, points, settled

pytestmark = MARKS


@pytest.fixture
def visit(browser, served):
    with lab_visits(browser, served) as opened:
        yield opened


@pytest.fixture
def page(visit):
    return visit()


def test_a_mistake_is_told_in_place_and_the_input_kept(page):
    x = page.get_by_label("x of point 2", exact=True).input_value()
    field = page.get_by_label("y of point 2", exact=True)
    field.fill("<b>much</b>")
    problem = page.locator("#lab-problem")
    problem.wait_for()
    assert problem.inner_text() == "Point 2's y is '<b>much</b>': it must be a number from -3.5 to 3.5."
    assert field.input_value() == "<b>much</b>"
    field.fill("1,5")
    problem.wait_for(state="hidden")
    settled(page)
    assert page.locator(".lab-point").nth(2).get_attribute("aria-label").startswith(f"Point 2: x {x}, y 1.5")
    page.route("**/api/*", lambda route: route.abort())
    page.locator("#lab-steps").fill("3")
    playwright.expect(problem).to_contain_text("does not answer")
    assert page.locator("#lab-steps").input_value() == "3"


def test_a_link_with_a_mistake_can_be_mended(visit, served):
    page = visit("#lab?s=" + coded({"points": [[0.5, 1.0, 0], [0.25, "abc"], [0.75, -1.0]], "noise": 0.1}))
    says(page, "#lab-problem", "Point 1's y is 'abc'")
    assert page.locator(".lab-point").count() == 3
    page.locator("#lab-noise").fill("0.4")
    page.locator("#lab-n").fill("4")
    page.get_by_label("y of point 1", exact=True).fill("0.5")
    page.locator("#lab-problem").wait_for(state="hidden")
    settled(page)
    drawn = served.ask("lab", {"noise": 0.4})[1]["settings"]["points"]
    # What was drawn follows the noise that was chosen meanwhile, and what was not stays.
    assert points(page) == [drawn[0], [0.25, 0.5], [0.75, -1.0], drawn[1]]
    assert page.locator(".lab-curves path").count() == 5


def hold(page):
    """Keeps questions back; gives what lets them go."""
    held = []
    free = []
    page.route("**/api/lab", lambda route: route.continue_() if free else held.append(route))

    def released():
        free.append(True)
        for one in held:
            one.continue_()
        settled(page)

    return released


def test_sliders_that_move_while_points_are_drawn_are_heard(page, served):
    released = hold(page)
    with page.expect_request("**/api/lab"):
        page.get_by_role("button", name="New function").click()
    page.locator("#lab-noise").fill("0.4")
    page.locator("#lab-n").fill("15")
    released()
    seed = served.ask("lab", {})[1]["settings"]["seed"] + 1
    assert points(page) == served.ask("lab", {"seed": seed, "noise": 0.4, "n": 15})[1]["settings"]["points"]
    assert page.locator("#lab-noise").input_value() == "0.4"


def test_a_draw_that_failed_leaves_the_points_on_the_plot(page):
    before = points(page)
    page.route("**/api/lab", lambda route: route.abort())
    page.get_by_role("button", name="New function").click()
    says(page, "#lab-problem", "does not answer")
    page.unroute("**/api/lab")
    page.locator(".lab-point").nth(3).focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    assert points(page) == [*before[:3], [pytest.approx(before[3][0] + 0.02), before[3][1]], *before[4:]]
    page.locator("#lab-n").fill("2")
    settled(page)
    assert points(page) == before[:2]


def test_points_are_removed_before_the_answer_to_the_last_removal(page):
    before = points(page)
    released = hold(page)
    for i in (11, 3):
        page.get_by_role("button", name=f"Remove point {i}", exact=True).click()
    assert points(page) == before[:3] + before[4:11]
    page.get_by_label("y of point 9", exact=True).fill("0.25")
    says(page, "#lab-said", "10 are left")
    released()
    assert points(page) == [*before[:3], *before[4:10], [before[10][0], 0.25]]


def test_an_address_that_cannot_be_written_stops_nothing(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    refuse_addresses(page)
    before = page.evaluate("location.href")
    page.locator(".lab-point").nth(0).focus()
    page.keyboard.press("ArrowUp")
    settled(page)
    page.get_by_label("ridge", exact=True).uncheck()
    page.get_by_role("button", name="Copy the link").click()
    says(page, "#lab-said", "copied")
    assert page.evaluate("location.href") == before
    assert points(visit(page.evaluate("navigator.clipboard.readText()"))) == points(page)


def test_a_link_brings_everything_back(page, visit):
    page.get_by_role("button", name="New function").click()
    settled(page)
    page.locator(".lab-point").nth(1).focus()
    page.keyboard.press("Shift+ArrowRight")
    page.locator("#lab-switch-attention").get_by_text("negative", exact=True).click()
    page.get_by_label("ridge", exact=True).uncheck()
    settled(page)
    other = visit(page.evaluate("location.href"))
    assert points(other) == points(page)
    assert other.locator("#lab-answers").inner_text() == page.locator("#lab-answers").inner_text()
    assert other.locator("input[name=lab-attention][value=negative]").is_checked()
    assert other.locator(".lab-curve.lab-ridge").count() == 0


@pytest.mark.parametrize("rest", ["?s=", "?s=!!!", "?s=bnVsbA", "?s=eyJwb2ludHMiOlsxXX0", "?x"])
def test_a_broken_link_opens_the_start(visit, rest):
    assert len(points(visit("#lab" + rest))) == 12


def test_a_saved_page_opens_from_a_disk(page, visit, tmp_path):
    page.locator(".lab-point").nth(0).focus()
    page.keyboard.press("ArrowUp")
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the page").click()
    download.value.save_as(tmp_path / "lab.html")
    other = visit((tmp_path / "lab.html").as_uri())
    assert points(other) == points(page)
    assert other.locator("#lab-answers").inner_text() == page.locator("#lab-answers").inner_text()
    assert other.locator(".lab-curves path").count() == 5
    other.get_by_label("ridge", exact=True).uncheck()
    assert other.locator(".lab-curves path").count() == 4
    assert other.get_by_role("button", name="Add a point").count() == 0
    assert "iclens explore" in other.locator("#view-lab .lead").inner_text()


def test_views_are_left_and_come_back_to(page):
    page.locator(".lab-point").nth(0).focus()
    page.keyboard.press("ArrowUp")
    settled(page)
    moved = points(page)
    page.locator("#views a", has_text="Prompt").click()
    page.wait_for_selector("#view-prompt:not([hidden])")
    page.locator("#views a", has_text="Lab").click()
    page.wait_for_selector("#view-lab:not([hidden])")
    assert points(page) == moved
    assert page.evaluate("location.hash").startswith("#lab?s=")
