"""Offsets that say nothing are refused: every token would take its predecessor's text."""

from __future__ import annotations

from typing import Any

import pytest
from tests.lens.tiny_tokenizers import byte_level
from transformers import PreTrainedTokenizerFast

from iclens.errors import UserError
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import tokenize


class WithoutWidth(PreTrainedTokenizerFast):
    """As the oldest tokenizers gave offsets of byte-level tokens."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        encoded = super().__call__(*args, **kwargs)
        encoded["offset_mapping"] = [(end, end) for _, end in encoded["offset_mapping"]]
        return encoded


def test_visible_tokens_without_width_are_refused() -> None:
    tokenizer = WithoutWidth(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(UserError, match="WithoutWidth gives no offsets for the token 'Input'"):
        tokenize(Prompt.from_text("Input: red\n\nInput: a"), tokenizer)
