"""Messages of a chat and their parts as sources."""

from __future__ import annotations

import pytest
from tests.lens.prompt.test_sources import named, query
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document

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
