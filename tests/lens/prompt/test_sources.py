"""Sources of any kind: where each lies, what it is called, and what stays when its text is deleted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, greedy, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document, read_prompt, tokenize

WORDS = st.text("ab .\n", min_size=1, max_size=30)


def named(prompt: Prompt) -> dict[str, str]:
    return {str(name): span.of(prompt.text) for name, span in zip(prompt.source_names, prompt.sources, strict=True)}


def query(prompt: Prompt) -> str:
    return prompt.query.of(prompt.text)


# Spans


@given(WORDS, st.lists(st.integers(0, 30), max_size=6).map(sorted))
def test_spans_of_any_text_lie_where_they_were_marked_or_get_one_error(text, ends):
    spans = list(zip(ends[::2], ends[1::2], strict=False))
    try:
        prompt = Prompt.from_spans(text, spans)
    except UserError:
        return
    assert [(one.start, one.end) for one in prompt.sources] == spans
    assert text.startswith(prompt.text)
    assert prompt.query.start >= prompt.sources[-1].end
    assert query(prompt).strip() == text[spans[-1][1] :].strip()
    assert read_document(prompt.to_document()) == prompt


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_every_token_belongs_to_at_most_one_source_and_the_first_to_none(pieces, data):
    text = "".join(pieces) + " q"
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    try:
        tokenized = tokenize(Prompt.from_spans(text, spans), greedy("ab", "aab"))
    except UserError:
        return  # a source of one token, which begins the text or is joined to its neighbour
    groups = tokenized.groups.tolist()
    assert groups[0] == -1
    inside = [group for group in groups if group >= 0]
    assert inside == sorted(inside)
    for (start, end), group in zip(tokenized.offsets, groups, strict=True):
        if group >= 0:
            assert start < spans[group][1]
            assert end > spans[group][0]


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 4), (2, 6)], r"span 1 lies at characters 2 to 6, but the part before it ends at 4"),
        ([(0, 40)], r"span 0 lies at characters 0 to 40, but .* the text at 9"),
        ([(-1, 3)], r"span 0 lies at characters -1 to 3"),
        ([(0, 2), (4, 5)], r"span 1 is empty"),
        ([(0, 2), (2, 2)], r"span 1 is empty"),
        ([(0, 9)], r"span 0 ends the text: the query must stand behind"),
        ([(0, 8)], r"^$"),
        ([], r"no sources"),
        pytest.param(
            [(0, 1.5)], r"span 0 is \(0, 1.5\): give the places of two characters", marks=pytest.mark.wrong_types
        ),
        pytest.param(["ab"], r"span 0 is 'ab'", marks=pytest.mark.wrong_types),
    ],
)
def test_spans_that_cannot_be_sources_get_one_sentence(spans, said):
    text = "abcd   ef"
    if said == "^$":
        assert query(Prompt.from_spans(text, spans)) == "f"
        return
    with pytest.raises(UserError, match=said):
        Prompt.from_spans(text, spans)


def test_spans_may_be_named_once_each():
    prompt = Prompt.from_spans("one two three", [(0, 3), (4, 7)], ["intro", "body"])
    assert named(prompt) == {"span intro": "one", "span body": "two"}
    with pytest.raises(UserError, match="two sources are called 'span a'"):
        Prompt.from_spans("one two three", [(0, 3), (4, 7)], ["a", "a"])
    with pytest.raises(UserError, match="1 names for 2 spans"):
        Prompt.from_spans("one two three", [(0, 3), (4, 7)], ["a"])


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_spans_of_a_users_message_lie_in_the_rendered_chat(template):
    tokenizer, text = with_chat(template), "Read: one. two. Which?"
    prompt = Prompt.from_spans(text, [(6, 10), (11, 15)], tokenizer=tokenizer)
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.text == whole.rstrip(" ")
    assert named(prompt) == {"span 0": "one.", "span 1": "two."}
    assert prompt.instruction.of(prompt.text) == "Read:"
    assert prompt.query.of(prompt.text).startswith("Which?")
    assert read_document(prompt.document, tokenizer) == prompt
    with pytest.raises(UserError, match="needs a tokenizer"):
        read_document(prompt.document)


# Deletion


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=6), st.data())
@pytest.mark.parametrize("gap", [" ", "\n", "\n\n", "\n###\n"])
def test_deleting_pieces_is_writing_the_text_without_them(gap, words, data):
    dropped = data.draw(st.sets(st.integers(0, len(words) - 1)))
    text, spans = "", []
    for word in words:
        spans.append((len(text), len(text) + len(word)))
        text += word + gap
    prompt = Prompt.from_spans(text + "query", spans, between=gap.strip())
    kept = [word for i, word in enumerate(words) if i not in dropped]
    shorter = prompt.without(dropped)
    assert shorter.text == gap.join([*kept, "query"])
    assert list(named(shorter).values()) == kept
    assert [str(one) for one in shorter.names] == [f"span {i}" for i in range(len(words)) if i not in dropped]


def test_the_last_sentence_of_a_paragraph_leaves_the_blank_line():
    text = "A b. C d.\n\nE f.\n\nQuery"
    prompt = Prompt.from_spans(text, [(0, 4), (5, 9), (11, 15)])
    assert prompt.without([1]).text == "A b.\n\nE f.\n\nQuery"
    assert prompt.without([0]).text == "C d.\n\nE f.\n\nQuery"
    assert prompt.without([0, 1]).text == "E f.\n\nQuery"
    assert prompt.without([1, 2]).text == "A b.\n\nQuery"


# Pieces of a text


def test_a_text_is_split_into_paragraphs_and_lines_with_its_last_as_the_query():
    text = "One.\nTwo.\n\nThree.\n\nAsk:"
    prompt = read_document({"prompt": text, "split": "paragraphs"})
    assert named(prompt) == {"paragraph 0": "One.\nTwo.", "paragraph 1": "Three."}
    assert query(prompt) == "Ask:"
    prompt = read_document({"prompt": text, "split": "lines"})
    assert named(prompt) == {"line 0": "One.", "line 1": "Two.", "line 2": "Three."}
    assert read_document(prompt.to_document()) == prompt
    prompt = read_document({"prompt": "a\n###\nb\n###\nAsk:", "split": "paragraphs", "separator": "###"})
    assert named(prompt) == {"paragraph 0": "a", "paragraph 1": "b"}
    assert prompt.without([0]).text == "b\n###\nAsk:"


def test_options_of_the_caller_split_a_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Read this.\n\nOne.\n\nTwo.\n", encoding="utf-8")
    prompt = read_prompt(path, split="paragraphs", query="Ask:", instruction_blocks=1)
    assert named(prompt) == {"paragraph 0": "One.", "paragraph 1": "Two."}
    assert prompt.instruction.of(prompt.text) == "Read this."
    assert query(prompt) == "Ask:"
    assert read_document(prompt.to_document()) == prompt
    with_it = read_prompt(path, split="paragraphs", query="Ask:", instruction_blocks=1, score_instruction=True)
    assert named(with_it) == {"instruction": "Read this.", "paragraph 0": "One.", "paragraph 1": "Two."}
    assert with_it.noun == "source"
    assert read_document(with_it.to_document()) == with_it
    assert with_it.without([0]).text == "One.\n\nTwo.\n\nAsk:"


def test_sentences_come_from_a_splitter_that_knows_abbreviations():
    pytest.importorskip("sentencex")
    text = "Dr. Smith paid 3.5 dollars, e.g. for tea. He left.\n\nπ is «here»! Who paid"
    prompt = Prompt.from_pieces(text, "sentences")
    assert list(named(prompt).values()) == ["Dr. Smith paid 3.5 dollars, e.g. for tea.", "He left."]
    assert query(prompt) == "π is «here»! Who paid"
    assert list(named(Prompt.from_pieces("One. Two. Who", "sentences")).values()) == ["One.", "Two."]


def test_without_the_splitter_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentencex", None)
    with pytest.raises(UserError, match=r"pip install 'iclens\[sentences\]'"):
        Prompt.from_pieces("One. Two. Who", "sentences")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"prompt": "a\n\nb", "split": "words"}, "split is 'words'"),
        ({"prompt": "a\n\nb", "split": "messages"}, "no messages"),
        ({"prompt": "alone", "split": "lines"}, "one piece alone, which is the query"),
        ({"prompt": "a\n\nb", "score_instruction": True}, "no instruction"),
        ([{"input": "a", "output": "b"}, {"input": "c"}, {"input": "d"}], "only the last may lack"),
        ({"prompt": "a\n\nb", "as_chat": True}, "as_chat is for documents"),
        ({"prompt": "a\n\nb", "as_chat": "yes"}, "give true or false"),
        ({"text": "a b", "spans": {"a": 1}}, '"spans" need a "text" and are a list'),
        ({"text": "a b", "spans": [[0, 1]], "query": "c"}, 'the key "query" does not go with "spans"'),
    ],
)
def test_what_cannot_be_split_gets_one_sentence(document, said):
    with pytest.raises(UserError, match=said):
        read_document(document)


def test_the_lines_of_demonstrations_and_their_instruction_can_be_scored():
    pairs = {"demonstrations": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}], "query": "e"}
    prompt = read_document({**pairs, "split": "lines"})
    assert list(named(prompt)) == [f"demonstration {i}, line {k}" for i in range(2) for k in range(2)]
    prompt = read_document({**pairs, "instruction": "Say it.", "score_instruction": True})
    assert list(named(prompt)) == ["instruction", "demonstration 0", "demonstration 1"]
    assert prompt.without([0, 2]).text == "Input: a\nOutput: b\n\nInput: e\nOutput:"
    assert prompt.without([1]).text == "Say it.\n\nInput: c\nOutput: d\n\nInput: e\nOutput:"
