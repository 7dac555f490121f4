"""The view of runs in a browser: lists, curves, small multiples and recipes; and what is missing, told in place."""

import json
import math

import pytest
from tests.explorer.browsing import MARKS, playwright, refuse_addresses, says, serious, visits
from tests.explorer.conftest import serving
from tests.explorer.test_runs import RECORD, VERDICT, put
from tests.sweeps.small_runs import SmallConfig, tensors_of

from iclens.explorer.app import build_app
from iclens.sweeps.result import Result
from iclens.sweeps.store import Store

pytestmark = MARKS

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
# A picture that would call for help if it were more than a picture.
EVIL_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10" width="20" height="10"><script>alert(3)</script>'
    '<image href="http://evil.example/x.png" width="5" height="5"/><rect width="20" height="10" fill="teal"/></svg>'
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    store = Store(folder / "store")
    for rate in (1e-3, 1e-2, 1e-1):
        for task in ("linear", "sparse"):
            for seed in range(6):
                put(store, rate, task, seed)
    hostile = SmallConfig(9, 1e-3, HOSTILE)
    store.add(hostile, tensors_of(9), [(0, "loss", None, 1.0), (1, "loss", None, math.inf)], Result("diverged", 1.0, 0))
    for name, title in (("one", HOSTILE), ("two", "The second")):
        place = folder / "gallery" / name
        place.mkdir(parents=True)
        (place / "verdicts.json").write_text(json.dumps([VERDICT, {**VERDICT, "outcome": "holds", "claim": HOSTILE}]))
        (place / "table.json").write_text(json.dumps({**RECORD, "title": title}))
        (place / "figure.svg").write_text(EVIL_SVG)
    return folder


@pytest.fixture(scope="module")
def kept(model, example, folders):
    with serving(build_app(model, example, store=folders / "store", gallery=folders / "gallery")) as running:
        yield running


@pytest.fixture
def visit(browser, kept):
    with visits(browser, kept.address, "body.runs-settled") as opened:
        yield lambda hash="#runs", **options: opened(kept.address + hash, **options)


def rows(page):
    return page.locator("#runs-rows tr")


def test_the_list_is_paged_sorted_and_narrowed(visit):
    page = visit()
    says(page, "#runs-count", "Runs 1 to 25 of 37; 1 diverged")
    page.get_by_role("button", name="Further rows").click()
    says(page, "#runs-count", "Runs 26 to 37 of 37")
    page.get_by_role("button", name="final.loss").click()
    says(page, "#runs-count", "Runs 1 to 25 of 37")
    at = page.locator("#runs-head th").all_inner_texts().index("final.loss ↑")
    playwright.expect(page.locator("#runs-head th[aria-sort=ascending]")).to_have_text("final.loss ↑")
    values = [float(row.locator("td").nth(at).inner_text()) for row in rows(page).all()]
    assert values == sorted(values)
    page.get_by_label("Only runs that meet").fill("task.name=sparse, seed<2")
    says(page, "#runs-count", "Runs 1 to 6 of 6, chosen from 37")
    page.get_by_label("Only runs that meet").fill("task.nam=sparse")
    says(page, "#runs-problem", "Did you mean 'task.name'")
    assert page.get_by_label("Only runs that meet").input_value() == "task.nam=sparse"
    page.get_by_label("Only runs that meet").fill("")
    page.locator("#runs-problem").wait_for(state="hidden")


def test_curves_follow_the_choice_and_read_off_by_keys(visit):
    page = visit("#runs?keys=")
    says(page, "#runs-curves", "Choose runs")
    rows(page).nth(0).get_by_role("checkbox").check()
    rows(page).nth(7).get_by_role("checkbox").check()
    playwright.expect(page.locator("#runs-curves path.curve[d^=M]")).to_have_count(4)  # two lines and their legend
    page.locator("#runs-curves figure").focus()
    page.keyboard.press("ArrowRight")
    says(page, "#runs-curves .readout", "step 0: ")
    page.keyboard.press("ArrowRight")
    says(page, "#runs-curves .readout", "step 1: ")
    page.get_by_label("Metric").select_option("error")
    says(page, "#runs-curves .axis-name", "demonstrations")
    page.get_by_label("logarithmic").check()
    assert "log=1" in page.url


def test_curves_of_runs_that_are_no_longer_chosen_are_not_drawn(visit):
    page = visit("#runs?keys=")
    held = []
    page.route("**/api/curves", lambda route: held.append(route))
    with page.expect_request("**/api/curves"):
        rows(page).nth(0).get_by_role("checkbox").check()
    with page.expect_event("requestfailed", timeout=10_000):
        rows(page).nth(0).get_by_role("checkbox").uncheck()
    says(page, "#runs-curves", "Choose runs")


@pytest.mark.parametrize(("offset", "first"), [(9999, 26), (37, 26), (36, 37), (25, 26)])
def test_a_link_behind_the_last_run_shows_the_last_page(visit, offset, first):
    page = visit(f"#runs?offset={offset}")
    says(page, "#runs-count", f"Runs {first} to 37 of 37")
    page.get_by_role("button", name="Earlier rows").click()
    says(page, "#runs-count", f"Runs {max(1, first - 25)} to")


