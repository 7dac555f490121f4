"""Turns of phrase that documentation, help texts and docstrings avoid, each with what to write in its place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")

HABITS = {
    r"\bforet(?:ell|old|elling)": "write predict",
    r"\banew\b": "write again",
    r"\bbegun\b": "write started",
    r"\bso many\b(?! that)": "give the number a name, or write as many as",
    r"\bwhoever\b": "name who it is",
    r"\basked of\b": "write the condition on",
    r"\bsaid of\b": "name who says what",
    r"\bheld against\b": "write checked against or compared with",
    r"\btold (?:from|apart)\b": "write distinguished",
    r"\b(?:tells|told) (?:nobody|of|about)\b": "say what is called, or printed",
    r"\bparted by\b": "write separated by",
    r"\b(?:go|goes|gone) on with\b": "write continue",
    r"\bof one's own\b": "write your",
    r"\b(?:that|which|what) (?:is|are) no \w": "write is not a",
    r"\b(?:given|tokens|words|model|queries|keys) at hand\b": "write given, or available",
    r"\bbehind (?:the|a|its) (?:prompt|text|query|answer|last|others)\b": "write after",
    r"\bmodel is to say\b": "write the new input to complete",
    r"\bworth (?:their|its) start\b": "write that the start-up cost pays off",
    r"\bnoone\b|\bnobody else\b": "name who it is",
}
"""Patterns to avoid and what to write in their place; error messages are not read."""

OPENINGS = {
    r"(?:That|Those) of\b": "the noun that it stands for",
    r"So many\b": "a verb",
    r"What is no\b": "a verb",
    r"One an? (?:seed|model|task|case|level|run|kind|number)\b": "a sentence: return one part per seed",
}
"""How no docstring begins, and with what it should."""


def docstrings():
    """Place and text of every docstring, those of attributes with them."""
    for file in sorted((ROOT / "src" / "iclens").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for before, statement in zip([None, *node.body], node.body, strict=False):
                documents = before is None or isinstance(before, ast.Assign | ast.AnnAssign)
                value = statement.value if documents and isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield f"{file.relative_to(ROOT)}:{statement.lineno}", value.value


def prose():
    """Place and text of all that is read: pages without their code, and docstrings, which are the help texts too."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        yield str(page.relative_to(ROOT)), FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from docstrings()


def found(patterns, texts, match):
    return [
        f"{place}: {hit.group()!r}: {reason}"
        for place, text in texts
        for pattern, reason in patterns.items()
        if (hit := match(pattern, " ".join(CODE.sub("`", text).split())))
    ]


def test_no_page_or_docstring_falls_into_a_habit():
    texts = list(prose())
    assert len(texts) > 3000
    assert found(HABITS, texts, lambda pattern, text: re.search(pattern, text, re.IGNORECASE)) == []


def test_docstrings_begin_with_a_verb_or_a_noun():
    assert found(OPENINGS, docstrings(), re.match) == []


@pytest.mark.parametrize(
    "text",
    [
        "Its scores foretell the margin.",
        "Of a part that is no demonstration.",
        "An answer behind the prompt.",
        "Ensembles of so many runs.",
        "The tokens at hand.",
        "progress: told of the rounds.",
    ],
)
def test_the_habits_are_found(text):
    assert found(HABITS, [("here", text)], lambda pattern, text: re.search(pattern, text, re.IGNORECASE))


def test_what_resembles_a_habit_is_not_found():
    for text in ("The idea behind a step.", "so many that it fails", "There is no prompt.", "`anew` is a name"):
        assert found(HABITS, [("here", text)], lambda pattern, text: re.search(pattern, text, re.IGNORECASE)) == []
