"""The report of a choice as a page: its numbers are the choice's, all demonstrations are there, texts are inert."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import pytest
from tests.report.choices import bare, choice
from tests.report.elements import Element, read

from iclens.display_text import signed, visible
from iclens.intervals import Estimate
from iclens.lens.differences.places import unmoved
from iclens.report.prompts_beside import beside
from iclens.report.scale import Scale, around_zero
from iclens.selection import Selection
from iclens.selection.conclusion import conclusion

FOUND = choice()


def page(found: Selection = FOUND) -> Element:
    return read(found.to_html())


def rows(found: Selection = FOUND) -> dict[int, Element]:
    """The rows of the pool by their numbers, in the order of the page."""
    every = [row for row in page(found).one("table", "pool").all("tr") if "id" in row.attributes]
    return {int(str(row.attributes["id"]).removeprefix("demonstration-")): row for row in every}


def interval(value: Estimate) -> str:
    return f"{signed(value.mean)} [{signed(value.low)}, {signed(value.high)}]"


def plain(value: Estimate) -> str:
    return format(value, ".3f").replace("-", "−")


def test_a_chat_is_written_by_the_model_and_no_template_is_shown() -> None:
    chat = replace(FOUND, template=None, separator=None, messages=({"role": "user", "content": "{input}"},))
    assert "the model's chat template" in page(chat).words
    assert "the model's chat template" not in page().words


def test_every_demonstration_has_one_row_the_chosen_ones_first_in_their_order() -> None:
    every = [row for row in page().one("table", "pool").all("tr") if "id" in row.attributes]
    assert len(every) == len(rows()) == 14
    others = [i for i in range(14) if i not in FOUND.indices]
    assert list(rows()) == [*FOUND.indices, *others]
    for i, row in rows().items():
        one, place = FOUND.demonstrations[i], row.one("td", "place")
        assert ("chosen" in row.classes) == (one.place is not None)
        assert place.words == ("" if one.place is None else str(one.place + 1))
        assert one.input.split()[-1] in row.one("td", "text").words
        assert row.one("td", "output").words == one.output


def test_every_number_of_a_row_is_that_of_the_choice() -> None:
    for i, row in rows().items():
        one = FOUND.demonstrations[i]
        assert one.effect is not None
        effect, without, doubt, hurts = (row.one("td", name) for name in ("effect", "without", "doubt", "hurts"))
        assert effect.words == interval(one.effect)
        assert float(str(effect.attributes["data-sort"])) == one.effect.mean
        if one.left_out is None:
            assert without.words == ""
            assert "data-sort" not in without.attributes
        else:
            away = Estimate(-one.left_out.mean, -one.left_out.high, -one.left_out.low, one.left_out.n)
            assert without.words == interval(away)
            assert float(str(without.attributes["data-sort"])) == -one.left_out.mean
        if one.doubt is None:
            assert doubt.words == ""
        else:
            assert doubt.words == f"{one.suspected}? by {one.doubt:.3f} nats"
            assert float(str(doubt.attributes["data-sort"])) == one.doubt
        assert hurts.words == (str(len(one.hurts_on)) if one.hurts_on else "")
        told = [item.words for item in row.all("li")]
        assert told == [
            f"{FOUND.development[q]} {FOUND.examples[q].input.strip()} → {FOUND.examples[q].output} −{nats:.3f}"
            for q, nats in zip(one.hurts_on, one.hurts_by, strict=True)
        ]
        assert row.one("td", "verdict").words.startswith(one.verdict)


def test_a_bar_ends_where_its_number_lies_and_its_whisker_where_the_interval_does() -> None:
    ends = {end for one in FOUND.demonstrations if one.effect for end in (one.effect.low, one.effect.high)}
    scale = around_zero(ends)
    for i, row in rows().items():
        value = FOUND.demonstrations[i].effect
        assert value is not None
        bar, whisker = row.one("td", "effect").one("rect"), row.one("td", "effect").one("path", "whisker")
        x, width = float(str(bar.attributes["x"])), float(str(bar.attributes["width"]))
        assert {round(x, 2), round(x + width, 2)} == {50.0, scale(value.mean)}
        assert bar.classes == ["for" if value.mean >= 0 else "against"]
        assert re.findall(r"[\d.]+", str(whisker.attributes["d"])) == [
            str(scale(value.low)),
            "4",
            str(scale(value.high)),
        ]


def test_what_it_is_worth_is_the_choices() -> None:
    lines = list(page().one("table", "worth").all("tr"))[1:]
    rival = FOUND.rival
    assert rival is not None
    expected: list[tuple[str, object]] = [("9 examples that took no part", None)]
    for both, extra in ((FOUND.held_out, True), (FOUND.dev, False)):
        expected += [("start", both.before), ("chosen", both.after), ("chosen less start", both.change)]
        if extra:
            expected += [("by random", rival.held_out.before), ("chosen less random", rival.held_out.change)]
            expected += [("9 examples that chose", None)]
    assert [line.one("th").words for line in lines] == [name for name, _ in expected]
    for line, (name, value) in zip(lines, expected, strict=True):
        if value is not None:
            form = interval if " less " in name else plain
            assert [cell.words for cell in line.all("td")] == [form(value.metric), form(value.log_loss)]  # type: ignore[attr-defined]


def test_sizes_that_ran_are_drawn_and_listed_and_no_others() -> None:
    rival = FOUND.rival
    assert rival is not None
    listed = [[cell.words for cell in row.all("td")] for row in page().one("table", "numbers").all("tr")][1:]
    ran = [(size, "influence") for size in FOUND.sizes] + [(size, "random") for size in rival.sizes]
    expected = [
        [
            str(size.n_shots),
            f"{'the only prompt' if size.n_prompts == 1 else f'the best of {size.n_prompts} prompts'} by {name}",
            str(size.reached.metric),
            str(size.reached.log_loss),
        ]
        for size, name in ran
    ]
    apart = [(14, "start", FOUND.held_out.before), (5, "chosen", FOUND.held_out.after)]
    apart += [(5, "by random", rival.held_out.before)]
    expected += [
        [str(n), f"{who}, on examples that took no part", str(one.metric), str(one.log_loss)] for n, who, one in apart
    ]
    assert listed == expected
    for figure in page().all("figure", "kept"):
        assert len(list(figure.all("circle"))) == len(ran)
        assert len(list(figure.all("path", "diamond"))) == len(apart)
        # A line has a corner where a prompt ran, and nowhere else.
        corners = [len(re.findall("[ML]", str(curve.attributes["d"]))) for curve in figure.all("path", "curve")]
        assert corners == [len(FOUND.sizes), len(rival.sizes)]


def test_the_conclusion_stands_on_top_and_says_when_the_other_method_is_as_good() -> None:
    shown = [item.words for item in page().one("header").all("li")]
    assert shown == [" ".join(sentence.split()) for sentence in conclusion(FOUND)]
    rival, one = FOUND.rival, FOUND.held_out
    assert rival is not None
    for low, high, loss, said, tone in (
        (0.1, 0.2, 0.0, "reaches less", "holds"),
        (-0.1, 0.2, 0.0, "is as good", "conditional"),
        (-0.2, -0.1, 0.0, "does better", "fails"),
        (-0.1, 0.2, 0.3, "does better", "fails"),
        (-0.1, 0.2, -0.3, "reaches less", "holds"),
    ):
        change = replace(
            one.change,
            metric=Estimate((low + high) / 2, low, high, 9),
            log_loss=Estimate(loss, loss - 0.01, loss + 0.01, 9),
        )
        found = replace(FOUND, rival=replace(rival, held_out=replace(rival.held_out, change=change)))
        (tile,) = (one for one in page(found).one("dl").all("div") if "at the same cost" in one.words)
        assert said in tile.words
        assert tile.classes == [tone]
        assert f"at the same cost {said}" in " ".join(conclusion(found))


def test_who_says_the_same_is_linked_both_ways() -> None:
    every = {one.index: one.redundant_with for one in FOUND.demonstrations if one.redundant_with is not None}
    assert len(every) > 2
    for i, row in rows().items():
        links = [str(link.attributes["href"]) for link in row.one("td", "verdict").all("a")]
        partners = [every[i]] if i in every else [other for other, own in every.items() if own == i]
        assert links == [f"#demonstration-{other}" for other in partners]
        group = every.get(i, i if partners else None)
        assert row.attributes.get("data-group") == (None if group is None else str(group))
    listed = [link.words for link in page().one("ul", "repeats").all("a")]
    assert sorted(listed) == sorted({f"#{i}" for pair in every.items() for i in pair})


def test_prompts_stand_side_by_side_with_what_was_dropped_and_moved() -> None:
    before, after = (list(one.all("p", "block")) for one in page().all("div", "blocks"))
    for blocks, order in ((before, FOUND.start), (after, FOUND.indices)):
        numbers = [block.one("b").words.split()[0] for block in blocks]
        assert numbers == ["instruction", *(f"#{i}" for i in order), "query"]
    texts = [next(iter(block.all(name="text"))).text for block in after]
    assert "\n\n".join(texts) == FOUND.prompt == page().one("pre").text
    dropped = [block.one("b").words for block in before if "dropped" in block.classes]
    assert dropped == [f"#{i} dropped" for i in FOUND.start if i not in FOUND.indices]
    assert len(list(page().all("del"))) == len(dropped)
    moved = [block.one("b").words for block in after if "moved" in block.classes]
    assert moved == [
        f"#{i} moved, place {i + 1} → {place + 1}"
        for place, i in enumerate(FOUND.indices)
        if i not in unmoved(FOUND.start, FOUND.indices)
    ]
    assert sorted(moved) == sorted(block.one("b").words for block in before if "moved" in block.classes)


def test_what_was_not_in_the_starting_prompt_is_added() -> None:
    found = replace(FOUND, start=FOUND.indices[:2])
    fates = [block.fate for block in beside(found)[1].blocks]
    assert fates == ["kept", "kept", "added", "added", "added"]
    assert len(list(page(found).all("ins"))) == 3


@pytest.mark.parametrize("n", [1, 4, 5])
def test_the_fewest_are_moved(n: int) -> None:
    one = tuple(range(n))
    for other in permutations(range(0, n + 2, 1), n):
        kept = unmoved(one, other)
        assert [i for i in one if i in kept] == [i for i in other if i in kept]
        longer = combinations(sorted(set(one) & set(other)), len(kept) + 1)
        assert not any(list(some) == [i for i in other if i in some] for some in longer)


def test_a_scale_keeps_order_and_ends_and_its_marks_are_round() -> None:
    scale = Scale(-0.3, 1.9, 10, 90)
    assert (scale(-0.3), scale(1.9), scale(0.8)) == (10, 90, 50)
    assert (scale(-9.0), scale(9.0)) == (10, 90)
    for low, high in ((0.0, 12.0), (0.125, 1.0), (-3e-5, 7e-5), (0.0, 1000.0)):
        for most in (2, 4, 5, 9):
            marks = Scale(low, high).ticks(most)
            assert 1 <= len(marks) <= most + 1
            assert all(low - 1e-12 <= mark <= high + 1e-12 for mark in marks)
            assert all(float(f"{mark:.3g}") == pytest.approx(mark, rel=1e-9, abs=1e-18) for mark in marks)
    assert Scale(2.0, 2.0)(2.0) == 0.0


def test_what_a_method_did_not_measure_has_no_column() -> None:
    found = bare(FOUND)
    head = [cell.words for cell in page(found).one("table", "pool").one("thead").all("th")]
    assert head == ["#", "demonstration", "label", "place", "verdict", "more"]
    for i, row in rows(found).items():
        assert row.one("td", "output").words == f"{FOUND.demonstrations[i].output} the model's own, 75 %"
    assert not list(page(found).all("ul", "repeats"))


def test_what_is_no_number_is_said_and_not_drawn() -> None:
    none = Estimate(float("nan"), float("nan"), float("nan"), 0)
    dev = replace(FOUND.dev, after=replace(FOUND.dev.after, metric=none))
    lost = replace(FOUND.sizes[1], reached=replace(FOUND.sizes[1].reached, metric=none))
    pool = (replace(FOUND.demonstrations[0], effect=none), *FOUND.demonstrations[1:])
    found = replace(FOUND, dev=dev, sizes=(FOUND.sizes[0], lost, *FOUND.sizes[2:]), demonstrations=pool)
    shown = found.to_html()
    assert not re.search(r'="[^"]*\bnan\b[^"]*"', shown)
    cell = rows(found)[0].one("td", "effect")
    assert cell.words.startswith("not a number")
    assert "data-sort" not in cell.attributes
    counts = [len(list(figure.all("circle"))) for figure in page(found).all("figure", "kept")]
    assert counts == [counts[1] - 1, counts[1]]


def test_a_pool_of_one_that_stays_is_a_page() -> None:
    found = choice(1, 1, rival=False)
    assert list(rows(found)) == [0]
    assert "at the same cost" not in page(found).words


def test_the_same_choice_gives_the_same_page_and_saving_writes_it(tmp_path: Path) -> None:
    assert choice(seed=3).to_html() == choice(seed=3).to_html()
    FOUND.save(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == FOUND.to_html()


def test_hidden_characters_and_changes_of_direction_are_written_out() -> None:
    odd = "\u202eright to left\u202c \x07 \u2028</textarea>{{ 7 * 7 }}"
    shown = choice(text=odd).to_html()
    assert not re.search("[\u202e\u202c\u2028\x07]", shown)
    assert "</textarea>" not in shown
    tree = read(shown)
    assert visible(odd) in tree.one("div", "blocks", **{"aria-labelledby": "after"}).text
    for row in (row for row in tree.one("table", "pool").all("tr") if "id" in row.attributes):
        assert visible(odd) in row.text
