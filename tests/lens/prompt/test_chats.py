"""Chats as templates write them: token for token the template's own, with what it takes, refuses and leaves out."""

from __future__ import annotations

import pytest
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, with_chat

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document, tokenize

SYSTEM = {"role": "system", "content": "Sort it."}
TURNS = [
    {"role": "user", "content": "a dog"},
    {"role": "assistant", "content": "animal"},
    {"role": "user", "content": "red"},
    {"role": "assistant", "content": "colour"},
    {"role": "user", "content": "one"},
]
SHOTS = ["2+3=5", "5+2=7", "1+6=7"]
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
# As Qwen 3: thoughts of earlier turns are left out, and a variable keeps the model from thinking.
THINKING = CHATML.replace("message['content']", "message['content'].split('</think>')[-1].lstrip('\\n')").replace(
    "assistant\\n'", "assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is false else '')"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)


def shown(prompt):
    return [span.of(prompt.text) for span in prompt.demonstrations]


@pytest.mark.parametrize("template", [CHATML, "<s>" + CHATML, LLAMA_LIKE, THINKING, OWN_SYSTEM])
@pytest.mark.parametrize(
    "chat", [TURNS, [SYSTEM, *TURNS], [{"role": "user", "content": "\n\n".join([*SHOTS, "4+4="])}]]
)
def test_the_tokens_are_those_of_the_template(template, chat):
    tokenizer = with_chat(template)
    prompt = Prompt.from_chat(chat, tokenizer)
    own = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False).rstrip(" ")
    tokenized = tokenize(prompt, tokenizer)
    assert tokenized.input_ids.tolist() == tokenizer(own, add_special_tokens=False)["input_ids"]
    # The template writes the beginning-of-text token itself, or there is none: never two.
    assert tokenized.input_ids.tolist()[:2].count(tokenizer.bos_token_id) <= 1
    assert read_document(prompt.to_document(), tokenizer) == prompt


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
def test_text_in_parts_is_the_same_text(template):
    tokenizer = with_chat(template)
    parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in [SYSTEM, *TURNS]]
    prompt = read_document({"messages": parts}, tokenizer)
    assert prompt == Prompt.from_chat([SYSTEM, *TURNS], tokenizer)
    assert read_document(prompt.to_document(), tokenizer) == prompt
    two = [{"role": "user", "content": [{"type": "text", "text": text} for text in ("a is b\n\n", "c is")]}]
    assert shown(Prompt.from_chat(two, tokenizer)) == ["a is b"]


def test_a_text_that_brings_the_first_token_along_is_doubtful():
    tokenizer = with_chat(CHATML)
    (note,) = tokenize(Prompt.from_text("<s>a b\n\nc"), tokenizer).notes
    assert "begins with '<s>', and the tokenizer adds another" in note
    assert tokenize(Prompt.from_text("a b\n\nc"), tokenizer).notes == ()


def test_a_chat_that_is_written_out_already_is_no_plain_text():
    tokenizer = with_chat(LLAMA_LIKE)
    text = tokenizer.apply_chat_template(TURNS, tokenize=False)
    said = "'<s>' several times, as a chat does"
    read = read_document(text.replace("\n", " "), tokenizer)
    assert len(read.demonstrations) == len(TURNS) // 2
    assert said in tokenize(read, tokenizer).notes[-1]
    with pytest.raises(UserError, match=f"1 block.*{said}"):
        read_document(text.replace("\n", " ").replace("</s>", ""), tokenizer)
    (note,) = tokenize(read_document(text.replace(" </s>", " </s>\n\n"), tokenizer), tokenizer).notes[-1:]
    assert said in note
    assert not any(said in one for one in tokenize(read_document(TURNS, tokenizer), tokenizer).notes)


def test_template_arguments_reach_the_template_and_misspelt_ones_are_refused():
    tokenizer = with_chat(THINKING)
    plain, quiet = (
        Prompt.from_chat(TURNS, tokenizer, template_args=args) for args in (None, {"enable_thinking": False})
    )
    assert quiet.text == plain.text + "<think>\n\n</think>\n\n"
    assert quiet.lead == ""
    assert shown(quiet) == shown(plain)
    assert read_document(quiet.to_document(), tokenizer) == quiet
    assert read_document({"messages": TURNS, "template_args": {"enable_thinking": False}}, tokenizer) == quiet
    for args, why in [
        ({"enable_thinkin": False}, "no variable 'enable_thinkin'"),
        ({"tokenize": True}, "'tokenize' is decided by"),
    ]:
        with pytest.raises(UserError, match=why):
            Prompt.from_chat(TURNS, tokenizer, template_args=args)
    with pytest.raises(UserError, match="template_args is for chats"):
        read_document({"prompt": "a\n\nb", "template_args": {"enable_thinking": False}})


def test_what_the_template_leaves_out_is_said():
    thought = [*TURNS[:3], {"role": "assistant", "content": "<think>\nhm\n</think>\n\ncolour"}, TURNS[4]]
    prompt = Prompt.from_chat(thought, with_chat(THINKING))
    assert prompt.text == Prompt.from_chat(TURNS, with_chat(THINKING)).text
    (note,) = prompt.notes
    assert "leaves out '<think>↵hm↵</think>↵↵' in message 3 (assistant)" in note
    assert note in tokenize(prompt, with_chat(THINKING)).notes
    assert Prompt.from_chat(thought, with_chat(CHATML)).notes == ()
    beside = [*TURNS[:3], {**TURNS[3], "reasoning_content": "hm"}, TURNS[4]]
    assert "'reasoning_content' of message 3" in Prompt.from_chat(beside, with_chat(CHATML)).notes[0]
    shouting = CHATML.replace("message['content']", "message['content'] | replace('dog', 'cat')")
    assert "writes 'cat' in place of 'dog' in message 0" in Prompt.from_chat(TURNS, with_chat(shouting)).notes[0]


