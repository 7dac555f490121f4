"""Pools that are chats: pairs are written as turns by the model's own template."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.selection.words import draw, learner

from iclens.errors import UserError
from iclens.lens import LensModel, Prompt, load
from iclens.selection import Example, Selection, read_pool, select
from iclens.selection.checking import check
from iclens.selection.writing import ChatTemplate, Writing

KNOWN = draw(3)
# Writes what the template "{input} is {output} ." with blank lines writes, so that the two must agree.
AS_PAIRS = (
    "<s>{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
    "{{ m.content }} is{% else %} {{ m.content }} .\n\n{% endif %}{% endfor %}"
)
SHORT = "<s>{% for m in messages %}{{ m.content }}\n{% endfor %}"
MARKED = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TURNS = [
    {"role": role, "content": content}
    for word, label in KNOWN.pool
    for role, content in (("user", word), ("assistant", label))
]


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


def model(template: str = AS_PAIRS) -> LensModel:
    tokenizer = copy.deepcopy(learner().tokenizer)
    tokenizer.chat_template = template
    return load(learner().model, tokenizer=tokenizer)


def chosen(pool: Any, **options: Any) -> Selection:
    asked: dict[str, Any] = {"k": 4, "candidates": KNOWN.labels, "against": None, "budget": 30.0}
    return select(model(), pool, KNOWN.dev, **asked | options)


def test_a_chat_is_chosen_from_as_the_pairs_that_its_template_writes() -> None:
    by_pairs = chosen(KNOWN.pool, template="{input} is {output} .", method="random")
    for pool in ({"messages": TURNS}, [*TURNS, {"role": "user", "content": "never asked"}]):
        by_turns = chosen(pool, method="random")
        assert by_turns.indices == by_pairs.indices
        assert by_turns.held_out == by_pairs.held_out
        assert by_turns.tokens == by_pairs.tokens
        assert (by_turns.template, by_turns.separator) == (None, None)
        assert by_turns.prompt == "<s>" + by_pairs.prompt
    assert chosen(KNOWN.pool, as_chat=True, method="random").held_out == by_pairs.held_out


def test_wrong_labels_in_a_chat_are_dropped_and_named() -> None:
    found = chosen({"messages": TURNS}, k=len(KNOWN.relevant), budget=100.0)
    assert set(found.indices) == KNOWN.relevant
    assert {one.index for one in found.demonstrations if one.suspected} == KNOWN.wrong


def test_what_ends_a_reply_belongs_to_it() -> None:
    """So that effects of a chat are those of the pairs that it writes."""
    by_pairs, by_turns = chosen(KNOWN.pool, template="{input} is {output} ."), chosen({"messages": TURNS})
    assert by_turns.indices == by_pairs.indices
    assert by_turns.scores == pytest.approx(by_pairs.scores)
    assert by_turns.demonstrations[0].verdict == by_pairs.demonstrations[0].verdict
    pool = read_pool({"messages": TURNS})
    written = pool.writing.of(model(MARKED).tokenizer).prompt(pool.demonstrations, "cat")
    word, label = KNOWN.pool[1]
    assert written.demonstrations[1].of(written.text) == f"{word}<|end|>\n<|assistant|>{label}<|end|>"


def test_the_messages_are_the_prompt() -> None:
    found = chosen({"messages": [{"role": "system", "content": "plum is nef ."}, *TURNS]})
    assert found.messages is not None
    assert found.instruction == "plum is nef ."
    assert [one["role"] for one in found.messages] == ["system", *["user", "assistant"] * 4, "user"]
    shots = [one["content"] for one in found.messages[1:-1]]
    assert shots == [text for i in found.indices for text in KNOWN.pool[i]]
    word, label = KNOWN.dev[0]
    asked = [*found.messages[:-1], {"role": "user", "content": word}]
    assert Prompt.from_chat(asked, model().tokenizer).text == found.prompt.format(input=word)
    again = json.loads(found.prompt_file(".json"))
    assert read_pool(again).demonstrations == tuple(Example(*KNOWN.pool[i]) for i in found.indices)
    assert read_pool(again).writing.instruction == "plum is nef ."
    assert label in found.candidates


def test_lines_that_are_chats_of_one_question_are_examples(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Say it."}
    rows = [{"messages": [system, *TURNS[2 * i : 2 * i + 2]]} for i in range(3)]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = read_pool(path)
    assert [(one.input, one.output) for one in pool.demonstrations] == KNOWN.pool[:3]
    assert pool.writing == Writing(instruction="Say it.", chat=ChatTemplate())
    # A template that is named writes them as pairs.
    assert read_pool(path, "{input}: {output}").writing == Writing("{input}: {output}", "Say it.")
    unlike = [rows[0], {"messages": TURNS[2:4]}]
    with pytest.raises(UserError, match="the system messages of the pool's chats differ"):
        read_pool(unlike)
    with pytest.raises(UserError, match="item 0: the chat has 2 questions"):
        read_pool([{"messages": TURNS[:4]}, {"messages": TURNS[4:6]}])


def test_another_system_message_in_the_development_set_is_refused() -> None:
    pool = {"messages": [{"role": "system", "content": "plum is nef ."}, *TURNS]}
    pairs = [[{"role": "user", "content": word}, {"role": "assistant", "content": label}] for word, label in KNOWN.dev]
    dev = [{"messages": turn} for turn in pairs]
    same = [{"messages": [{"role": "system", "content": "plum is nef ."}, *turn]} for turn in pairs]
    asked: dict[str, Any] = {"k": 2, "candidates": KNOWN.labels, "against": None, "method": "similar"}
    assert select(model(), pool, same, **asked).held_out == select(model(), pool, dev, **asked).held_out
    other = [{"messages": [{"role": "system", "content": "Hm."}, *turn]} for turn in pairs]
    with pytest.raises(UserError, match="has another system message than the pool"):
        select(model(), pool, other, **asked)


def test_an_output_ends_where_the_template_ends_a_reply() -> None:
    assert Writing(chat=ChatTemplate()).of(model(MARKED).tokenizer).stop == "<|end|>"
    assert Writing(chat=ChatTemplate()).of(model(AS_PAIRS).tokenizer).stop == "."


def test_checking_reads_chats_too() -> None:
    kept = sorted(KNOWN.relevant)
    turns = [turn for i in kept for turn in TURNS[2 * i : 2 * i + 2]]
    by_turns = check(model(), turns, KNOWN.dev, candidates=KNOWN.labels)
    pairs = [KNOWN.pool[i] for i in kept]
    assert by_turns == check(model(), pairs, KNOWN.dev, candidates=KNOWN.labels, template="{input} is {output} .")


def test_another_model_reads_the_chat_by_its_own_template() -> None:
    found = chosen({"messages": TURNS}, method="random", check_with=model(SHORT))
    assert found.checked is not None
    shots = [turn for i in found.indices for turn in TURNS[2 * i : 2 * i + 2]]
    plain = check(model(SHORT), shots, [KNOWN.dev[i] for i in found.set_aside], candidates=KNOWN.labels)
    assert found.checked.held_out.after.log_loss.mean == pytest.approx(plain.log_loss.mean, abs=1e-5)
    assert found.checked.tokens != found.tokens


@pytest.mark.parametrize(
    ("pool", "options", "said"),
    [
        (KNOWN.pool, {"as_chat": True, "template": "{input}: {output}"}, "leave template and separator out"),
        (KNOWN.pool, {"template_args": {"x": 1}}, "template_args is for chats"),
        (KNOWN.pool, {"system_in_user": True}, "system_in_user is for chats"),
        (TURNS, {"template_args": {"thinking": False}}, "the chat template has no variable 'thinking'"),
        (TURNS[:1], {}, "no reply of the assistant"),
        ({"messages": [{"content": "cat"}]}, {}, "message 0 has no role"),
        ({"messages": [*TURNS[:2], {"role": "user", "content": " "}]}, {}, "message 2 .* is empty"),
        ([*TURNS[:2], *TURNS[1:]], {}, "message 2 has the role 'assistant'"),
    ],
)
def test_mistakes_are_one_sentence(pool: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        chosen(pool, **options)


def test_a_model_without_a_chat_template_says_so() -> None:
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        select(learner(), TURNS, KNOWN.dev, k=3)
