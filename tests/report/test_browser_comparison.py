"""The page of a comparison in a browser: it fits every width, in both schemes, and axe finds nothing serious."""

from __future__ import annotations

import pytest
from tests.explorer.browsing import MARKS, launched, serious, visits
from tests.report.test_comparison_page import found

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser():
    with launched() as running:
        yield running


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_axe_finds_nothing_serious(browser, tmp_path, width, scheme):
    file = tmp_path / "comparison.html"
    file.write_text(found().to_html(), encoding="utf-8")
    with visits(browser, file.as_uri(), "main") as visit:
        page = visit(width=width, color_scheme=scheme)
        for details in page.locator("details").all():
            details.evaluate("one => { one.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious(page) == []
