"""Sources of any kind: where each lies, what it is called, and what stays when its text is deleted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, byte_level, greedy, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document, read_prompt, tokenize
from iclens.lens.prompt.document_files import read_documents

WORDS = st.text("ab .\n", min_size=1, max_size=30)
DOCUMENTS = [{"id": "x", "text": "Oslo is cold. Rome is warm."}, {"id": "y", "text": "Bern is small."}]
QUESTION = "What is cold?"

# Tools in a system turn, thoughts before a reply, calls behind it: as Qwen writes them.
AGENT = (
    "{% if tools %}{{ '<|im_start|>system\\n# Tools\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>\\n' }}{% endif %}"
    "{{ m['content'] }}{% if m.tool_calls %}{{ '<call>' + (m.tool_calls | tojson) + '</call>' }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
TASK = [
    {"role": "system", "content": "Be brief.\nBe kind."},
    {"role": "user", "content": "Is it cold?"},
    {"role": "assistant", "content": "", "reasoning_content": "I must look.", "tool_calls": CALL},
    {"role": "tool", "content": "-5 degrees"},
]


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
        ([(0, 1.5)], r"span 0 is \(0, 1.5\): give the places of two characters"),
        (["ab"], r"span 0 is 'ab'"),
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


# Documents


def test_documents_stand_in_their_order_and_their_ids_are_not_written():
    prompt = read_document({"documents": DOCUMENTS, "question": QUESTION})
    assert prompt.text == (
        "Documents:\n\nOslo is cold. Rome is warm.\n\nBern is small.\n\nQuestion: What is cold?\nAnswer:"
    )
    assert named(prompt) == {"document x": DOCUMENTS[0]["text"], "document y": DOCUMENTS[1]["text"]}
    assert query(prompt) == "Question: What is cold?\nAnswer:"
    renamed = [one | {"id": f"other {one['id']}"} for one in DOCUMENTS]
    assert read_document({"documents": renamed, "question": QUESTION}).text == prompt.text
    turned = read_document({"documents": DOCUMENTS[::-1], "question": QUESTION})
    assert list(named(turned)) == ["document y", "document x"]
    assert read_document(prompt.to_document()) == prompt


@given(st.lists(st.text("ab{}.\n ", min_size=1, max_size=12).filter(str.strip), min_size=1, max_size=4), st.data())
def test_deleting_documents_is_writing_the_prompt_without_them(texts, data):
    dropped = data.draw(st.sets(st.integers(0, len(texts) - 1), max_size=len(texts) - 1))
    template = "Read {{these}}.\n\n[passage] {text}\n\nQ: {question}\nA:"
    # What begins or ends with spaces has a gap of its own.
    texts = [text.strip() for text in texts]
    whole = Prompt.from_documents(texts, "{why}?", template)
    kept = [text for i, text in enumerate(texts) if i not in dropped]
    assert whole.without(dropped).text == Prompt.from_documents(kept, "{why}?", template).text
    assert whole.text.startswith("Read {these}.\n\n[passage] " + texts[0])
    assert whole.instruction.of(whole.text) == "Read {these}."


def test_a_template_may_write_the_ids():
    prompt = Prompt.from_documents(DOCUMENTS, QUESTION, "<{id}>\n{text}\n\nAsked: {question}", "Read.")
    assert prompt.text.startswith("Read.\n\n<x>\nOslo is cold. Rome is warm.\n\n<y>\nBern")
    assert named(prompt)["document y"] == "<y>\nBern is small."


def test_columns_and_texts_alone_are_documents_too():
    rows = Prompt.from_documents(DOCUMENTS, QUESTION)
    columns = {key: [one[key] for one in DOCUMENTS] for key in ("id", "text")}
    assert Prompt.from_documents(columns, QUESTION) == rows
    texts = Prompt.from_documents([one["text"] for one in DOCUMENTS], QUESTION)
    assert list(named(texts)) == ["document 0", "document 1"]
    assert texts.text == rows.text


def test_documents_as_a_chat_are_in_the_users_message():
    tokenizer = with_chat(CHATML)
    document = {"documents": DOCUMENTS, "question": QUESTION, "as_chat": True, "instruction": "Be brief."}
    prompt = read_document(document, tokenizer)
    said = f"{DOCUMENTS[0]['text']}\n\n{DOCUMENTS[1]['text']}\n\n{QUESTION}"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]
    assert prompt.text == tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert named(prompt) == {f"document {one['id']}": one["text"] for one in DOCUMENTS}
    assert prompt.instruction.of(prompt.text) == "Be brief."
    assert not prompt.add_special_tokens
    assert read_document(prompt.to_document(), tokenizer) == prompt


def test_the_pieces_of_documents_are_named_after_them():
    prompt = read_document(
        {"documents": [{"id": "x", "text": "a\nb"}, {"text": "c"}], "question": "d", "split": "lines"}
    )
    assert named(prompt) == {"document x, line 0": "a", "document x, line 1": "b", "document 1, line 0": "c"}
    assert prompt.noun == "line"
    assert read_document(prompt.to_document()) == prompt


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"documents": DOCUMENTS}, "the documents come without a question"),
        ({"documents": DOCUMENTS, "question": "  "}, "without a question"),
        ({"question": "a"}, 'a "question" without "documents"'),
        ({"documents": DOCUMENTS, "question": "a", "query": "b"}, "drop one"),
        ({"documents": [], "question": "a"}, "there are no documents"),
        (
            {"documents": ["a", {"id": "0", "text": "b"}], "question": "a"},
            "document 1: the id '0' is that of document 0",
        ),
        ({"documents": [{"id": "x", "txt": "b"}], "question": "a"}, 'document 0: the field "txt" is not known'),
        ({"documents": [{"id": "x"}], "question": "a"}, 'document 0: no field "text"'),
        ({"documents": [{"id": "x", "text": 3}], "question": "a"}, 'the field "text" is 3, not a string'),
        ({"documents": [{"id": "x", "text": " \n"}], "question": "a"}, 'the field "text" is empty'),
        ({"documents": [{"id": [], "text": "a"}], "question": "a"}, r'the field "id" is \[\]'),
        ({"documents": "a", "question": "a"}, "the documents are a str: give a list"),
        ({"documents": {"id": ["a"], "text": []}, "question": "a"}, "different lengths"),
        ({"documents": DOCUMENTS, "question": "a", "template": "{text}"}, r"lacks \{question\}"),
        ({"documents": DOCUMENTS, "question": "a", "template": "{text} {question}"}, "must stand apart from the block"),
        (
            {"documents": DOCUMENTS, "question": "a", "template": "{id}\n\n{text}\n\n{question}"},
            "must stand in the block",
        ),
        ({"documents": DOCUMENTS, "question": "a", "template": "{text}\n\n{question} {title}"}, "which is not known"),
        ({"documents": DOCUMENTS, "question": "a", "template": "{question}\n\n{text}"}, "document y ends the text"),
        ({"documents": DOCUMENTS, "question": "a", "separator": "#"}, "separator is not for documents"),
        ({"documents": DOCUMENTS, "question": "a", "as_chat": True}, "need a tokenizer"),
        ({"documents": DOCUMENTS, "question": "a", "template_args": {"a": 1}}, "template_args is for chats"),
    ],
)
def test_documents_that_make_no_prompt_get_one_sentence(document, said):
    with pytest.raises(UserError, match=said):
        read_document(document)


def test_a_file_of_documents_names_the_line_and_the_field(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n\n" for one in DOCUMENTS), encoding="utf-8-sig")
    assert read_documents(path) == DOCUMENTS
    (tmp_path / "docs.json").write_text(json.dumps(DOCUMENTS), encoding="utf-8")
    assert read_documents(tmp_path / "docs.json") == DOCUMENTS
    for content, said in [
        ('{"id": "a", "text": "b"}\n{"id": "a", "text": "c"}', "line 2: the id 'a' is that of line 1 too"),
        ('{"text": "b"}\n\n{"body": "c"}', 'line 3: the field "body" is not known'),
        ('{"text": "b"', "line 1, column 13: not JSON"),
        ("", "there are no documents"),
    ]:
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=said):
            read_documents(path)
    path.write_bytes(b'{"text": "\xff"}')
    with pytest.raises(UserError, match="line 1: byte 0xff is not UTF-8"):
        read_documents(path)
    with pytest.raises(UserError, match=r"documents are a \.jsonl file"):
        read_documents(_written(tmp_path / "docs.txt", "a"))


def _written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_document_longer_than_the_context_is_named():
    prompt = Prompt.from_documents([{"id": "a", "text": "one"}, {"id": "long", "text": "word " * 30}], "which")
    with pytest.raises(UserError, match=r"document long alone has \d+ tokens, but the model's context holds 20"):
        tokenize(prompt, byte_level(), 20)
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens, .* or give fewer documents"):
        tokenize(prompt, byte_level(), 150)


# Chats


def test_the_messages_of_a_chat_and_their_parts_are_sources():
    tokenizer = with_chat(AGENT)
    prompt = read_document({"messages": TASK, "template_args": {"tools": TOOLS}, "split": "messages"}, tokenizer)
    found = named(prompt)
    assert list(found) == [
        "tools", "message 0 (system)", "message 1 (user)", "message 2 (assistant), thinking",
        "message 2 (assistant), tool calls", "message 3 (tool)",
    ]  # fmt: skip
    assert found["message 0 (system)"] == "Be brief.\nBe kind."
    assert found["message 2 (assistant), thinking"] == "I must look."
    assert '"city": "Oslo"' in found["message 2 (assistant), tool calls"]
    assert '"name": "weather"' in found["tools"]
    # The result of a tool is the last message: only the header of the reply is the query.
    assert query(prompt) == "<|im_end|>\n<|im_start|>assistant\n"
    own = tokenizer.apply_chat_template(TASK, tools=TOOLS, add_generation_prompt=True, tokenize=False)
    assert prompt.text == own
    assert read_document(prompt.to_document(), tokenizer) == prompt
    # What is deleted is what a message says; its marks stay.
    assert prompt.without([1]).text == own.replace("Be brief.\nBe kind.", "")


def test_the_users_last_message_is_the_query_and_others_split_into_lines():
    tokenizer = with_chat(CHATML)
    chat = [*TASK[:1], {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hm."}, TASK[1]]
    prompt = read_document({"messages": chat, "split": "lines"}, tokenizer)
    assert named(prompt) == {
        "message 0 (system), line 0": "Be brief.",
        "message 0 (system), line 1": "Be kind.",
        "message 1 (user), line 0": "Hi.",
        "message 2 (assistant), line 0": "Hm.",
    }
    assert query(prompt).startswith("Is it cold?<|im_end|>") or query(prompt).endswith("assistant\n")
    assert read_document(prompt.to_document(), tokenizer) == prompt


def test_what_a_template_leaves_out_is_noted_and_no_source():
    prompt = Prompt.from_messages(TASK, with_chat(CHATML), template_args=None)
    assert list(named(prompt)) == ["message 0 (system)", "message 1 (user)", "message 3 (tool)"]
    assert any("leaves out the 'reasoning_content' of message 2" in note for note in prompt.notes)
    assert any("leaves out the message 2 (assistant), tool calls" in note for note in prompt.notes)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "a"}], "one message, which is the query"),
        ([], "no message"),
        ([TASK[1], {"role": "assistant", "content": "x"}], r"message 1 \(assistant\) ends the chat"),
        ([{"content": "a"}], "message 0 has no role"),
        ([{"role": "user", "content": " "}, TASK[1]], r"message 0 \(user\) is empty"),
    ],
)
def test_chats_without_sources_get_one_sentence(messages, said):
    with pytest.raises(UserError, match=said):
        Prompt.from_messages(messages, with_chat(CHATML))


def test_a_template_that_moves_the_system_message_still_shows_where_it_is():
    prompt = Prompt.from_messages([TASK[0], *TASK[1:2]], with_chat(LLAMA_LIKE))
    assert named(prompt) == {"message 0 (system)": "Be brief.\nBe kind."}
    assert query(prompt) == "<</SYS>>\n\nIs it cold? [/INST]"
