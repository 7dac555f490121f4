"""Pages as trees of elements, for tests that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "img", "source", "br", "link", "input"}


@dataclass
class Element:
    """An element with its attributes and what is in it."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    @property
    def text(self) -> str:
        """All text within, as it stands there."""
        return "".join(one if isinstance(one, str) else one.text for one in self.children)

    @property
    def words(self) -> str:
        """All text within, on one line."""
        return " ".join(self.text.split())

    def all(self, tag: str = "", name: str = "", **attributes: str) -> Iterator[Element]:
        """The elements within, in order, of a tag and a class, with these attributes."""
        for one in self.children:
            if isinstance(one, str):
                continue
            is_named = tag in ("", one.tag) and (not name or name in one.classes)
            if is_named and attributes.items() <= one.attributes.items():
                yield one
            yield from one.all(tag, name, **attributes)

    def one(self, tag: str = "", name: str = "", **attributes: str) -> Element:
        """The only such element."""
        (found,) = self.all(tag, name, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.open = [Element("", {})]
        self.feed(page)
        self.close()
        assert len(self.open) == 1, "an element does not end"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Element:
    """A page as a tree; every element must end in order."""
    return _Reader(page).open[0]
