"""Prompt files: every format gives the prompt that its parts give, and a broken one names file and line."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, PromptOptions, read_document, read_prompt

EXAMPLES = [("the cat", "animal"), ("red {x}", "colour"), ("שלום \u202e\x07", "é\n\n😀")]
EXPECTED = Prompt.from_examples(EXAMPLES, "a dog")


def rows(query: str | None = "a dog") -> list[dict[str, str]]:
    last = [] if query is None else [{"input": query}]
    return [*({"input": x, "output": y} for x, y in EXAMPLES), *last]


def lines(query: str | None = "a dog", end: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows(query))


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("a.jsonl", lines(), {}),
        ("a.jsonl", "\ufeff" + lines(end="\r\n \r\n"), {}),
        ("a.JSONL", lines(None), {"query": "a dog"}),
        ("a.json", json.dumps(rows()), {}),
        ("a.json", json.dumps(rows(None)), {"query": "a dog"}),
        ("a.json", json.dumps({"demonstrations": rows(None), "query": "a dog"}), {}),
        ("a.json", json.dumps({"demonstrations": rows(None)}), {"query": "a dog"}),
    ],
)
def test_every_format_of_pairs_gives_the_same_prompt(tmp_path, name, text, arguments):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_prompt(path, **arguments) == EXPECTED


def test_instruction_and_template(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"demonstrations": rows(None), "query": "a dog", "instruction": "Sort."}))
    expected = Prompt.from_examples(EXAMPLES, "a dog", "{input} is {output}", "Sort.")
    assert read_prompt(path, template="{input} is {output}") == expected
    path = tmp_path / "a.jsonl"
    path.write_text(lines())
    assert read_prompt(str(path), template="{input} is {output}", instruction="Sort.") == expected


def test_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffcat is animal\r\n \r\nred is\r\ncolour\r\n\r\ndog is\r\n".encode())
    prompt = read_prompt(path)
    assert prompt == Prompt.from_text("cat is animal\n \nred is\ncolour\n\ndog is")
    with_query = read_prompt(path, query="blue is", instruction="Sort.\n\nNow.")
    assert with_query.text.startswith("Sort.\n\nNow.\n\ncat is animal")
    assert with_query.instruction is not None
    assert with_query.instruction.of(with_query.text) == "Sort.\n\nNow."
    assert len(with_query.demonstrations) == 3
    assert read_prompt(path, instruction_blocks=1).instruction is not None


def test_chat_messages(tmp_path):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    tokenizer = with_chat(CHATML)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(messages))
    assert read_prompt(path, tokenizer) == Prompt.from_chat(messages, tokenizer)
    path.write_text(json.dumps(messages[:-1]))
    system = {"role": "system", "content": "Sort."}
    assert read_prompt(path, tokenizer, query="c", instruction="Sort.") == Prompt.from_chat(
        [system, *messages], tokenizer
    )
    with pytest.raises(UserError, match="need a tokenizer"):
        read_prompt(path)
    with pytest.raises(UserError, match="template"):
        read_prompt(path, tokenizer, template="{input}{output}")


WORD = st.text("abcé😀{} ", min_size=1, max_size=6).filter(lambda word: word.strip() != "")
TEMPLATES = [None, "{input} -> {output}", "Say {input}!\n\n{output} ."]


@given(
    st.lists(st.tuples(WORD, st.text(max_size=6)), min_size=1, max_size=4),
    st.text(max_size=6),
    st.sampled_from(TEMPLATES),
    st.none() | st.text(max_size=6),
)
def test_pairs_read_back_from_their_document(pairs, query, template, instruction):
    prompt = Prompt.from_examples(pairs, query, template, instruction)
    assert read_document(json.loads(json.dumps(prompt.to_document()))) == prompt


@given(st.lists(WORD, min_size=3, max_size=5), st.sampled_from(["", " ", "  \n"]), st.booleans())
def test_text_reads_back_from_its_document(blocks, end, binding):
    prompt = Prompt.from_text("\n\n".join(blocks) + end, len(blocks) - 3)
    assert read_document(prompt.to_document(), binding=binding) == prompt


OBJECT = {"demonstrations": rows(None), "query": "a dog"}
CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


@pytest.mark.parametrize(
    ("document", "same"),
    [
        ("a b\n\nc", {"prompt": "a b\n\nc"}),
        ("a b\r\n\r\nc\r\n", {"text": "a b\n\nc"}),
        ({"prompt": "x\n\na b\n\nc", "instruction_blocks": 1}, {"prompt": "a b\n\nc", "instruction": "x"}),
        ({"demonstrations": ["a b", "\nc d\n"], "query": "e"}, "a b\n\nc d\n\ne"),
        ({"demonstrations": ["a b"], "query": "e", "instruction": "\nx\n"}, {"prompt": "a b\n\ne", "instruction": "x"}),
        (rows(), OBJECT),
        (rows(), {**OBJECT, "template": None, "instruction": None, "prompt": None, "instruction_blocks": None}),
        (CHAT, {"messages": CHAT}),
        ([{"role": "system", "content": "x"}, *CHAT], {"messages": CHAT, "instruction": "x"}),
        ({"messages": CHAT, "instruction": " "}, CHAT),
    ],
)
def test_forms_that_hold_the_same_prompt(document, same):
    tokenizer = with_chat(CHATML)
    prompt = read_document(document, tokenizer)
    assert read_document(same, tokenizer) == prompt
    assert read_document(json.loads(json.dumps(prompt.to_document())), tokenizer) == prompt


def test_a_document_says_otherwise_than_the_defaults():
    defaults = PromptOptions(template="{input} = {output}", instruction="Sort.", instruction_blocks=1)
    tokenizer = with_chat(CHATML)

    def read(document):
        return read_document(document, tokenizer, defaults, binding=False)

    pairs = Prompt.from_examples(EXAMPLES, "a dog", "{input} = {output}", "Sort.")
    assert read(OBJECT) == read(rows()) == read({**OBJECT, "template": None}) == pairs
    own = {**OBJECT, "template": "{input}: {output}", "instruction": None}
    assert read(own) == Prompt.from_examples(EXAMPLES, "a dog", "{input}: {output}")
    assert read("x\n\na\n\nb") == Prompt.from_text("Sort.\n\nx\n\na\n\nb", 2)
    assert read({"prompt": "a\n\nb", "instruction_blocks": 0}) == Prompt.from_text("Sort.\n\na\n\nb", 1)
    assert read(CHAT) == Prompt.from_chat([{"role": "system", "content": "Sort."}, *CHAT], tokenizer)
    assert read({"messages": CHAT, "instruction": None}) == Prompt.from_chat(CHAT, tokenizer)
    for document in ({"prompt": "a\n\nb"}, {"messages": CHAT}, {"demonstrations": ["a"], "query": "b"}):
        with pytest.raises(UserError, match="a template is for pairs"):
            read({**document, "template": "{input}{output}"})


PAIR = '{"input": "a", "output": "b"}\n'


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", PAIR + "\n" + '{"input": "c", "output"}\n' + PAIR, "line 3, column 24: not JSON"),
        ("a.jsonl", PAIR + '["c"]\n' + PAIR, "line 2: a JSON list"),
        ("a.jsonl", PAIR + '{"output": "c"}\n', 'line 2: no "input"'),
        ("a.jsonl", PAIR + '{"input": "c"}\n' + PAIR, 'line 2: no "output"'),
        ("a.jsonl", PAIR + '{"input": "c", "output": 4}\n', 'line 2: "output" is a JSON number'),
        ("a.jsonl", PAIR + '{"input": null, "output": "4"}\n', 'line 2: "input" is a JSON null'),
        ("a.jsonl", PAIR + '{"input": "c", "ouput": "4"}\n', 'line 2: the key "ouput" is not known'),
        ("a.jsonl", PAIR, "no query"),
        ("a.jsonl", '{"input": "c"}\n', "no demonstrations"),
        ("a.jsonl", PAIR + '{"input": "\\ud800"}\n', "surrogate"),
        ("a.jsonl", "9" * 5000 + "\n", "line 1: JSON that cannot be read"),
        ("a.jsonl", "[" * 100_000, "line 1"),
        ("a.json", '{"demonstrations": [\n{"input": "a" "b"}]}', "line 2, column 15: not JSON"),
        ("a.json", "3", "a JSON number"),
        ("a.json", "[]", "no query"),
        ("a.json", '{"query": "a"}', "none of them"),
        ("a.json", '{"demonstrations": {}}', '"demonstrations" is a JSON object, not a list'),
        ("a.json", '{"demonstrations": [{"input": "a"}], "query": "b"}', 'demonstration 0: no "output"'),
        ("a.json", f'{{"demonstrations": [{PAIR}]}}', 'no "query"'),
        ("a.json", f'{{"demonstrations": [{PAIR}], "query": 3}}', '"query" is a JSON number'),
        ("a.json", f'{{"demonstrations": [{PAIR}], "Query": "a"}}', '"Query" is not known'),
        ("a.json", '{"demonstrations": [], "query": "a"}', "no demonstrations"),
        ("a.json", '[{"role": "user", "content": "a"}, 3]', "message 1: a JSON number"),
        ("a.txt", " \n\n", "is empty"),
        ("a.txt", "one block", "at least one demonstration"),
    ],
)
def test_broken_files_say_where(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_prompt(path, tokenizer=with_chat(CHATML))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_given_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines())
    with pytest.raises(UserError, match=r"line 4: .*another query"):
        read_prompt(path, query="b")
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"demonstrations": rows(None), "query": "a", "instruction": "b"}))
    with pytest.raises(UserError, match='"query" stands in the file'):
        read_prompt(path, query="b")
    with pytest.raises(UserError, match='"instruction" stands in the file'):
        read_prompt(path, instruction="c")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_prompt(tmp_path / "none.txt")
    with pytest.raises(UserError, match="folder"):
        read_prompt(tmp_path)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a: b\n\ncaf\xe9\n")
    with pytest.raises(UserError, match="line 3: byte 0xe9 is not UTF-8"):
        read_prompt(path)
    path.write_text("a: b\n\nc:")
    with pytest.raises(UserError, match="not for plain text"):
        read_prompt(path, template="{input}{output}")


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode), st.sampled_from([".txt", ".json", ".jsonl"]))
def test_any_bytes_give_a_prompt_or_a_user_error(tmp_path_factory, raw, ending):
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(raw)
    with contextlib.suppress(UserError):
        read_prompt(path)
