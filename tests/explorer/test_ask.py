"""What the page asks: parts and text give the same prompt, and mistakes give one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, with_chat

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.lens.prompt import Prompt

BLOCKS = ["cat is red .", "apple is blue .", "dog is red ."]

lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), min_size=1, max_size=12).filter(
    str.strip
)
blocks = st.lists(lines, min_size=1, max_size=3).map("\n".join)


def refused(document):
    with pytest.raises(UserError) as error:
        Ask.read(document)
    return str(error.value)


def test_blocks_and_text_are_one_prompt():
    parts = Ask.read({"demonstrations": BLOCKS, "query": "horse is", "instruction": "Name colours."})
    text = Ask.read({"text": "\n\n".join(["Name colours.", *BLOCKS, "horse is"]), "instruction_blocks": 1})
    assert parts.prompt == text.prompt
    assert parts.prompt.instruction is not None


@given(st.lists(blocks, min_size=1, max_size=4), blocks)
def test_blocks_stay_the_blocks_that_were_written(demonstrations, query):
    prompt = Ask.read({"demonstrations": demonstrations, "query": query}).prompt
    assert [span.of(prompt.text) for span in prompt.demonstrations] == demonstrations
    assert prompt.query.of(prompt.text).rstrip() == query.rstrip()


@given(st.lists(blocks, min_size=1, max_size=4), blocks, st.one_of(st.just(""), blocks))
def test_a_question_written_back_asks_the_same(demonstrations, query, instruction):
    blocks = {"demonstrations": demonstrations, "query": query, "instruction": instruction}
    ask = Ask.read({**blocks, "off": [0], "scores": ["path", "influence"]})
    again = Ask.read(ask.to_document())
    assert again.prompt.text == ask.prompt.text
    assert again.prompt.demonstrations == ask.prompt.demonstrations
    assert again.off == ask.off
    assert again.scores == ask.scores == ("path", "influence")


CHAT = [
    {"role": "system", "content": "Name\n\ncolours."},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b\n\nc"},
    {"role": "user", "content": "a"},
]
LINES = "Label.\nReview: a\nLabel: b\nReview: c\nLabel:"
PAIRS = [{"input": "cat\n\ndog", "output": "red"}, {"input": "plum", "output": "blue"}]


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_a_chat_is_asked_as_the_chat_it_is(template):
    tokenizer = with_chat(template)
    ask = Ask.read({"messages": CHAT, "off": [0]}, tokenizer)
    assert ask.prompt == Prompt.from_chat(CHAT, tokenizer)
    written = ask.to_document()
    assert written["document"] == {"messages": CHAT}
    assert Ask.read(written, tokenizer) == ask
    with pytest.raises(UserError, match="a chat, whose messages cannot be edited as blocks"):
        Ask.read({**written, "query": written["query"] + "!"}, tokenizer)


def test_demonstrations_of_several_lines_stay_so_when_they_are_edited():
    ask = Ask.read({"text": LINES})
    written = ask.to_document()
    assert Ask.read(written) == ask
    assert Ask.read({**written, "query": "Review: d\nLabel:"}).prompt.text == LINES.replace("c", "d")


def test_pairs_written_back_stay_pairs_until_they_are_edited():
    ask = Ask.read({"demonstrations": PAIRS, "query": "horse", "template": "{input}\n\n{output}", "instruction": "Go."})
    written = ask.to_document()
    assert Ask.read(written) == ask
    assert Ask.read({**written, "demonstrations": ["a is b"], "query": "c is"}).prompt == Prompt.from_text(
        "Go.\n\na is b\n\nc is", 1
    )


def test_pairs_are_written_through_the_template():
    pairs = [{"input": "cat", "output": "red"}, {"input": "plum", "output": "blue"}]
    ask = Ask.read({"demonstrations": pairs, "query": "dog", "template": "{input} is {output} ."})
    assert ask.prompt == Prompt.from_examples([("cat", "red"), ("plum", "blue")], "dog", "{input} is {output} .")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({"promt": "x"}, "'promt' is not known. Did you mean 'prompt'?"),
        ({}, "none of them"),
        ({"text": "a\n\nb", "prompt": "a\n\nb"}, 'this has "prompt" and "text"'),
        ({"text": "a\n\nb", "query": "c"}, "both given"),
        ({"messages": [{"role": "user", "content": "a"}], "query": "c"}, "both given"),
        ({"messages": [{"role": "user", "content": "a"}]}, "need a tokenizer"),
        ({"text": 3}, "not a string"),
        ({"demonstrations": [], "query": "x"}, "no demonstrations"),
        ({"demonstrations": ["a"]}, 'no "query"'),
        ({"demonstrations": ["a"], "query": " "}, "query is empty"),
        ({"demonstrations": ["a", " "], "query": "x"}, "demonstration 1 is empty"),
        ({"demonstrations": ["a\n\nb"], "query": "x"}, "demonstration 0 has a blank line"),
        ({"demonstrations": ["a", {"input": "b", "output": "c"}], "query": "x"}, "demonstration 0 is no pair"),
        ({"demonstrations": [{"input": "b", "output": 1}], "query": "x"}, "not a string"),
        ({"demonstrations": ["a"], "query": "x", "template": "{input}{output}"}, "not for plain text"),
        ({"demonstrations": ["a"], "query": "x", "answers": "red"}, "a JSON string, not a list"),
        ({"demonstrations": ["a"], "query": "x", "answers": [3]}, "a JSON number, not a string"),
        ({"demonstrations": ["a"], "query": "x", "answer": 3}, "a JSON number, not a string"),
        ({"demonstrations": ["a"], "query": "x", "off": [1]}, "the prompt has 1"),
        ({"demonstrations": ["a"], "query": "x", "off": [True]}, "list of the demonstrations' numbers"),
        ({"demonstrations": ["a"], "query": "x", "layer": -1}, "whole number"),
        ({"demonstrations": ["a"], "query": "x", "scores": "path"}, "list of strings"),
        ({"demonstrations": ["a"], "query": "x", "scores": ["paht"]}, "'path'"),
        ({"demonstrations": ["a"], "query": "x", "scores": ["path", "path"]}, "named twice"),
        ({"demonstrations": ["a \ud800"], "query": "x"}, "surrogate"),
    ],
)
def test_every_mistake_is_one_sentence_about_itself(document, said):
    assert said in refused(document)
