"""Documents as sources: where they lie in the prompt, their names, and files of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.prompt.test_sources import named, query
from tests.lens.tiny_tokenizers import CHATML, byte_level, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document, tokenize
from iclens.lens.prompt.document_files import read_documents

DOCUMENTS = [{"id": "x", "text": "Oslo is cold. Rome is warm."}, {"id": "y", "text": "Bern is small."}]
QUESTION = "What is cold?"


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
