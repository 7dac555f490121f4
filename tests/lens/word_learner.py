"""An untrained learner of the words task: quick, exact, and with a tokenizer whose deletions are real."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from iclens.language.words import LABELS, VOCABULARY
from iclens.lens import Lens, LensModel, Prompt
from iclens.papers.attribution.word_cases import margin

PAIRS = [("dog", "dax"), ("oak", "wug"), ("cat", "dax"), ("rose", "fep"), ("elm", "wug")]
PROMPT = Prompt.from_examples(PAIRS, "cow", "{input} is {output} .")


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>")


@cache
def learner(n_layers: int = 2, dtype: torch.dtype = torch.float64) -> LensModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_embd=16, n_layer=n_layers, n_head=2, n_positions=128, initializer_range=0.4,
        bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    return LensModel.wrap(GPT2LMHeadModel(config).to(dtype).eval(), tokenizer(), "untrained")


MARGIN = margin(tokenizer(), "dax", LABELS)


@cache
def shared_lens() -> Lens:
    """One lens for tests that only read it."""
    return Lens(learner(), PROMPT, readout=MARGIN)


def margins_one_by_one(texts: list[str], answer: str = "dax") -> torch.Tensor:
    """The margin of each text, each in a pass of its own, from the definition."""
    ids = {word: VOCABULARY.index(word) for word in LABELS}
    others = [ids[word] for word in LABELS if word != answer]
    found = []
    for text in texts:
        row = torch.tensor([[2] + [VOCABULARY.index(word) for word in text.split()]])
        logits = learner().model(input_ids=row).logits[0, -1].detach()
        found.append(logits[ids[answer]] - logits[others].mean())
    return torch.stack(found)


def text_of(keep: list[int]) -> str:
    return " ".join([*(f"{PAIRS[i][0]} is {PAIRS[i][1]} ." for i in keep), "cow is"])
