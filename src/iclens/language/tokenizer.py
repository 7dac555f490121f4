"""The tokenizer of the word prompts: one token a word, white space of any kind between them."""

from __future__ import annotations

from typing import Any

from iclens.language.words import SPECIAL_TOKENS, VOCABULARY

MAX_LENGTH = 128
"""Positions of the bundled learner, the beginning-of-text token included."""


def word_tokenizer() -> Any:
    """Return a fast tokenizer over `VOCABULARY`: lower case, whole words, `<s>` in front, offsets into the text.

    White space only separates: line breaks and blank lines between demonstrations leave no token. A word that is
    not in the vocabulary becomes `<unk>`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, unknown, start = SPECIAL_TOKENS
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, ids[start])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        unk_token=unknown,
        pad_token=pad,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )
