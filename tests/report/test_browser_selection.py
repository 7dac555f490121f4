"""The report of a choice in a browser: rows are sorted, filtered and linked, by keys too, and nothing goes wrong."""

from __future__ import annotations

import pytest
from tests.explorer.browsing import MARKS, launched, serious, visits
from tests.fuzz.test_texts import HOSTILE, can_be_encoded
from tests.report.choices import choice

pytestmark = MARKS

FOUND = choice(n=24, k=8)
COLUMNS = ["index", "text", "output", "doubt", "place", "verdict", "effect", "without", "hurts"]


@pytest.fixture(scope="module")
def browser():
    with launched() as running:
        yield running


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a choice; nothing may go wrong on it or be fetched."""
    file = tmp_path / "report.html"
    with visits(browser, file.as_uri(), "#pool .sort") as visit:

        def show(found=FOUND, **options):
            file.write_text(found.to_html(), encoding="utf-8")
            return visit(**options)

        yield show


def order(page):
    names = page.locator("#pool tbody tr:not([hidden])").evaluate_all("all => all.map((one) => one.id)")
    return [int(name.removeprefix("demonstration-")) for name in names]


def head(page, name):
    return page.locator(f"#pool thead th[data-key={name}]")


def key_of(one, name):
    return {
        "index": one.index,
        "text": (one.input.casefold(), one.input),
        "output": one.output,
        "doubt": one.doubt,
        "place": one.place,
        "verdict": one.verdict,
        "effect": one.effect and one.effect.mean,
        "without": one.left_out and -one.left_out.mean,
        "hurts": len(one.hurts_on) or None,
    }[name]


def expected(name, direction, found=FOUND):
    """Those without a number last, either way; those that are alike as in the pool."""
    known = [one for one in found.demonstrations if key_of(one, name) is not None]
    # Sorting is stable in both directions.
    ranked = sorted(known, key=lambda one: key_of(one, name), reverse=direction == "descending")
    others = [one for one in found.demonstrations if key_of(one, name) is None]
    return [one.index for one in (*ranked, *others)]


def test_every_column_sorts_both_ways_by_the_keyboard(opened):
    page = opened()
    assert [one.get_attribute("data-key") for one in page.locator("#pool thead th[data-key]").all()] == COLUMNS
    assert order(page) == expected("place", "ascending")
    assert head(page, "place").get_attribute("aria-sort") == "ascending"
    for name in COLUMNS:
        seen = []
        for _ in range(2):
            head(page, name).locator("button").focus()
            page.keyboard.press("Enter")
            direction = head(page, name).get_attribute("aria-sort")
            assert order(page) == expected(name, direction), (name, direction)
            assert page.locator("#pool [aria-sort]").count() == 1
            assert page.locator("#sorted").inner_text() == f"Sorted by {name}, {direction}"
            # The key stays where it is, for the next press.
            assert page.evaluate("document.activeElement.closest('th').dataset.key") == name
            seen.append(direction)
        assert sorted(seen) == ["ascending", "descending"]


def test_a_thousand_rows_sort_and_filter_and_none_is_lost(opened):
    found = choice(n=1000, k=40)
    page = opened(found)
    head(page, "effect").locator("button").click()
    assert order(page) == expected("effect", "descending", found)
    page.locator("#show input[value=chosen]").check(force=True)
    assert order(page) == [i for i in expected("effect", "descending", found) if i in found.indices]
    page.locator("#show input[value=all]").check(force=True)
    assert sorted(order(page)) == list(range(1000))


def test_each_filter_shows_as_many_as_it_says(opened):
    page = opened()
    for label in page.locator("#show label").all():
        label.click()
        assert len(order(page)) == int(label.locator("small").inner_text()) > 0


def test_pointing_at_a_row_or_reaching_its_link_marks_its_partners(opened):
    page = opened()
    partners = {}
    for one in FOUND.demonstrations:
        if one.redundant_with is not None:
            partners.setdefault(one.redundant_with, {one.redundant_with}).add(one.index)
    chosen, group = next(iter(partners.items()))
    other = min(group - {chosen})

    def marked():
        names = page.locator("#pool .linked").evaluate_all("all => all.map((one) => one.id)")
        return {int(name.removeprefix("demonstration-")) for name in names}

    assert marked() == set()
    for i in (chosen, other):
        page.locator(f"#demonstration-{i}").hover()
        assert marked() == group
    page.locator("h1").hover()
    assert marked() == set()
    page.locator(f"#demonstration-{other} .verdict a").focus()
    assert marked() == group
    page.locator("#pool .sort").first.focus()
    assert marked() == set()
    # What is filtered away is shown when a link leads there.
    page.locator("#show input[value=redundant]").check(force=True)
    assert chosen not in order(page)
    page.locator(f"#demonstration-{other} .verdict a").click()
    assert chosen in order(page)
    assert page.evaluate("document.querySelector(':target').id") == f"demonstration-{chosen}"


def test_examples_and_long_texts_unfold(opened):
    page = opened()
    one = next(one for one in FOUND.demonstrations if one.hurts_on)
    row = page.locator(f"#demonstration-{one.index}")
    assert not row.locator(".hurt").is_visible()
    row.get_by_text("examples that it hurts").click()
    assert row.locator(".hurt li").count() == len(one.hurts_on)
    assert row.locator(".hurt").is_visible()
    long = next(one for one in FOUND.demonstrations if len(one.input) > 200)
    row = page.locator(f"#demonstration-{long.index}")
    row.get_by_text("whole text").click()
    assert long.input.strip() in row.inner_text()


@pytest.mark.parametrize("width", [360, 800, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_width_and_axe_finds_nothing_serious(opened, width, scheme):
    page = opened(width=width, color_scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert serious(page) == []
    # Its parts are those of a table, whatever they are laid out as.
    tree = page.locator("#pool").aria_snapshot()
    assert "columnheader" in tree
    assert "rowheader" in tree


def test_without_scripts_all_is_there(browser, tmp_path):
    (tmp_path / "report.html").write_text(FOUND.to_html(), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert order(page) == expected("place", "ascending")
    assert page.locator("#show, .sort").locator("visible=true").count() == 0
    context.close()


@pytest.mark.parametrize("text", [one for one in HOSTILE if can_be_encoded(one)] + ["</textarea><b>", "a" * 3000])
def test_texts_stay_texts(opened, text):
    page = opened(choice(text=text), width=360)
    plain = opened(width=360)
    count = "new Set([...document.querySelectorAll('*')].map((one) => one.tagName)).size"
    assert page.evaluate(count) <= plain.evaluate(count)
    assert page.locator("img, iframe, script").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    head(page, "text").locator("button").click()
    assert sorted(order(page)) == list(range(14))
