"""Laws of the registry: names are unique, mistakes are answered, third parties come in through entry points."""

from __future__ import annotations

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens import registry
from iclens.errors import UserError
from iclens.registry import Registry

names = st.text(string.ascii_lowercase, min_size=1, max_size=8)


class EntryPoint:
    """What `importlib.metadata.entry_points` gives, reduced to what a registry uses."""

    def __init__(self, load):
        self.load = load


@given(st.dictionaries(names, st.integers()))
def test_registered_things_are_found_again_under_their_names_in_order(things):
    numbers = Registry[int]("number", "iclens.tests.numbers")
    for name, thing in things.items():
        assert numbers.register(name)(thing) is thing
    assert list(numbers) == list(things)
    assert {name: numbers[name] for name in numbers} == things
    assert all(name in numbers for name in things)
    assert "a name of nobody" not in numbers


def test_a_name_belongs_to_one_thing():
    shapes = Registry[object]("shape", "iclens.tests.shapes")
    square = object()
    shapes.register("square")(square)
    shapes.register("square")(square)  # a module imported twice is no mistake
    with pytest.raises(ValueError, match="the shape 'square' is registered already"):
        shapes.register("square")(object())
    assert shapes["square"] is square


def test_a_thing_stands_in_for_another_as_long_as_it_is_asked_to():
    shapes = Registry[str]("shape", "iclens.tests.shapes")
    shapes.register("square")("square")
    with suppress(ZeroDivisionError), shapes.replaced("square", "drawn"), shapes.replaced("circle", "drawn too"):
        assert (shapes["square"], shapes["circle"]) == ("drawn", "drawn too")
        raise ZeroDivisionError
    assert list(shapes) == ["square"]
    assert shapes["square"] == "square"


def test_an_unknown_name_is_answered_with_the_closest_and_all_known_ones():
    kernels = Registry[int]("kernel", "iclens.tests.kernels")
    kernels.register("softmax")(1)
    kernels.register("linear")(2)
    with pytest.raises(UserError) as error:
        kernels["sofmax"]
    assert str(error.value) == "unknown kernel 'sofmax'. Did you mean 'softmax'? Known: linear, softmax."
    with pytest.raises(UserError, match=r"unknown kernel 'zzz'\. Known: linear, softmax\."):
        kernels["zzz"]


def test_entry_points_are_read_once_and_only_when_a_name_is_missing(monkeypatch):
    shapes = Registry[str]("shape", "iclens.tests.shapes")
    shapes.register("square")("square")
    reads = []

    def entry_points(group):
        reads.append(group)
        return [EntryPoint(lambda: shapes.register("circle")("circle"))]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert shapes["square"] == "square"
    assert "square" in shapes
    assert reads == []
    assert shapes["circle"] == "circle"
    assert "triangle" not in shapes
    assert list(shapes) == ["square", "circle"]
    assert reads == ["iclens.tests.shapes"]


def test_listing_includes_what_entry_points_bring(monkeypatch):
    shapes = Registry[str]("shape", "iclens.tests.shapes")
    point = EntryPoint(lambda: shapes.register("circle")("circle"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert list(shapes) == ["circle"]