def test_a_system_message_of_the_templates_own_is_said():
    (note,) = Prompt.from_chat(TURNS, with_chat(OWN_SYSTEM)).notes
    assert "'system You are a helpful assistant. user'" in note or "'system You are a helpful assistant.'" in note
    assert Prompt.from_chat([SYSTEM, *TURNS], with_chat(OWN_SYSTEM)).notes == ()
    one = [{"role": "user", "content": "\n\n".join([*SHOTS, "4+4="])}]
    assert "You are a helpful assistant." in Prompt.from_chat(one, with_chat(OWN_SYSTEM)).notes[0]


def test_a_system_message_that_the_template_refuses_goes_into_the_first_turn():
    tokenizer = with_chat(WITHOUT_SYSTEM)
    with pytest.raises(UserError, match=r"System role not supported\. It takes .*system_in_user puts"):
        Prompt.from_chat([SYSTEM, *TURNS], tokenizer)
    drops = with_chat(CHATML.replace("for message in messages", "for message in messages if message.role != 'system'"))
    with pytest.raises(UserError, match=r"0 times.*system_in_user puts"):
        Prompt.from_chat([SYSTEM, *TURNS], drops)
    for one in (tokenizer, with_chat(LLAMA_LIKE)):
        prompt = Prompt.from_chat([SYSTEM, *TURNS], one, system_in_user=True)
        folded = [{"role": "user", "content": "Sort it.\n\na dog"}, *TURNS[1:]]
        assert prompt.text == Prompt.from_chat(folded, one).text
        assert prompt.instruction.of(prompt.text) == "Sort it."
        assert shown(prompt)[0].startswith("a dog")
        assert shown(prompt)[0].endswith("animal")
        assert read_document(prompt.to_document(), one) == prompt
    assert Prompt.from_chat(TURNS, tokenizer, system_in_user=True).text == Prompt.from_chat(TURNS, tokenizer).text


def test_a_system_message_that_the_template_writes_last_is_the_querys():
    late = (
        "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
        "{% set turns = messages[1:] if system else messages %}{% for message in turns %}"
        "{% if message['role'] == 'user' %}{{ '<s>[INST] ' + (system + '\n\n' if system and loop.last else '') "
        "+ message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + '</s>' }}{% endif %}{% endfor %}"
    )
    prompt = Prompt.from_chat([SYSTEM, *TURNS], with_chat(late))
    assert prompt.instruction is None
    assert prompt.query.of(prompt.text) == "Sort it.\n\none [/INST]"
    assert [text.split(" [")[0] for text in shown(prompt)] == ["a dog", "red"]
    assert "part of the query" in prompt.notes[0]
    folded = Prompt.from_chat([SYSTEM, *TURNS], with_chat(late), system_in_user=True)
    assert folded.instruction.of(folded.text) == "Sort it."


@pytest.mark.parametrize("template", [CHATML, LLAMA_LIKE])
@pytest.mark.parametrize("system", [[], [SYSTEM]])
@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("\n\n".join([*SHOTS, "4+4="]), {}),
        ("\n".join([*SHOTS, "4+4="]), {}),
        ("\n".join(["Add.", *SHOTS, "4+4="]), {}),
        ("\n\n".join(["Add.", *SHOTS, "4+4="]), {"instruction_blocks": 1}),
        ("Add.\n\n" + "\n".join([*SHOTS, "4+4="]), {"instruction_blocks": 1, "separator": "\n"}),
        (" ; ".join([*SHOTS, "4+4="]), {"separator": ";"}),
        ("  " + "\n###\n".join([*SHOTS, "4+4="]) + " \n", {"separator": "###"}),
    ],
)
def test_demonstrations_inside_one_message(template, system, content, options):
    tokenizer = with_chat(template)
    chat = [*system, {"role": "user", "content": content}]
    for folded in {False, bool(system)}:
        prompt = Prompt.from_chat(chat, tokenizer, system_in_user=folded, **options)
        assert [text.strip() for text in shown(prompt)] == SHOTS
        assert prompt.query.of(prompt.text).lstrip().startswith("4+4=")
        assert (prompt.lead == " ") == (template is LLAMA_LIKE)
        said = "" if prompt.instruction is None else prompt.instruction.of(prompt.text)
        assert ("Sort it." in said) == bool(system)
        assert ("Add." in said) == ("Add." in content)
        assert read_document(prompt.to_document(), tokenizer) == prompt
    if "\n\n" not in content and not options:
        assert any("each line with '='" in note for note in prompt.notes)


def test_turns_and_blocks_of_the_last_message_together():
    tokenizer = with_chat(CHATML)
    chat = [*TURNS[:2], {"role": "user", "content": "red is colour;blue is colour;one is"}]
    prompt = Prompt.from_chat(chat, tokenizer, separator=";")
    assert [text.split("<")[0] for text in shown(prompt)] == ["a dog", "red is colour", "blue is colour"]
    with pytest.raises(UserError, match="blocks of a chat's only message"):
        Prompt.from_chat(chat, tokenizer, separator=";", instruction_blocks=1)


def test_a_message_that_the_template_rewrites_hides_its_blocks():
    tokenizer = with_chat(CHATML.replace("message['content']", "message['content'] | upper"))
    with pytest.raises(UserError, match=r"blocks of message 0 .*rewrites"):
        Prompt.from_chat([{"role": "user", "content": "a is b\n\nc is"}], tokenizer)
