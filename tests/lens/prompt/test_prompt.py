"""Prompts: what is read is what was written, and spans say where."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, byte_level, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, Span

LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=12)
VISIBLE_LINE = LINE.filter(lambda line: line.strip("\ufeff").strip() != "")
BLOCK = st.lists(VISIBLE_LINE, min_size=1, max_size=3).map("\n".join)
BLANK = st.sampled_from(["\n\n", "\n  \n", "\n\n\n", "\r\n\r\n", "\n\t\n \n"])


def pieces(prompt: Prompt) -> list[str]:
    return [span.of(prompt.text) for span in prompt.demonstrations]


@given(st.lists(BLOCK, min_size=2, max_size=5), st.data())
def test_blocks_keep_their_exact_characters(blocks, data):
    text = blocks[0]
    for block in blocks[1:]:
        text += data.draw(BLANK) + block
    prompt = Prompt.from_text(text, instruction_blocks=0)
    assert pieces(prompt) == [blocks[0].removeprefix("\ufeff"), *blocks[1:-1]]
    assert prompt.query.of(prompt.text).rstrip() == blocks[-1].rstrip()
    assert prompt.query.end == len(prompt.text)


@given(st.text(max_size=60))
def test_any_text_gives_a_prompt_or_a_user_error(text):
    try:
        prompt = Prompt.from_text(text)
    except UserError:
        return
    assert all(piece.strip() for piece in pieces(prompt))


@given(
    st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), min_size=1, max_size=5),
    st.text(max_size=8),
    st.sampled_from([None, "{input} -> {output}", "{{q}} {input}\n{output} .", "Say {input}!\n\n{output}"]),
)
def test_examples_are_written_as_the_template_says(examples, query, template):
    prompt = Prompt.from_examples(examples, query, template)
    written = template or "Input: {input}\nOutput: {output}"
    before, after = written.replace("{{", "\0").replace("}}", "\1").split("{output}")
    before, after = (half.replace("\0", "{").replace("\1", "}") for half in (before, after))
    assert pieces(prompt) == [before.replace("{input}", x) + y + after for x, y in examples]
    assert prompt.query.of(prompt.text) + prompt.lead == before.replace("{input}", query)
    assert "\n" not in prompt.lead
    assert prompt.labels == tuple(y for _, y in examples)
    assert prompt.follow == after.replace("{input}", query) + "\n\n" + prompt.query.of(prompt.text)


WORDS = st.text("abcé😀{}", min_size=1, max_size=6)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5), WORDS)
def test_text_of_examples_reads_back_as_the_same_prompt(examples, query):
    written = Prompt.from_examples(examples, query)
    read = Prompt.from_text(written.text)
    assert read.text == written.text
    assert read.demonstrations == written.demonstrations
    assert read.query == written.query
    assert read.lead == written.lead


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6), WORDS, st.data())
def test_deleting_demonstrations_is_writing_the_prompt_without_them(examples, query, data):
    dropped = data.draw(st.sets(st.integers(0, len(examples) - 1), max_size=len(examples) - 1))
    kept = [pair for i, pair in enumerate(examples) if i not in dropped]
    whole = Prompt.from_examples(examples, query, instruction="Name it.")
    assert whole.without(dropped) == Prompt.from_examples(kept, query, instruction="Name it.")


def test_deleting_all_demonstrations_leaves_instruction_and_query():
    prompt = Prompt.from_examples([("a", "b"), ("c", "d")], "e", "{input}={output}", "Say it.").without([0, 1])
    assert prompt.text == "Say it.\n\ne="
    assert prompt.demonstrations == ()
    with pytest.raises(UserError, match="no demonstration 2"):
        Prompt.from_examples([("a", "b"), ("c", "d")], "e").without([2])


def test_instruction_blocks():
    prompt = Prompt.from_text("Translate.\n\nBe brief.\n\nchat = cat\n\nchien =", instruction_blocks=2)
    assert prompt.instruction is not None
    assert prompt.instruction.of(prompt.text) == "Translate.\n\nBe brief."
    assert pieces(prompt) == ["chat = cat"]
    assert Prompt.from_examples([("a", "b")], "c", instruction="  ").instruction is None


@pytest.mark.parametrize(
    ("text", "lead", "end"),
    [
        ("2+2=4\n\n3+5=8\n\n1+6=", "", "="),  # the demonstrations write nothing between = and the answer
        ("cat is animal .\n\nred is colour .\n\ndog is", " ", " is"),
        ("Q: cat\nA:  animal\n\nQ: dog\nA:", "  ", "A:"),
        ("Q: cat\nA:\nanimal\n\nQ: dog\nA:\n", "", "A:\n"),  # a line end is the prompt's, not the answer's
        ("Q: cat\nA:\n  animal\n\nQ: dog\nA:", "  ", "A:\n"),
        ("great film positive\n\ndull movie negative\n\nlong book", " ", "book"),
        ("great film positive\n\ndull movie negative\n\nlong book\t \n \n", "\t ", "book"),
        ("输入：猫 输出：动物\n\n输入：红 输出：", "", "："),
    ],
)
def test_the_space_before_an_answer_is_the_demonstrations(text, lead, end):
    prompt = Prompt.from_text(text)
    assert prompt.lead == lead
    assert prompt.text.endswith(end)


@pytest.mark.parametrize(
    ("text", "follow"),
    [
        ("2+2=4\n\n3+5=8\n\n1+6=", "\n\n1+6="),
        ("1+4=5\n\n7+8=15\n\n1+6=", "\n\n1+6="),  # 5 is no end of 15, but a part of it
        ("cat is animal .\n\nred is colour .\n\ndog is", " .\n\ndog is"),
        ("cat is animal .\n\ndog is", " .\n\ndog is"),
        ("Q: cat\nA: animal!\n\nQ: fly\nA: animal!\n\nQ: dog\nA:", "!\n\nQ: dog\nA:"),
        ("2 pears = 2 kg\n\n3 pears = 3 kg\n\n5 pears =", " kg\n\n5 pears ="),
        ("great film positive\n\ndull movie negative\n\nlong book", None),
    ],
)
def test_what_follows_an_answer_is_read_off_the_demonstrations(text, follow):
    assert Prompt.from_text(text).follow == follow


def test_windows_line_ends_byte_order_mark_and_blank_lines_around():
    prompt = Prompt.from_text("\ufeff\r\n\r\na: b\r\n \t\r\nc: d\r\n\r\ne:\r\n\r\n")
    assert pieces(prompt) == ["a: b", "c: d"]
    assert prompt.query.of(prompt.text) == "e:"


@pytest.mark.parametrize(
    ("text", "blocks", "message"),
    [
        ("", 0, "empty"),
        (" \n \n", 0, "empty"),
        ("only one", 0, "at least one demonstration"),
        ("a\n\nb", 1, "instruction"),
        ("a\n\nb", -1, "0 or more"),
        ("a\n\n\ud800", 0, "surrogate"),
    ],
)
def test_texts_that_are_no_prompt(text, blocks, message):
    with pytest.raises(UserError, match=message):
        Prompt.from_text(text, blocks)


@pytest.mark.parametrize(
    "template",
    ["", "no slots", "{input}", "{output}", "{output} {input}", "{input} {output} {output}", "{input} {output} {x}",
     "{input} {output!r}", "{input:>3} {output}", "{input} {output} {", "{input} {output} }", "{} {output}"],
)  # fmt: skip
def test_templates_without_their_slots(template):
    with pytest.raises(UserError, match=r"template .* write it like"):
        Prompt.from_examples([("a", "b")], "c", template)


def test_examples_that_are_none():
    with pytest.raises(UserError, match="no demonstrations"):
        Prompt.from_examples([], "c")
    with pytest.raises(UserError, match="query is empty"):
        Prompt.from_examples([("a", "b")], " ", "{input}{output}")
    with pytest.raises(UserError, match="demonstration 1 is empty"):
        Prompt.from_examples([("a", "b"), ("", " ")], "c", "{input}{output}")


@pytest.mark.parametrize(
    "spans",
    [
        dict(demonstrations=(Span(0, 2), Span(1, 3)), query=Span(4, 5)),
        dict(demonstrations=(Span(0, 2), Span(2, 9)), query=Span(4, 5)),
        dict(demonstrations=(Span(0, 1), Span(1, 2)), query=Span(2, 4)),
        dict(demonstrations=(Span(0, 0), Span(1, 2)), query=Span(2, 5)),
    ],
)
def test_spans_that_do_not_fit(spans):
    with pytest.raises(UserError):
        Prompt(text="abcde", instruction=None, labels=(None, None), **spans)


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    chat = [{"role": "system", "content": system}] if system is not None else []
    return chat + [{"role": "assistant" if i % 2 else "user", "content": content} for i, content in enumerate(contents)]


# Words of the templates themselves, repeats, spaces around, markup.
CONTENT = st.one_of(
    st.sampled_from(["user", "assistant", "\n", "<|im_start|>user\n", "INST", "a", " a ", "]", "<s>[INST] a [/INST]"]),
    st.text(max_size=6),
).filter(lambda content: content.strip() != "")


@settings(max_examples=30, deadline=None)
@given(st.lists(CONTENT, min_size=3, max_size=7).filter(lambda c: len(c) % 2 == 1), st.none() | CONTENT)
@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_chat_spans_are_the_messages_even_when_they_repeat(template, contents, system):
    tokenizer = with_chat(template)
    prompt = Prompt.from_chat(turns(*contents, system=system), tokenizer)
    for i, piece in enumerate(pieces(prompt)):
        said, reply = contents[2 * i], contents[2 * i + 1]
        assert piece.startswith(said.strip() if template is LLAMA_LIKE else said)
        assert piece.endswith(reply.strip() if template is LLAMA_LIKE else reply)
    if system is not None:
        assert prompt.instruction.of(prompt.text).strip() == system.strip()
    assert prompt.labels == tuple(contents[1:-1:2])
    rendered = tokenizer.apply_chat_template(
        turns(*contents, system=system), tokenize=False, add_generation_prompt=True
    )
    assert prompt.text == rendered.rstrip(" \t")


class Counting:
    """A tokenizer that counts how often it renders a chat."""

    def __init__(self, tokenizer):
        self.tokenizer, self.chat_template, self.rendered = tokenizer, tokenizer.chat_template, 0

    def apply_chat_template(self, chat, **options):
        self.rendered += 1
        return self.tokenizer.apply_chat_template(chat, **options)


TRIMS_USERS = CHATML.replace(
    "message['content']", "(message['content'] | trim if message['role'] == 'user' else message['content'])"
)


@pytest.mark.parametrize(("template", "rendered"), [(CHATML, 2), (LLAMA_LIKE, 2), (TRIMS_USERS, 2 + 41)])
def test_a_chat_is_rendered_twice_however_long_it_is(template, rendered):
    tokenizer = Counting(with_chat(template))
    contents = [f" {i} " for i in range(41)]
    prompt = Prompt.from_chat(turns(*contents), tokenizer)
    # A template that writes some messages as they stand and trims others needs one rendering more for each.
    assert tokenizer.rendered == rendered
    said = contents if template is CHATML else [content.strip() for content in contents]
    replies = said if template is LLAMA_LIKE else contents
    for i, piece in enumerate(pieces(prompt)):
        assert piece.startswith(said[2 * i])
        assert piece.endswith(replies[2 * i + 1])
    assert prompt.query.of(prompt.text).startswith(said[-1])


def test_chat_deletes_like_a_chat_without_the_pair():
    for template in (CHATML, LLAMA_LIKE):
        tokenizer = with_chat(template)
        whole = Prompt.from_chat(turns("a", "b", "a", "c", "a", system="s"), tokenizer)
        assert whole.without([1]) == Prompt.from_chat(turns("a", "b", "a", system="s"), tokenizer)
        assert whole.without([0]) == Prompt.from_chat(turns("a", "c", "a", system="s"), tokenizer)


def test_chat_lead_and_follow_are_the_templates():
    chatml = Prompt.from_chat(turns("a", "b", "c"), with_chat(CHATML))
    assert (chatml.lead, chatml.follow) == (
        "",
        "<|im_end|>\n<|im_start|>user\n" + chatml.query.of(chatml.text),
    )
    assert chatml.query.of(chatml.text) == "c<|im_end|>\n<|im_start|>assistant\n"
    assert not chatml.add_special_tokens
    llama = Prompt.from_chat(turns("a", "b", "c"), with_chat(LLAMA_LIKE))
    assert (llama.lead, llama.follow) == (" ", " </s><s>[INST] c [/INST]")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ messages[-1]['content'] }}", "0 times"),
        (CHATML + "{{ messages[-1]['content'] }}", "2 times"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{{ messages[0]['content'] | length }}" + CHATML, "differently"),
    ],
)
def test_chat_templates_that_hide_a_message(template, message):
    tokenizer = with_chat(template) if template else byte_level()
    with pytest.raises(UserError, match=message):
        Prompt.from_chat(turns("a", "b", "c"), tokenizer)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (turns("a"), "no demonstration"),
        (turns("a", "b"), "no query"),
        ([], "no query|no demonstration"),
        (turns("a", " ", "c"), "message 1 .* empty"),
        ([{"role": "assistant", "content": "a"}, *turns("a", "b", "c")], "message 0 .*'user' is due"),
        ([{"role": "tool", "content": "a"}], "'user' is due"),
        ([{"content": "a"}], "no role"),
        ([{"role": "user", "content": None}], r"message 0 \(user\) is no string"),
        ([{"role": "user", "content": ["a"]}], r"part 0 of the content of message 0 \(user\) is 'a'"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "b"}]}],
            r"part 1 of the content of message 0 \(user\) is of the type 'image_url'",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "part 0 .* of the type 'text'"),
        ([{"role": "user", "content": []}], "message 0 .* is empty"),
    ],
)
def test_chats_out_of_order(messages, message):
    with pytest.raises(UserError, match=message):
        Prompt.from_chat(messages, with_chat(CHATML))
