"""The weight updates on a saved page: every size and cosine can be read, by pointer and by keys, on any screen."""

import json
import re

import pytest
from tests.explorer.browsing import MARKS, PATIENCE, number, serious, visits
from tests.report.sample import make

import iclens
from iclens.explorer.explained import explained_page

pytestmark = MARKS

TEXT = "cat is vux .\n\nplum is nef .\n\ndog is vux .\n\nhorse is"
FOLD = "#updates-fold"


@pytest.fixture(scope="module")
def explanation(model):
    return iclens.explain(model, TEXT, answers=["vux", "nef"], scores=["influence"], patch=True)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of an explanation, the fold as it is at first."""
    file = tmp_path / "page.html"
    with visits(browser, file.as_uri(), "body.settled") as visit:

        def show(explanation, **options):
            file.write_text(explained_page(explanation))
            return visit(**options)

        yield show


def unfolded(page):
    page.locator(f"{FOLD} summary").click()
    page.wait_for_selector(f"{FOLD} .heat", timeout=PATIENCE)
    return page


def test_sizes_shares_and_cosines_are_those_of_the_explanation(opened, explanation):
    page = opened(explanation)
    assert page.locator(FOLD).is_visible()
    # What was not asked for is not drawn.
    assert page.locator("#updates").inner_text() == ""
    unfolded(page)
    patch = explanation.patch
    rows = [row.split("\t") for row in page.locator(f"{FOLD} tbody tr").all_inner_texts()]
    order = sorted(range(3), key=lambda i: -patch.sources[i].size)
    assert [row[0] for row in rows[:3]] == [f"#{i}" for i in order]
    for row, i in zip(rows, order, strict=False):
        one = patch.sources[i]
        assert number(row[1].removesuffix(" ‰")) == pytest.approx(1e3 * one.size, rel=1e-3, abs=6e-4)
        assert number(row[2].removesuffix(" %")) == pytest.approx(100 * one.share, abs=0.06)
        assert number(row[3].removesuffix(" %")) == pytest.approx(100 * one.displaced, abs=0.06)
        assert row[4] == str(one.largest_in)
        assert row[5].startswith(f"#{one.alike} (")
    by_layer, alike = (
        page.locator(f"{FOLD} .heat").nth(i).locator(".cell").evaluate_all("all => all.map((one) => one.title)")
        for i in range(2)
    )
    found = [number(re.search(r": (.*) ‰", title)[1]) / 1e3 for title in by_layer]
    assert found == pytest.approx([size for one in patch.sources for size in one.by_layer], rel=1e-3, abs=6e-7)
    found = [number(title.split(": cosine ")[1]) for title in alike]
    assert found == pytest.approx([value for row in patch.cosines for value in row], rel=1e-3, abs=6e-4)


def test_arrow_keys_lead_through_the_map_and_the_line_says_each_cell(opened, explanation):
    page = unfolded(opened(explanation))
    grid = page.locator(f"{FOLD} .heat").first
    assert grid.locator("[tabindex='0']").count() == 1
    grid.locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    said = page.locator(f"{FOLD} .readout").first.inner_text()
    assert said.startswith("demonstration 1, layer 1: ")
    assert page.evaluate("document.activeElement.title") == said
    # One cell is reached by the Tab key, and it is the one that was left.
    assert grid.locator("[tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.title") == said
    # The map's edge is its end.
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert page.locator(f"{FOLD} .readout").first.inner_text().startswith("demonstration 0, layer 1: ")


def test_the_page_of_another_explanation_has_none(opened, model):
    page = opened(iclens.explain(model, TEXT, answers=["vux", "nef"], scores=["gradient_step"]))
    assert page.locator(FOLD).is_hidden()


@pytest.mark.parametrize("options", [{"width": 360}, {"color_scheme": "dark"}, {}])
def test_nothing_is_cut_off_or_hard_to_read(opened, options):
    page = unfolded(opened(make(n_demonstrations=12, n_layers=30), **options))
    assert page.evaluate("document.documentElement.scrollWidth") <= options.get("width", 1200)
    widths = page.locator(f"{FOLD} .heat .cell").evaluate_all("all => all.map((one) => one.offsetWidth)")
    assert min(widths) >= 4
    assert serious(page) == []


def test_a_page_of_an_older_file_shows_the_table_alone(opened, explanation, tmp_path):
    document = explanation.to_dict()
    del document["patch"]["cosines"]
    for one in document["patch"]["sources"]:
        del one["by_layer"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    page = opened(iclens.Explanation.load(tmp_path / "old.json"))
    page.locator(f"{FOLD} summary").click()
    page.wait_for_selector(f"{FOLD} table", timeout=PATIENCE)
    assert page.locator(f"{FOLD} .heat").count() == 0
    assert "no cosines" in page.locator("#updates").inner_text()
