"""A few-shot prompt as text, and a tokenizer that reads every word and sign of it as one token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclens.lens.prompt.sources import BLANK_LINE

ANSWERS = ("positive", "negative")
TEMPLATE = "Review: {input}\nSentiment: {output}"
_PRAISE = ("warm", "bright", "clever", "moving", "funny", "brave", "tender", "fresh", "lovely", "gentle")
_BLAME = ("dull", "slow", "noisy", "clumsy", "cold", "tired", "empty", "sour", "flat", "boring")
_PLAIN = ("the", "film", "and", "its", "music", "plot", "scene", "actor", "story", "camera", "ending", "were", "with")
_CUES = ("Review", "Sentiment", ":")


def few_shot(n_demonstrations: int, words: int, query_words: int, seed: int = 0) -> str:
    """Write reviews with their sentiments, and a last review without.

    By `word_tokenizer` a demonstration has `words` + 5 tokens and the query `query_words` + 4.

    Args:
        n_demonstrations: how many reviews have their sentiment.
        words: words of each.
        query_words: words of the last one.
        seed: of the choice of words.
    """
    chosen = random.Random(seed)
    shown = [(_review(words, i % 2, chosen), ANSWERS[i % 2]) for i in range(n_demonstrations)]
    return written(shown, _review(query_words, 0, chosen))


def written(shots: Sequence[tuple[str, str]], query: str) -> str:
    """Write reviews with their sentiments, and a last one without."""
    blocks = [TEMPLATE.format(input=text, output=answer) for text, answer in shots]
    return BLANK_LINE.join([*blocks, TEMPLATE.format(input=query, output="").rstrip()])


def examples(number: int, words: int, seed: int = 0) -> list[tuple[str, str]]:
    """Write different reviews with their sentiments by turns, as pairs."""
    chosen, found = random.Random(seed), dict[str, str]()
    while len(found) < number:
        kind = len(found) % 2
        found.setdefault(_review(words, kind, chosen), ANSWERS[kind])
    return list(found.items())


def _review(length: int, kind: int, chosen: random.Random) -> str:
    words = (_PRAISE, _BLAME)[kind]
    return " ".join(chosen.choice(words if i % 3 == 0 else _PLAIN) for i in range(length))


def word_tokenizer(vocabulary: int) -> Any:
    """Make a fast tokenizer of the given size that knows the words of `few_shot`; token 0 is the unknown one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["[UNK]", *_CUES, *ANSWERS, *_PRAISE, *_BLAME, *_PLAIN]
    known += [f"word{i}" for i in range(vocabulary - len(known))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def groups_of(prompt: str, tokenizer: Any) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Give a prompt's token ids and the demonstration of each: −1 for the query's, for the first and between them."""
    encoded = tokenizer(prompt, return_offsets_mapping=True)
    *blocks, _ = prompt.split(BLANK_LINE)
    groups, start = torch.full((len(encoded["input_ids"]),), -1), 0
    firsts = torch.tensor([first for first, _ in encoded["offset_mapping"]])
    for index, block in enumerate(blocks):
        groups[(firsts >= start) & (firsts < start + len(block))] = index
        start += len(block) + len(BLANK_LINE)
    # The first token is a part of its own.
    groups[0] = -1
    return torch.tensor(encoded["input_ids"]), groups


def answer_ids(prompt: str, tokenizer: Any) -> list[int]:
    """Give the one token of each answer after the prompt."""
    n_prompt = len(tokenizer(prompt)["input_ids"])
    behind = [tokenizer(f"{prompt} {answer}")["input_ids"][n_prompt:] for answer in ANSWERS]
    return [index for (index,) in behind]