def test_an_address_that_cannot_be_written_stops_nothing(visit):
    page = visit()
    refuse_addresses(page)
    page.get_by_label("Only runs that meet").fill("seed<1")
    says(page, "#runs-count", "of 6, chosen from 37")


def test_small_multiples_have_a_panel_for_each_value(visit):
    page = visit()
    page.get_by_label("A panel for each").select_option("training.learning_rate")
    page.get_by_label("a line for each").select_option("task.name")
    playwright.expect(page.locator(".multiples > div")).to_have_count(3)
    titles = [f"learning_rate {rate}" for rate in (0.001, 0.01, 0.1)]
    playwright.expect(page.locator(".multiples h3")).to_have_text(titles)
    page.locator("#panels-x").select_option("training.learning_rate")
    page.get_by_label("A panel for each").select_option("")
    playwright.expect(page.locator(".multiples > div")).to_have_count(1)
    says(page, "#panels .axis-name", "training.learning_rate")
    assert "at some places only" not in page.locator("#panels").inner_text()
    # One run diverged after its first step.
    page.locator("#panels-x").select_option("")
    page.get_by_label("a line for each").select_option("")
    playwright.expect(page.locator("#panels .legend")).to_have_count(0)
    says(page, "#panels", "1 run is in the mean at some places only")
    page.locator("#panels figure").focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator("#panels .readout")).not_to_contain_text("runs")
    page.keyboard.press("ArrowRight")
    says(page, "#panels .readout", "(36 of 37 runs)")


def test_recipes_stand_with_verdict_and_picture(visit):
    page = visit()
    says(page, "#recipes-count", "4 claims of 2 recipes")
    page.get_by_text("The second").click()
    picture = page.locator("details[open] img")
    picture.scroll_into_view_if_needed()
    playwright.expect(picture).to_have_js_property("naturalWidth", 20)
    page.get_by_label("Show claims that").select_option("does not hold")
    says(page, "#recipes-count", "2 claims of 2 recipes")


def test_hostile_names_and_pictures_do_nothing(visit):
    page = visit()
    page.get_by_role("button", name="Further rows").click()
    says(page, "#runs-rows", "<script>alert(2)</script>")
    page.locator("summary", has_text="onerror").click()
    says(page, "details[open] .statement >> nth=1", HOSTILE)
    assert page.locator("main script, main img:not(.recipe img)").count() == 0


def test_a_link_brings_the_view_back(visit):
    page = visit()
    page.get_by_label("Only runs that meet").fill("seed<1")
    says(page, "#runs-count", "of 6, chosen from 37")
    rows(page).nth(2).get_by_role("checkbox").set_checked(False)
    page.get_by_label("Metric").select_option("error")
    page.wait_for_selector("#panels figure")
    other = visit("#" + page.url.split("#")[1])
    says(other, "#runs-count", "of 6, chosen from 37")
    checked = [box.is_checked() for box in page.locator("#runs-rows input").all()]
    assert [box.is_checked() for box in other.locator("#runs-rows input").all()] == checked
    assert other.get_by_label("Metric").input_value() == "error"


def test_views_are_reached_by_keyboard_and_keep_their_state(visit):
    page = visit()
    page.get_by_label("Only runs that meet").fill("seed<1")
    says(page, "#runs-count", "of 6, chosen from 37")
    page.get_by_role("link", name="Prompt").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("body.settled")
    assert page.locator("#view-runs").is_hidden()
    page.get_by_role("link", name="Runs").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#view-runs")).to_be_visible()
    says(page, "#runs-count", "of 6, chosen from 37")
    assert page.get_by_role("link", name="Runs").get_attribute("aria-current") == "page"


def test_a_missing_store_and_a_missing_gallery_are_told_in_place(browser, served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with visits(browser, served.address, "body.runs-settled") as opened:
        page = opened(served.address + "#runs")
        says(page, "#runs-problem", "There is no store of runs in iclens-runs")
        says(page, "#recipes-problem", "There is no gallery in iclens-out/gallery")
        # Nothing is there yet: that is no fault, and does not look like one.
        assert page.locator(".problem.nothing-yet:not([hidden])").count() == 2
        colour = "one => getComputedStyle(one).color"
        assert page.locator("#runs-problem").evaluate(colour) == page.locator("body").evaluate(colour)
        assert page.locator("#panels-section").is_hidden()


def test_a_server_that_is_gone_is_told_in_place(visit):
    page = visit()
    page.route("**/api/*", lambda route: route.abort())
    page.get_by_label("Only runs that meet").fill("seed=1")
    says(page, "#runs-problem", "does not answer")
    assert page.get_by_label("Only runs that meet").input_value() == "seed=1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_axe_finds_nothing_serious(visit, scheme):
    page = visit(width=360, color_scheme=scheme)
    page.wait_for_selector("#panels figure")
    page.get_by_text("The second").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert serious(page) == []
