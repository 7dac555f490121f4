"""A browser for the tests: pages on which nothing may go wrong, and what several of them read off."""

import base64
import json
import re
import shutil
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed on this system"),
]

PATIENCE = 60_000

SHORT = {
    "demonstrations": ["cat is vux .", "plum is nef .", "dog is vux ."],
    "query": "horse is",
    "answers": ["vux", "nef"],
}

# A refused question, a failed one and a server that is gone are logged by the browser, too.
_EXPECTED = re.compile(r"status of (422|500)|ERR_FAILED")


@contextmanager
def launched():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visits(browser, own, ready):
    """Opens pages and waits for the selector `ready`; nothing may go wrong on them or be fetched but from `own`."""
    problems, contexts = [], []

    def opened(address=own, width=1200, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (problems.append("a dialog"), dialog.dismiss()))
        page.on("request", lambda asked: asked.url.startswith(local) or problems.append(asked.url))
        page.goto(address)
        page.wait_for_selector(ready)
        return page

    local = (own, "file:", "blob:", "data:")
    try:
        yield opened
    finally:
        for context in contexts:
            context.close()
    assert [problem for problem in problems if not _EXPECTED.search(problem)] == []


def refuse_addresses(page):
    """The browser lets the page change its address no more, as some do after many times."""
    page.evaluate("() => { history.replaceState = () => { throw new DOMException('too often', 'SecurityError'); }; }")


def link(state):
    """The hash of a prompt."""
    return "#q=" + coded(state)


def coded(state):
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode().rstrip("=")


def unfold(page):
    """Opens everything that is folded."""
    page.locator("details").evaluate_all("all => { for (const one of all) one.open = true; }")


def says(page, selector, text):
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def number(text):
    return float(text.replace("−", "-").replace("≈ 0", "0"))


def scores(page):
    return [number(text) for text in page.locator(".demonstration .score").all_inner_texts()]


def serious(page):
    """What axe-core finds serious, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    return [
        (one["id"], [node["html"][:120] for node in one["nodes"][:3]])
        for one in axe.Axe().run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]
