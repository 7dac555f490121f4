"""What the page asks: parts and text give the same prompt, and mistakes give one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclens.errors import UserError
from iclens.explorer.ask import Ask
from iclens.explorer.snapshot import question
from iclens.lens.prompt.prompt import Prompt

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
    ask = Ask.read({"demonstrations": demonstrations, "query": query, "instruction": instruction, "off": [0]})
    again = Ask.read(question(ask))
    assert again.prompt.text == ask.prompt.text
    assert again.prompt.demonstrations == ask.prompt.demonstrations
    assert again.off == ask.off


def test_pairs_are_written_through_the_template():
    pairs = [{"input": "cat", "output": "red"}, {"input": "plum", "output": "blue"}]
    ask = Ask.read({"demonstrations": pairs, "query": "dog", "template": "{input} is {output} ."})
    assert ask.prompt == Prompt.from_examples([("cat", "red"), ("plum", "blue")], "dog", "{input} is {output} .")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({"prompt": "x"}, "'prompt' is not known"),
        ({"text": "a\n\nb", "query": "c"}, "both given"),
        ({"text": 3}, "must be a string"),
        ({"demonstrations": [], "query": "x"}, "no demonstrations"),
        ({"demonstrations": ["a"]}, "query is empty"),
        ({"demonstrations": ["a", " "], "query": "x"}, "demonstration 1 is empty"),
        ({"demonstrations": ["a\n\nb"], "query": "x"}, "demonstration 0 has a blank line"),
        ({"demonstrations": ["a", {"input": "b", "output": "c"}], "query": "x"}, "demonstration 0 is no pair"),
        ({"demonstrations": [{"input": "b", "output": 1}], "query": "x"}, "no string"),
        ({"demonstrations": ["a"], "query": "x", "template": "{input}{output}"}, "text already"),
        ({"demonstrations": ["a"], "query": "x", "answers": "red"}, "list of strings"),
        ({"demonstrations": ["a"], "query": "x", "off": [1]}, "the prompt has 1"),
        ({"demonstrations": ["a"], "query": "x", "off": [True]}, "list of the demonstrations' numbers"),
        ({"demonstrations": ["a"], "query": "x", "layer": -1}, "whole number"),
        ({"demonstrations": ["a \ud800"], "query": "x"}, "surrogate"),
    ],
)
def test_every_mistake_is_one_sentence_about_itself(document, said):
    assert said in refused(document)
