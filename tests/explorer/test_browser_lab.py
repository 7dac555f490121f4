"""The Lab view in a browser: its numbers, dragging, keys, sliders, a narrow screen and dark mode."""

import pytest
from tests.explorer.browsing import MARKS, number, serious
from tests.explorer.lab_pages import lab_visits, points, prediction, settled

pytestmark = MARKS


@pytest.fixture
def visit(browser, served):
    with lab_visits(browser, served) as opened:
        yield opened


@pytest.fixture
def page(visit):
    return visit()


def centre(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_numbers_on_the_page_are_those_of_the_server(page, served):
    _, found = served.ask("lab", {"points": points(page), "query": 0.3, "alpha": 0.0816})
    shown = [number(cell.inner_text()) for cell in page.locator("#lab-answers td").all()]
    names = ("model", "ridge", "least_squares", "nearest_neighbours", "gradient_descent", "function")
    assert shown == pytest.approx([found["answers"][name] for name in names], abs=6e-4)
    for name in ("pull", "left_out"):
        cells = [number(cell.inner_text()) for cell in page.locator(f"#lab-rows .lab-{name}").all()]
        assert cells == pytest.approx([one[name] for one in found["points"]], abs=6e-4)
    assert page.locator(".lab-curves path").count() == 5
    assert page.locator(".lab-bar").count() == len(points(page))


def test_a_point_and_the_query_are_dragged(page):
    before, first = points(page), prediction(page)
    x, y = centre(page.locator(".lab-point .lab-reach").nth(7))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 40, steps=4)
    page.mouse.move(x + 60, y + 80, steps=4)
    page.mouse.up()
    settled(page)
    after = points(page)
    assert after[7][0] > before[7][0]
    assert after[7][1] < before[7][1]
    assert [p for i, p in enumerate(after) if i != 7] == [p for i, p in enumerate(before) if i != 7]
    assert prediction(page) != first
    x, y = centre(page.locator(".lab-query .lab-knob"))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(0, y, steps=6)
    page.mouse.up()
    settled(page)
    assert page.locator(".lab-query").get_attribute("aria-valuenow") == "-1"


def test_a_point_is_dragged_by_touch(visit):
    page = visit(has_touch=True, width=400)
    before = points(page)
    x, y = centre(page.locator(".lab-point .lab-reach").nth(11))
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in (10, 20, 30):
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x + step, "y": y - step}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settled(page)
    after = points(page)
    assert after[11][0] > before[11][0]
    assert after[11][1] > before[11][1]
    assert page.evaluate("window.scrollY") == 0


def test_everything_works_by_keyboard(page):
    before = points(page)
    page.locator(".lab-point").nth(3).focus()
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    settled(page)
    assert points(page)[3] == pytest.approx([before[3][0] + 0.02, before[3][1] + 0.3])
    assert "pull" in page.locator(".lab-point").nth(3).get_attribute("aria-label")
    page.keyboard.press("Delete")
    settled(page)
    assert points(page) == before[:3] + before[4:]
    assert page.evaluate("document.activeElement.classList.contains('lab-point')")
    page.locator(".lab-query").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.locator(".lab-query").get_attribute("aria-valuenow") == "-0.98"
    page.get_by_role("button", name="Add a point").focus()
    page.keyboard.press("Enter")
    settled(page)
    assert points(page)[-1][0] == -0.98
    assert points(page)[-1][1] == pytest.approx(prediction(page), abs=1)


def test_a_double_click_adds_a_point_where_it_is(page):
    n = len(points(page))
    box = page.locator(".lab-drawing").bounding_box()
    page.mouse.dblclick(box["x"] + box["width"] * 0.9, box["y"] + 60)
    settled(page)
    assert len(points(page)) == n + 1
    assert points(page)[-1][0] > 0.7
    assert points(page)[-1][1] > 2


def test_sliders_and_switches_change_the_answer(page):
    drawn = points(page)
    page.locator("#lab-n").fill("20")
    settled(page)
    assert len(points(page)) == 20
    assert points(page)[:12] == drawn
    page.locator("#lab-noise").fill("0")
    settled(page)
    exact = points(page)
    assert [p[1] for p in exact[:12]] != [p[1] for p in drawn]
    assert [p[0] for p in exact[:12]] == [p[0] for p in drawn]
    page.locator("#lab-n").fill("4")
    settled(page)
    assert points(page) == exact[:4]
    seen = {}
    for attention in ("softmax", "regularised", "augmented", "negative"):
        page.locator("#lab-switch-attention").get_by_text(attention, exact=True).click()
        settled(page)
        seen[attention] = prediction(page)
    assert len(set(seen.values())) == 4
    ridge = prediction(page, 1)
    page.locator("#lab-alpha").fill("2")
    settled(page)
    assert not page.locator("#lab-bayes").is_checked()
    assert abs(prediction(page, 1)) < abs(ridge)
    page.locator("#lab-neighbours").fill("1")
    page.locator("#lab-steps").fill("0")
    page.get_by_text("a line", exact=True).click()
    settled(page)
    assert prediction(page, 4) == 0


def test_curves_are_hidden_and_shown(page):
    page.get_by_label("k-NN").uncheck()
    page.get_by_label("least squares").check()
    assert page.locator(".lab-curve.lab-nearest_neighbours").count() == 0
    assert page.locator(".lab-curve.lab-least_squares").count() == 1
    page.get_by_text("left out", exact=True).first.click()
    assert page.locator(".lab-pulls text").first.inner_html() == "change by each point"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_narrow_screen(visit, scheme):
    page = visit(width=360, color_scheme=scheme)
    page.locator("#lab-n").fill("20")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator(".lab-drawing").bounding_box()["height"] >= 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    page = visit(color_scheme=scheme)
    assert serious(page) == []
