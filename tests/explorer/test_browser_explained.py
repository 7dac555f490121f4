"""The page that `iclens explain --html` writes, opened from a disk: everything on it is read, nothing is fetched."""

from dataclasses import replace

import pytest
from tests.explorer.browsing import MARKS, number, scores, unfold, visits
from tests.explorer.test_explained import ANSWERS, OPTIONS, SCORES, TEXT

import iclens
from iclens.display_text import signed
from iclens.explorer.explained import explained_page

pytestmark = MARKS


@pytest.fixture(scope="module")
def explanation(model):
    return iclens.explain(model, TEXT, answers=ANSWERS, **OPTIONS, command="iclens explain --this")


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of an explanation; nothing may go wrong on it or be fetched."""
    file = tmp_path / "page.html"
    with visits(browser, file.as_uri(), "body.settled") as visit:

        def show(explanation):
            file.write_text(explained_page(explanation))
            return visit()

        yield show


def test_every_number_can_be_read(opened, explanation):
    page = opened(explanation)
    unfold(page)
    text = page.locator("#details").inner_text()
    for effect in explanation.sources:
        for value in (
            effect.gradient_step,
            effect.path,
            effect.scores["influence"],
            effect.scores["shares"],
            *effect.of_output.values(),
            effect.knock_out.margin_change,
            effect.knock_out.log_probability_change,
            effect.rerun_margin_change,
        ):
            # The page writes what float32 cannot tell from 0 as such.
            assert abs(value) < 1e-7 or signed(value)[:6] in text
        assert effect.text in text
    for other in explanation.others:
        assert signed(other.path)[:6] in text
    for residual in explanation.residuals:
        assert residual.name in text
    for title in ("Groups knocked out together", "How well the scores predict", "How far the scores agree", "Made by"):
        assert title in text
    taken, complete = explanation.influence_at, explanation.completeness
    assert f"1/{round(1 / taken.weight)} of its weight" in text if taken.weight < 0.5 else "half its weight" in text
    assert f"the logit difference is {signed(taken.margin)[:6]}" in text
    assert f"shares against what the demonstrations change, at {len(complete.weights)} weights" in text
    totals = page.locator("table.scores tfoot .number").all_inner_texts()
    additive = ("gradient_step", "path", "influence", "shares")
    sums = [sum(effect.score(name) for effect in explanation.sources) for name in additive]
    assert [number(total) for total in totals] == pytest.approx(sums, rel=1e-5, abs=6e-4)
    ranked = [f"#{effect.index}" for effect in explanation.ranked()]
    assert page.locator("table.scores tbody th").all_inner_texts() == ranked
    assert page.locator("#command").inner_text() == explanation.command


def test_tokens_and_demonstrations_take_the_colour_that_is_chosen(opened, explanation):
    page = opened(explanation)
    page.get_by_text("total effect", exact=True).first.click()
    assert scores(page) == pytest.approx([effect.path for effect in explanation.sources], abs=6e-4)
    titles = page.locator("#tokens span").evaluate_all("all => all.map((one) => one.title)")
    paths = [number(title.split("total effect ")[1]) for title in titles]
    assert paths == pytest.approx([token.path for token in explanation.tokens], abs=6e-4)


@pytest.mark.parametrize("name", ["influence", "shares", "gradient_step"])
def test_every_word_and_colour_is_of_the_score_that_is_chosen(opened, explanation, name):
    said = {"gradient_step": "direct effect"}.get(name, name)
    page = opened(explanation)
    page.locator(f"input[value={name}]").check(force=True)
    assert scores(page) == pytest.approx([effect.score(name) for effect in explanation.sources], rel=1e-5, abs=6e-4)
    assert page.locator("#tokens-note").inner_text().startswith(f"Coloured by {said}")
    assert f"demonstrations’ {said}" in page.locator("#map-note").inner_text()
    assert page.locator("#map").get_attribute("aria-label") == f"{said} by layer and head"
    labels = page.locator(".demonstration .score").evaluate_all("all => all.map((one) => one.ariaLabel)")
    assert labels == [f"{said} of demonstration {i}" for i in range(3)]
    assert ("per unit of weight" in page.locator("#full").inner_text()) == (name == "influence")
    # The map of all, and of one.
    single = [effect.maps.get(name) or effect.by_layer_and_head for effect in explanation.sources]
    for chosen, rows in (("all", explanation.total_by_layer_and_head(name)), ("1", single[1])):
        page.locator("#of").select_option(chosen)
        shown = page.locator(".cell").evaluate_all("all => all.map((one) => one.title)")
        flat = [value for row in rows for value in row]
        assert [number(title.split(": ")[1]) for title in shown] == pytest.approx(flat, rel=1e-4, abs=6e-4)
    titles = page.locator("#tokens span").evaluate_all("all => all.map((one) => one.title)")
    values = [token.scores.get(name, token.gradient_step) for token in explanation.tokens]
    own = [number(title.split(f"{said} ")[1].split(",")[0]) for title in titles]
    assert own == pytest.approx(values, rel=1e-4, abs=6e-4)


@pytest.mark.parametrize("name", ["path", "knock_out", "rerun"])
def test_a_score_without_a_map_says_that_direct_effects_stand_in(opened, explanation, name):
    page = opened(explanation)
    page.locator(f"input[value={name}]").check(force=True)
    note = page.locator("#map-note").inner_text()
    assert "there is no map by heads" in note
    assert "direct effect" in note
    shown = page.locator(".cell").evaluate_all("all => all.map((one) => one.title)")
    flat = [value for row in explanation.total_by_layer_and_head() for value in row]
    assert [number(title.split(": ")[1]) for title in shown] == pytest.approx(flat, abs=6e-4)


def test_the_conclusion_stands_below_the_answer(opened, explanation):
    assert SCORES[0] == "gradient_step"
    page = opened(explanation)
    assert page.locator("#conclusion span").all_inner_texts() == list(explanation.conclusion) != []
    assert page.locator("#conclusion").evaluate("one => one.previousElementSibling.contains(answer)")


def test_a_loaded_explanation_is_shown_without_layers_and_heads(opened, explanation, tmp_path):
    explanation.save(tmp_path / "report.json")
    page = opened(iclens.Explanation.load(tmp_path / "report.json"))
    for selector in ("#head", "#layers-note"):
        assert "needs the model" in page.locator(selector).inner_text()
    unfold(page)
    loaded = [page.locator(selector).inner_text() for selector in ("#answer", "#details", "#tokens", "#map", "#checks")]
    loaded += [scores(page), page.locator(".cell").count()]
    page = opened(explanation)
    unfold(page)
    whole = [page.locator(selector).inner_text() for selector in ("#answer", "#details", "#tokens", "#map", "#checks")]
    assert loaded == [*whole, scores(page), page.locator(".cell").count()]


def test_the_scores_that_were_computed_are_shown_and_no_others(opened, model):
    explanation = iclens.explain(model, TEXT, answers=ANSWERS, scores=("lasso", "path"))
    page = opened(explanation)
    radios = page.locator("input[name=colour]")
    assert radios.evaluate_all("all => all.map((one) => one.value)") == ["lasso", "path"]
    for name in ("lasso", "path"):
        page.locator(f"input[value={name}]").check(force=True)
        assert scores(page) == pytest.approx([effect.score(name) for effect in explanation.sources], abs=6e-4)
    unfold(page)
    heads = page.locator("table.scores thead th").all_inner_texts()
    assert heads == ["#", "demonstration", "lasso", "total effect"]
    assert page.locator(".cell").count() == 0
    assert "No map" in page.locator("#map-note").inner_text()


def test_a_check_that_fails_is_said_first(opened, explanation):
    page = opened(explanation)
    assert page.locator("#distrust").is_hidden()
    for value in (1.0, float("nan")):
        broken = replace(
            explanation, residuals=(replace(explanation.residuals[0], value=value), *explanation.residuals)
        )
        page = opened(broken)
        assert page.locator("#view-prompt").inner_text().strip().startswith("Do not trust these numbers")
        assert "Do not trust" in page.locator("#checks").inner_text()
        assert page.locator("#details tr.broken").count() == 1


def test_the_bound_says_what_it_bounds(opened, explanation):
    page = opened(explanation)
    # Theory is for those who ask.
    assert not page.locator("table.bound").is_visible()
    unfold(page)
    text = page.locator("#head").inner_text()
    assert "Theorem 3.2" in text
    assert "vacuous" in text
    assert page.locator("table.bound tbody tr").count() == 3
