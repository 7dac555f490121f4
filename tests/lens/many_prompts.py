"""Prompts of mixed lengths, with and without answers of several tokens, for every model of the zoo."""

from __future__ import annotations

import random
from functools import cache

import torch
from tests.lens.zoo import build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.read.question import Question, ask

ANSWERS = (None, ("w1", "w2 w3", "w2 w4"), ("w5", "w6"), None, ("w7 w8", "w7 w9"))


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0 … w49 within the zoo's vocabulary of 61."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(50)), "is", "."]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")


@cache
def reader(name: str, dtype: torch.dtype = torch.float64) -> LensModel:
    """A model of the zoo that reads these words, built once; tests must leave it as they found it."""
    return LensModel.wrap(build(name, dtype), tokenizer(), name)


def prompt(n_demonstrations: int, n_query: int, seed: int) -> Prompt:
    """Demonstrations of one to three words."""
    draw = random.Random(seed)

    def words(n: int) -> str:
        return " ".join(f"w{draw.randrange(50)}" for _ in range(n))

    pairs = [(words(draw.randrange(1, 4)), words(1)) for _ in range(n_demonstrations)]
    return Prompt.from_examples(pairs, words(n_query), "{input} is {output} .")


PROMPTS = tuple(prompt(n, q, seed) for seed, (n, q) in enumerate([(3, 1), (5, 3), (2, 2), (4, 1), (3, 1)]))


def questions(lens_model: LensModel) -> list[Question]:
    """All of them as a model is asked."""
    return [ask(lens_model, *one) for one in zip(PROMPTS, ANSWERS, strict=True)]
