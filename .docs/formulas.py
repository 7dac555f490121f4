"""Formulas as MathML, written into the pages when the site is built: browsers draw it themselves, nothing is loaded."""

from __future__ import annotations

import html
import re
import unicodedata
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor

_MARKED = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)

# Browsers know no other variant than "normal"; the letters themselves are characters.
_ALPHABETS = {
    "bold": ("MATHEMATICAL BOLD",),
    "double-struck": ("MATHEMATICAL DOUBLE-STRUCK", "DOUBLE-STRUCK"),
    "fraktur": ("MATHEMATICAL FRAKTUR", "BLACK-LETTER"),
    "script": ("MATHEMATICAL SCRIPT", "SCRIPT"),
}


class _AsMathML(Postprocessor):
    def run(self, text: str) -> str:
        """Replace what the extension arithmatex has marked."""
        return replaced(text)


class _Formulas(Extension):
    def extendMarkdown(self, md: Markdown) -> None:
        """Run after all others, on the finished HTML."""
        md.postprocessors.register(_AsMathML(md), "formulas", -100)


def makeExtension(**settings: object) -> Extension:
    """Give Python-Markdown the extension that mkdocs.yml names `formulas`."""
    return _Formulas(**settings)


def replaced(content: str) -> str:
    """Write the formulas that the extension arithmatex has marked as MathML."""
    return _MARKED.sub(lambda match: mathml(html.unescape(match["latex"]).strip(), match["tag"] == "div"), content)


def mathml(latex: str, block: bool = False) -> str:
    """The formula as a MathML element; a block has a line of its own, and scrolls where it is too wide."""
    try:
        root = ElementTree.fromstring(convert(latex, display="block" if block else "inline"))
    except Exception as error:
        raise ValueError(f"cannot write the formula {latex!r} as MathML: {error}") from error
    for element in root.iter():
        element.tag = element.tag.partition("}")[2] or element.tag
        _join_words(element)
        alphabet = _ALPHABETS.get(element.get("mathvariant", ""))
        if alphabet:
            del element.attrib["mathvariant"]
            element.text = "".join(_letter(character, alphabet) for character in element.text or "")
    written = ElementTree.tostring(root, encoding="unicode")
    return f'<div class="formula">{written}</div>' if block else written


def _join_words(row: ElementTree.Element) -> None:
    """Upright letters beside each other are one word, such as softmax."""
    joined: list[ElementTree.Element] = []
    for child in row:
        last = joined[-1] if joined else None
        if last is not None and _upright(last) and _upright(child):
            last.text = (last.text or "") + (child.text or "")
        else:
            joined.append(child)
    row[:] = joined


def _upright(element: ElementTree.Element) -> bool:
    return element.tag.endswith("mi") and element.get("mathvariant") == "normal"


def _letter(character: str, alphabet: tuple[str, ...]) -> str:
    kind = unicodedata.name(character).replace("LATIN ", "").replace("LETTER ", "")
    for prefix in alphabet:
        try:
            return unicodedata.lookup(f"{prefix} {kind}")
        except KeyError:
            continue
    return character
