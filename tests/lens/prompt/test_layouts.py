"""Texts as people lay them out are read as they were written: demonstrations, outputs, instruction and query."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.lens.prompt import Prompt, read_document
from iclens.lens.prompt.outputs import outputs_of

_WORD = st.text("abcdeuvw", min_size=1, max_size=6)
_LINE = st.lists(_WORD, min_size=1, max_size=4).map(" ".join)
_TEXT = st.lists(_LINE, min_size=1, max_size=3).map("\n".join)
_PAIRS = st.lists(st.tuples(_TEXT, _LINE), min_size=2, max_size=5)

# How a demonstration is written, what the query has in place of the output and what follows it, what stands between,
# and what around all of them.
_LAYOUTS = {
    "labels": ("Review: {}\nSentiment: ", "{}", "\n", "", ""),
    "labels apart": ("Review: {}\nSentiment: ", "{}", "\n\n", "", ""),
    "labels with blank lines inside": ("Review: {}\n\nSentiment: ", "{}", "\n\n", "", ""),
    "headings": ("### Question\n{}\n### Answer\n", "{}", "\n", "", ""),
    "headings apart": ("### Question\n\n{}\n\n### Answer\n\n", "{}", "\n\n", "", ""),
    "roles": ("<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", "{}<|im_end|>", "\n", "", ""),
    "speakers": ("Human: {}\nAssistant: ", "{}", "\n", "", ""),
    "brackets": ("<s>[INST] {} [/INST] ", "{} </s>", "", "", ""),
    "elements": ("<example>\n<input>{}</input>\n<output>", "{}</output>\n</example>", "\n", "", ""),
    "elements in one": ("<shot>\nQ: {}\nA: ", "{}\n</shot>", "\n", "<shots>\n", "\n</shots>\n\n"),
    "lines of a mark": ("Tweet: {}\nLabel: ", "{}", "\n---\n", "", ""),
    "marks and blank lines": ("Tweet: {}\nLabel: ", "{}", "\n\n###\n\n", "", ""),
    "colons of Chinese": ("评论\uff1a{}\n情感\uff1a", "{}", "\n", "", ""),
}


def _shown(prompt: Prompt) -> list[str]:
    return [span.of(prompt.text) for span in prompt.demonstrations]


@pytest.mark.parametrize("instruction", ["", "Say what each of these is", "Sort them\ninto two kinds"])
@pytest.mark.parametrize("name", _LAYOUTS)
@given(_PAIRS, _TEXT)
@settings(max_examples=25, deadline=None)
def test_what_was_written_is_read(name: str, instruction: str, pairs: list[tuple[str, str]], query: str) -> None:
    asked, answered, between, before, after = _LAYOUTS[name]
    shots = [asked.format(input_) + answered.format(output) for input_, output in pairs]
    head = instruction + ("\n\n" if instruction else "")
    text = head + before + between.join(shots) + (after or between) + asked.format(query)
    prompt = Prompt.from_text(text)
    assert _shown(prompt) == shots
    spans = [span.of(prompt.text) for span in outputs_of(prompt) if span is not None]
    assert [own[: len(output)] for own, (_, output) in zip(spans, pairs, strict=True)] == [one for _, one in pairs]
    assert prompt.query.of(prompt.text).rstrip().endswith(asked.format(query).rstrip())
    first = (instruction + "\n\n" + before).strip()
    assert (prompt.instruction.of(prompt.text) if prompt.instruction else "") == first
    assert len(prompt.notes) <= 1
    assert read_document(prompt.to_document()) == prompt
    assert _shown(prompt.without([0])) == shots[1:]


def test_numbers_in_labels_may_differ() -> None:
    text = "Sample 1: warm\nLabel 1: good\nSample 2: dull\nand long\nLabel 2: bad\nSample 3: fine\nLabel 3:"
    assert _shown(Prompt.from_text(text)) == ["Sample 1: warm\nLabel 1: good", "Sample 2: dull\nand long\nLabel 2: bad"]


def test_answers_of_several_lines_belong_to_their_demonstration() -> None:
    shots = [
        "Q: 3 and 2?\nA: Start with 3.\nAdd 2.\nThe answer is 5.",
        "Q: 7 less 3?\nA: Take 3 away.\nThe answer is 4.",
    ]
    for between in ("\n", "\n\n"):
        prompt = Prompt.from_text(between.join([*shots, "Q: 9 less 5?\nA:"]))
        assert _shown(prompt) == shots


def test_what_stands_between_the_last_demonstration_and_the_query_belongs_to_the_query() -> None:
    shots = ["Review: warm\nSentiment: good", "Review: dull\nSentiment: bad"]
    prompt = Prompt.from_text("\n\n".join(["Here are two.", *shots, "Now this one.", "Review: so\nSentiment:"]))
    assert _shown(prompt) == shots
    assert prompt.query.of(prompt.text) == "Now this one.\n\nReview: so\nSentiment:"
    assert prompt.instruction is not None
    assert prompt.instruction.of(prompt.text) == "Here are two."


@pytest.mark.parametrize("between", ["\n", "\n\n"])
@pytest.mark.parametrize(
    "before", ["Label the reviews.\n", "Label the reviews.\n---\n", "Some reviews, and what they say:\n"]
)
def test_an_instruction_with_no_blank_line_behind_it(before: str, between: str) -> None:
    shots = ["Review: warm\nLabel: good", "Review: dull\nLabel: bad"]
    prompt = Prompt.from_text(before + between.join([*shots, "Review: so\nLabel:"]))
    assert _shown(prompt) == shots
    assert prompt.instruction is not None
    assert prompt.instruction.of(prompt.text) == before.rstrip()


def test_one_demonstration_behind_an_instruction() -> None:
    prompt = Prompt.from_text("Label the review.\n\nReview: warm\nLabel: good\n\nReview: so\nLabel:")
    assert _shown(prompt) == ["Review: warm\nLabel: good"]
    (note,) = prompt.notes
    assert "'Label the review.'" in note
    assert "counts as the instruction" in note


def test_who_says_how_many_blocks_are_an_instruction_is_believed() -> None:
    text = "Add up.\n\n2+3=5\n\n5+2=7\n\n4+4="
    assert _shown(Prompt.from_text(text)) == ["2+3=5", "5+2=7"]
    prompt = Prompt.from_text(text, instruction_blocks=0)
    assert _shown(prompt) == ["Add up.", "2+3=5", "5+2=7"]
    assert prompt.to_document() == {"prompt": text, "instruction_blocks": 0}
    assert read_document(prompt.to_document()) == prompt


@pytest.mark.parametrize(
    "text",
    [
        "<document>one</document>\n<document>two</document>\n\nWhat is it?\n\nSay:",
        "a <b>x</b><b>y</b> c\n\nd e f\n\ng",
        "one\n---\ntwo\n\nthree",
        "Note: a\nNote: b\n\nNote: c",
    ],
)
def test_what_is_no_layout_is_read_between_blank_lines(text: str) -> None:
    assert Prompt.from_text(text) == Prompt.from_text(text, instruction_blocks=0)


BY_HAND = {
    "options": (
        "Pick one letter.",
        ["Which organ is largest?\nA) Heart\nB) Skin\nAnswer: B", "Where is the femur?\nA) Arm\nB) Leg\nAnswer: B"],
        "How many ribs?\nA) 12\nB) 24\nAnswer:",
    ),
    "numbered headings": (
        "Sort them.",
        ["Example 1:\nText: a\nLabel: x", "Example 2:\nText: b\nLabel: y"],
        "Text: c\nLabel:",
    ),
    "fences of code": (
        "Say what it does.",
        ["Code:\n```python\nx = 1\n```\nMeaning: sets", "Code:\n```python\nx + 1\n```\nMeaning: adds"],
        "Code:\n```python\nx - 1\n```\nMeaning:",
    ),
    "an instruction that quotes the cue": (
        'Begin with "Answer: " and say it.',
        ["Question: a?\nAnswer: x", "Question: b?\nAnswer: y"],
        "Question: c?\nAnswer:",
    ),
    "an instruction that quotes a tag": (
        "Look at each <example> below.",
        ["<example>\nText: a b\nLabel: x\n</example>", "<example>\nText: c d\nLabel: y\n</example>"],
        "Text: e f\nLabel:",
    ),
    "numbered elements": (
        "Sort them.",
        ["<example1>\nText: a\nLabel: x\n</example1>", "<example2>\nText: b\nLabel: y\n</example2>"],
        "Text: e f\nLabel:",
    ),
    "a query without its label": (
        "Sort them.",
        ["Review: a\nLabel: x", "Review: b\nLabel: y"],
        "Review: c",
    ),
    "emphasis": (
        "Sort them.",
        ["**Text:** a\n\n**Label:** x", "**Text:** b\n\n**Label:** y"],
        "**Text:** c\n\n**Label:**",
    ),
    "one line each": ("Translate:", ["cat => chat", "dog => chien"], "bird =>"),
    "words before the sign in some": ("", ["one stone -> a", "two birds -> b", "three stone -> c"], "four stone ->"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_blocks_behind_an_instruction_keep_every_line(name: str) -> None:
    instruction, shots, query = BY_HAND[name]
    prompt = Prompt.from_text("\n\n".join([*filter(None, [instruction]), *shots, query]))
    assert _shown(prompt) == shots
    assert prompt.query.of(prompt.text) == query
    assert (prompt.instruction.of(prompt.text) if prompt.instruction else "") == instruction
    assert read_document(prompt.to_document()) == prompt


@pytest.mark.parametrize("head", ["Translate English to French:\n\n", "Opposites.\n\n", ""])
@pytest.mark.parametrize("shots", [["cat => chat", "dog => chien"], ["1. hot: cold", "2. big: small"]])
def test_lists_behind_a_blank_line(head: str, shots: list[str]) -> None:
    query = {"cat => chat": "bird =>", "1. hot: cold": "3. tall:"}[shots[0]]
    assert _shown(Prompt.from_text(head + "\n".join([*shots, query]))) == shots
    assert _shown(Prompt.from_text(head + "\n".join(shots) + "\n\n" + query)) == shots


def test_one_demonstration_keeps_all_paragraphs_of_its_answer() -> None:
    shot = "Q: 2 and 2?\nA: First, 2.\n\nThen 2 more: 4."
    assert _shown(Prompt.from_text(shot + "\n\nQ: 3 and 3?\nA:")) == [shot]


def test_an_instruction_beside_the_text_leaves_its_layout() -> None:
    text = "Text: a\nLabel: x\nText: b\n\nand long\nLabel: y\nText: c\nLabel:"
    prompt = read_document({"prompt": text, "instruction": "Sort."})
    assert _shown(prompt) == _shown(Prompt.from_text(text)) == ["Text: a\nLabel: x", "Text: b\n\nand long\nLabel: y"]
    assert prompt.instruction is not None
    assert prompt.instruction.of(prompt.text) == "Sort."
