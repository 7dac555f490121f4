"""Small tokenizers of every kind, built on the spot: byte-level BPE, whole words, Unigram, BPE without words."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Input: the cat\nOutput: animal\n\nInput: red\nOutput: colour\n\nInput: a dog sat\nOutput:",
    "Review: a great film\nSentiment: positive\n\nReview: dull and long\nSentiment: negative\n\n",
    "paris is city . one is number . rose is flower . ",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Strips contents, folds the system message into the first user message, and puts a space before a reply.
LLAMA_LIKE = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] | trim "
    "+ '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '<s>[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' </s>' }}{% endif %}{% endfor %}"
)


@cache
def byte_level(trim_offsets: bool | None = None, begin: bool = False) -> PreTrainedTokenizerFast:
    """GPT-2's kind; a special token at the beginning when `begin`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=special,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    steps = [] if trim_offsets is None else [processors.ByteLevel(trim_offsets=trim_offsets)]
    if begin:
        steps.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]))
    if steps:
        tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", extra_special_tokens=special[2:]
    )


@cache
def words() -> PreTrainedTokenizerFast:
    """Whole words between white space."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    """Llama-like: a visible mark for spaces, one in front of the text, and a beginning-of-text token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, unk_token="<unk>", special_tokens=["<unk>", "<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


@cache
def greedy(*merged: str) -> PreTrainedTokenizerFast:
    """Characters and the given strings, with no words: a token may lie across anything."""
    special = [chr(code) for code in range(9, 127)]
    merges: list[tuple[str, str]] = []
    vocabulary = dict.fromkeys(special)
    for text in merged:
        for end in range(2, len(text) + 1):
            pair = (text[: end - 1], text[end - 1])
            if text[:end] not in vocabulary:
                merges.append(pair)
                vocabulary[text[:end]] = None
    ids = {token: index for index, token in enumerate([*vocabulary, "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def with_chat(template: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(begin=True).backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer
