import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclens.language.tokenizer import word_tokenizer
from iclens.language.words import VOCABULARY, sample_words


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), separator=st.sampled_from([" ", "\n", "\n\n", "\r\n\t "]))
def test_offsets_point_at_the_words_and_white_space_leaves_no_token(tokenizer, seed, separator):
    prompt = sample_words(torch.Generator().manual_seed(seed), 4, 1, n_categories=3)
    text = prompt.text(separator)
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded["input_ids"][0] == tokenizer.bos_token_id
    spans = encoded["offset_mapping"][1:]
    assert [text[start:end] for start, end in spans] == text.split()
    assert [VOCABULARY[index] for index in encoded["input_ids"][1:]] == text.split()
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == prompt.text(" ")


def test_ids_are_the_places_in_the_vocabulary(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(len(VOCABULARY)))) == list(VOCABULARY)
    assert len(tokenizer) == len(VOCABULARY)


def test_capitals_and_missing_blanks_are_forgiven_and_strange_words_are_unknown(tokenizer):
    text = "Dog is WUG.\nxyzzy is"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert [VOCABULARY[index] for index in encoded["input_ids"]] == ["<s>", "dog", "is", "wug", ".", "<unk>", "is"]
    assert [text[a:b] for a, b in encoded["offset_mapping"][1:]] == ["Dog", "is", "WUG", ".", "xyzzy", "is"]


def test_padding_goes_to_the_left(tokenizer):
    encoded = tokenizer(["dog is", "dog is wug . cat is"], padding=True)
    assert encoded["attention_mask"][0] == [0, 0, 0, 0, 1, 1, 1]
    assert encoded["input_ids"][0][-1] == encoded["input_ids"][1][-1]
