"""A response in a browser: tokens and sources colour each other, and sources are called by what they are."""

import re
from dataclasses import replace

import pytest
from tests.explorer.browsing import MARKS, number, scores, serious, unfold, visits

import iclens
from iclens.explorer.explained import explained_page
from iclens.lens.facts import Piece, ResponseEffects, SourceEffect, Token

pytestmark = MARKS

HOSTILE = '<img src=x onerror=alert(1)></script><script>alert(2)</script>\u202e"'
DOCUMENTS = [
    {"id": "animals", "text": "cat is vux .\ndog is vux .\ntiger is vux .\nlion is vux .\nrabbit is vux ."},
    {"id": "fruit", "text": "plum is nef .\ngrape is nef ."},
    {"id": "tools", "text": "saw is mib ."},
]
ASKED = {"documents": DOCUMENTS, "question": "horse is", "template": "{text}\n\n{question}"}
RESPONSE = "vux . banana is nef . hammer is mib ."


@pytest.fixture(scope="module")
def explanation(model):
    told = {"scores": ("influence", "gradient_step"), "within": "lines", "budget": 2}
    return iclens.explain(model, ASKED, response=RESPONSE, **told)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of an explanation; nothing may go wrong on it or be fetched."""
    file = tmp_path / "page.html"
    with visits(browser, file.as_uri(), "body.settled") as visit:

        def show(explanation, **options):
            file.write_text(explained_page(explanation), encoding="utf-8")
            return visit(**options)

        yield show


@pytest.fixture
def page(opened, explanation):
    return opened(explanation)


def tokens(page):
    return page.locator("#response .token")


def signs(page, selector):
    """Of each element, the colour that it has: its strength with its sign, 0 for none."""
    return page.locator(selector).evaluate_all(
        "all => all.map((one) => one.classList.contains('tinted') ? "
        "Number(one.style.getPropertyValue('--strength')) * (one.classList.contains('tint-against') ? -1 : 1) : 0)"
    )


def colours(values, explanation):
    """What is little beside the whole matrix is pale, so that noise is not taken for more."""
    most = max(map(abs, (*values, *(0.01 * value for row in explanation.response.influence for value in row))))
    return [value / most if abs(value) / most > 0.004 else 0.0 for value in values]


def test_the_response_stands_on_top_token_by_token(page, explanation):
    shown = explanation.response
    texts = [text.strip() for text in tokens(page).all_inner_texts()]
    assert texts == [text.strip() for text in shown.tokens]
    for token, log_p in zip(tokens(page).all(), shown.log_probabilities, strict=True):
        for said in (token.get_attribute("title"), token.get_attribute("aria-label")):
            assert number(re.search(r"log-probability (\S+) nats", said)[1]) == pytest.approx(log_p, rel=1e-3, abs=6e-4)
    top = page.locator("#response-section").bounding_box()["y"]
    assert top < page.locator(".desk").bounding_box()["y"]


def test_pointing_at_a_token_colours_the_sources(page, explanation):
    own = scores(page)
    for t, row in enumerate(explanation.response.influence):
        tokens(page).nth(t).hover()
        assert scores(page) == pytest.approx(row, rel=1e-4, abs=6e-4)
        assert signs(page, ".demonstration") == pytest.approx(colours(row, explanation), abs=2e-3)
    page.mouse.move(1, 1)
    assert scores(page) == own == pytest.approx([one.scores["influence"] for one in explanation.sources], abs=6e-4)


def test_a_statement_is_the_sum_of_its_tokens(page, explanation):
    rows = explanation.response.influence
    # The second sentence, by its number, and two tokens that are chosen one after the other.
    page.locator("#response .sentence").nth(1).click()
    page.mouse.move(1, 1)
    sentence = [t for t, one in enumerate(tokens(page).all()) if one.get_attribute("aria-selected") == "true"]
    assert "".join(explanation.response.tokens[t] for t in sentence).strip() == "banana is nef ."
    total = [sum(rows[t][i] for t in sentence) for i in range(3)]
    assert scores(page) == pytest.approx(total, rel=1e-4, abs=6e-4)
    tokens(page).nth(1).click()
    tokens(page).nth(3).click(modifiers=["Shift"])
    page.mouse.move(1, 1)
    total = [sum(rows[t][i] for t in (1, 2, 3)) for i in range(3)]
    assert scores(page) == pytest.approx(total, rel=1e-4, abs=6e-4)
    # By a drag of the mouse, too.
    boxes = [tokens(page).nth(t).bounding_box() for t in (4, 6)]
    middles = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    page.mouse.move(*middles[0])
    page.mouse.down()
    page.mouse.move(*middles[1], steps=8)
    page.mouse.up()
    page.mouse.move(1, 1)
    total = [sum(rows[t][i] for t in (4, 5, 6)) for i in range(3)]
    assert scores(page) == pytest.approx(total, rel=1e-4, abs=6e-4)


def test_pointing_at_a_source_colours_the_response(page, explanation):
    for i in range(3):
        page.locator(".source").nth(i).hover()
        column = [row[i] for row in explanation.response.influence]
        assert signs(page, "#response .token") == pytest.approx(colours(column, explanation), abs=2e-3)
        assert page.locator("#linked-note").inner_text().startswith(explanation.sources[i].name)
    page.mouse.move(1, 1)
    assert signs(page, "#response .token") == [0.0] * len(explanation.response.tokens)


def test_a_tap_on_either_side_stays(opened, explanation):
    page = opened(explanation, width=360, has_touch=True)
    tokens(page).nth(5).tap()
    assert scores(page) == pytest.approx(explanation.response.influence[5], rel=1e-4, abs=6e-4)
    page.locator(".source-head").nth(1).tap()
    column = [row[1] for row in explanation.response.influence]
    assert signs(page, "#response .token") == pytest.approx(colours(column, explanation), abs=2e-3)
    page.locator(".source-head").nth(1).tap()
    page.locator("#tokens").tap()
    assert signs(page, "#response .token") == [0.0] * len(explanation.response.tokens)


def test_keys_reach_every_token_and_every_source_with_one_tab_stop_each(page, explanation):
    for selector in ("#response [role=option]", ".source-head"):
        assert page.locator(selector).evaluate_all("all => all.filter((one) => one.tabIndex === 0).length") == 1
    page.locator("#response [tabindex='0']").focus()
    rows = explanation.response.influence
    # The first part is the number of the first sentence.
    page.keyboard.press("ArrowRight")
    assert scores(page) == pytest.approx(rows[0], rel=1e-4, abs=6e-4)
    page.keyboard.press("ArrowRight")
    assert scores(page) == pytest.approx(rows[1], rel=1e-4, abs=6e-4)
    page.keyboard.press("Shift+ArrowLeft")
    both = [first + second for first, second in zip(rows[0], rows[1], strict=True)]
    assert scores(page) == pytest.approx(both, rel=1e-4, abs=6e-4)
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert scores(page) == pytest.approx(rows[-1], rel=1e-4, abs=6e-4)
    page.keyboard.press("Escape")
    page.locator(".source-head").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.innerText").startswith("document tools")
    column = [row[2] for row in rows]
    assert signs(page, "#response .token") == pytest.approx(colours(column, explanation), abs=2e-3)


def test_sources_are_called_by_what_they_are_everywhere(page, explanation):
    unfold(page)
    text = page.locator("#view-prompt").inner_text()
    labels = page.locator("#view-prompt [aria-label], #view-prompt [title]").evaluate_all(
        "all => all.flatMap((one) => [one.ariaLabel ?? '', one.title ?? ''])"
    )
    for said in (text, *labels, *page.locator("#of option").all_inner_texts()):
        assert not re.search(r"#\d", said), said
        assert "demonstration" not in said.lower(), said
    for effect in explanation.sources:
        assert text.count(effect.name) >= 4
    ranked = [effect.name for effect in explanation.ranked()]
    assert page.locator("table.scores tbody th").all_inner_texts() == ranked
    said = [f"influence of {effect.name}" for effect in explanation.sources]
    assert page.locator(".demonstration .score").evaluate_all("all => all.map((one) => one.ariaLabel)") == said
    assert "Without the text of any document" in page.locator("#conclusion").inner_text()


def test_a_long_source_folds_to_its_first_line_and_holds_its_pieces(page, opened, explanation):
    head, body = page.locator(".source-head").first, page.locator(".source-body").first
    assert head.get_attribute("aria-expanded") == "false"
    assert body.is_hidden()
    assert head.inner_text() == "document animals cat is vux ."
    assert page.locator(".source").first.locator(".score").is_visible()
    head.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-expanded") == "true"
    pieces = explanation.sources[0].pieces
    shown = body.locator(".pieces li")
    assert shown.locator("bdi").all_inner_texts() == [piece.text for piece in pieces]
    values = [number(one.locator(".number").inner_text().split(" removed")[0]) for one in shown.all()]
    assert values == pytest.approx([piece.scores["influence"] for piece in pieces], rel=1e-4, abs=6e-4)
    assert sum(values) == pytest.approx(explanation.sources[0].scores["influence"], abs=6e-3)
    deleted = [piece.rerun_margin_change is not None for piece in pieces]
    assert [" removed " in one.inner_text() for one in shown.all()] == deleted
    # By a score that pieces have not, they stay as they are, and it is said by which.
    by_path = replace(explanation, scores=("path", *explanation.scores), lens=None)
    other = opened(by_path).locator(".source-body").first.locator(".pieces li")
    assert other.all_text_contents() == ["by influence", *shown.all_text_contents()]
    # A short one is read as it stands.
    assert page.locator(".source").nth(2).locator(".source-text").inner_text() == "saw is mib ."
    page.keyboard.press("Enter")
    assert body.is_hidden()


def test_grounding_stands_with_the_conclusion(page, explanation):
    text = page.locator("#grounding").inner_text()
    assert "From the documents" in text
    share = explanation.grounding.share
    assert number(re.search(r"([\d.]+) %", text)[1]) == pytest.approx(100 * share, abs=0.06)
    assert f"‘{explanation.grounding.answer.strip()}’" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_and_by_everybody(opened, explanation, scheme):
    page = opened(explanation, width=360, color_scheme=scheme)
    tokens(page).nth(2).click()
    page.locator(".source-head").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert serious(page) == []


def test_hostile_documents_names_responses_and_statements_stay_text(opened, explanation):
    sources = tuple(
        replace(
            one,
            name=f"document {HOSTILE}",
            id=HOSTILE,
            text=f"{HOSTILE}\n" * 6,
            pieces=(Piece(0, HOSTILE, HOSTILE, {}),) * 2,
        )
        for one in explanation.sources
    )
    said = explanation.response
    response = replace(
        said,
        text=HOSTILE,
        statement=HOSTILE,
        foil=HOSTILE,
        measure=HOSTILE,
        tokens=(HOSTILE, *said.tokens[1:]),
        statements=(),
    )
    grounding = replace(explanation.grounding, answer=HOSTILE)
    told = {"answer": HOSTILE, "margin_definition": HOSTILE, "grounding": grounding, "lens": None}
    page = opened(replace(explanation, sources=sources, response=response, **told))
    page.locator(".source-head").first.click()
    tokens(page).first.hover()
    assert page.locator("main img, main script").count() == 0
    shown = page.locator("#view-prompt").inner_text()
    assert "\u202e" not in shown
    assert "⟨U+202E⟩" in page.locator("#response").inner_text()
    assert "<img src=x onerror=alert(1)>" in page.locator(".source-body").first.inner_text()


def large(explanation, n_tokens, n_sources=100, n_response=64):
    """An explanation of a size that the bundled model does not read."""
    each = n_tokens // n_sources
    tokens = tuple(Token(f" w{t % 97}", t // each, "source", 0.01, None, {"influence": 0.02}) for t in range(n_tokens))
    sources = tuple(
        SourceEffect(
            i,
            " w" * each,
            None,
            each,
            0.1,
            scores={"influence": (-1) ** i * 0.01 * i},
            name=f"document d{i}",
            kind="document",
            id=f"d{i}",
        )
        for i in range(n_sources)
    )
    influence = tuple(tuple((-1) ** (t + i) * (t * i % 13) / 13 for i in range(n_sources)) for t in range(n_response))
    said = tuple(f" r{t}" for t in range(n_response))
    response = ResponseEffects(
        "".join(said), said, (-0.5,) * n_response, "log_probability", 0, n_response, influence=influence
    )
    return replace(explanation, tokens=tokens, sources=sources, response=response, grounding=None, lens=None)


HOVER = """() => new Promise((done) => {
  const [touched, times] = [[], []];
  let nodes = new Set();
  const observer = new MutationObserver((all) => all.forEach(({ target }) => nodes.add(target)));
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  const over = [...document.querySelectorAll('#response .token'), ...document.querySelectorAll('.demonstration')];
  let at = 0;
  const next = () => {
    if (at === over.length) return done({ touched, times });
    const start = performance.now();
    over[at].dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
    over[at].dispatchEvent(new PointerEvent('pointerenter'));
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        times.push(performance.now() - start);
        touched.push(nodes.size);
        nodes = new Set();
        over[at].dispatchEvent(new PointerEvent('pointerleave'));
        document.getElementById('response').dispatchEvent(new PointerEvent('pointerleave'));
        requestAnimationFrame(() => { nodes = new Set(); at += 1; next(); });
      };
      port2.postMessage(null);
    });
  };
  next();
})"""


def test_a_repaint_touches_the_two_sides_alone_however_long_the_context_is(opened, explanation):
    found = {n_tokens: opened(large(explanation, n_tokens)).evaluate(HOVER) for n_tokens in (2000, 8000)}
    assert found[2000]["touched"] == found[8000]["touched"]
    # A row and its score, or a token; and the two lines that say so.
    assert 0 < max(found[2000]["touched"]) <= 2 * 100 + 64 + 4


def test_the_statements_are_listed_with_the_sources_that_the_json_cites(page, explanation):
    cited = explanation.citations()
    assert len(cited) > 1
    page.locator("#cited summary").click()
    items = page.locator("#cited-list > li")
    assert items.count() == len(cited)
    for one, item in zip(cited, items.all(), strict=True):
        assert item.locator(".statement").inner_text() == one["statement"].strip()
        told = item.inner_text()
        assert [told.index(source["name"]) for source in one["sources"]] == sorted(
            told.index(source["name"]) for source in one["sources"]
        )
        assert ("opposed by" in told) == bool(one["opposed_by"])
    assert serious(page) == []


def test_a_response_of_one_statement_has_no_list(opened, model):
    shown = opened(iclens.explain(model, ASKED, response="vux", scores=("influence",)))
    assert shown.locator("#cited").is_hidden()


def test_hostile_statements_and_names_stay_text(opened, explanation):
    response = replace(
        explanation.response,
        text=explanation.response.text.replace("banana is nef", HOSTILE, 1)[: len(explanation.response.text)],
    )
    shown = opened(replace(explanation, response=response))
    shown.locator("#cited summary").click()
    assert shown.locator("#cited-list img, #cited-list script").count() == 0
