"""The Lab view as several tests open it and read it."""

from contextlib import contextmanager

from tests.explorer.browsing import number, visits


@contextmanager
def lab_visits(browser, served):
    """Opens the view by its hash, or a saved page by its address."""
    with visits(browser, served.address, "body.lab-settled") as opened:
        yield lambda rest="#lab", **options: opened(rest if "://" in rest else served.address + rest, **options)


def settled(page):
    page.wait_for_selector("body.lab-settled")


def points(page):
    """The coordinates in the table."""
    rows = page.locator("#lab-rows tr").all()
    return [[number(row.locator(f"input[name={name}]").input_value()) for name in "xy"] for row in rows]


def prediction(page, row=0):
    return number(page.locator("#lab-answers td").nth(row).inner_text())
