"""What stands between demonstrations, and blocks that do not look like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import byte_level, words
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from iclens.errors import UserError
from iclens.lens.prompt import Prompt, read_document, tokenize

SHOTS = ["2+3=5", "5+2=7", "1+6=7"]
BLOCKS = st.lists(st.text("ab \n=", min_size=1, max_size=8).filter(str.strip), min_size=2, max_size=5)


REVIEWS = ["Review: dull\nLabel: bad", "Review: warm\nLabel: good"]


def shown(prompt):
    return [span.of(prompt.text) for span in prompt.demonstrations]


@given(BLOCKS, st.sampled_from(["#", "\n###\n", " | "]))
def test_blocks_between_separators_are_the_blocks(blocks, separator):
    prompt = Prompt.from_text(separator.join(blocks), separator=separator)
    assert [text.strip() for text in shown(prompt)] == [block.strip() for block in blocks[:-1]]
    assert prompt.query.of(prompt.text).strip() == blocks[-1].strip()
    assert read_document(prompt.to_document()) == prompt


def test_a_blank_line_inside_a_demonstration():
    text = "Review: dull\n\nand long\nLabel: bad\n\nReview: warm\nLabel: good\n\n"
    text += "Review: fine\nLabel: good\n\nReview: so\nLabel:"
    (note,) = Prompt.from_text(text).notes
    assert "a demonstration begins at each 'Review:'" in note
    assert shown(Prompt.from_text(text)) == [
        "Review: dull\n\nand long\nLabel: bad",
        *REVIEWS[1:],
        "Review: fine\nLabel: good",
    ]
    (note,) = Prompt.from_text(text, instruction_blocks=0).notes
    assert "Demonstration 0 ('Review: dull') lacks 'Label:'" in note
    later = "Review: warm\nLabel: good\n\n" + text
    assert "has a blank line inside" in Prompt.from_text(later, instruction_blocks=0).notes[0]
    prompt = Prompt.from_text(text.replace("\n\nReview", "\n###\nReview"), separator="###")
    assert shown(prompt)[0] == "Review: dull\n\nand long\nLabel: bad"
    assert prompt.notes == ()


def test_an_instruction_that_counts_as_a_demonstration():
    (note,) = Prompt.from_text("\n\n".join(["Add up.", *SHOTS, "4+4="]), instruction_blocks=0).notes
    assert "Demonstration 0 ('Add up.') lacks '='" in note
    assert "instruction_blocks=1" in note
    assert Prompt.from_text("\n\n".join(["Add up.", *SHOTS, "4+4="]), 1).notes == ()


@pytest.mark.parametrize(
    "text", ["apple\n\npear\n\nplum\n\ngra", "a b\n\nc d\n\ne", "Q: a\nA: b\n\nQ: c\nA: d\n\nQ: e\nA:"]
)
def test_blocks_that_are_alike_or_share_nothing_get_no_note(text):
    assert Prompt.from_text(text).notes == ()


def test_lines_without_a_blank_line():
    prompt = Prompt.from_text("\n".join([*SHOTS, "4+4="]))
    assert shown(prompt) == SHOTS
    assert prompt.without([1]).text == "2+3=5\n1+6=7\n4+4="
    assert prompt == Prompt.from_text("\n".join([*SHOTS, "4+4="]), separator="\n")
    with pytest.raises(UserError, match="name the line end as the separator"):
        Prompt.from_text("Review: a\nLabel: b")
    text = "Add.\n\n" + "\n".join([*SHOTS, "4+4="])
    assert shown(Prompt.from_text(text)) == SHOTS
    (note,) = Prompt.from_text(text, instruction_blocks=0).notes
    assert "The query has 4 lines" in note


@pytest.mark.parametrize("before", ["", "Label the reviews.\nOne word each.\n"])
def test_demonstrations_of_several_lines_without_a_blank_line(before):
    text = before + "\n".join([*REVIEWS, "Review: so\nLabel:"])
    prompt = Prompt.from_text(text)
    assert prompt.text == text
    assert shown(prompt) == REVIEWS
    assert prompt.query.of(text) == "Review: so\nLabel:"
    assert (prompt.instruction.of(text) if prompt.instruction else "") == before.rstrip()
    (note,) = prompt.notes
    assert "every 2 lines count as a demonstration" in note
    assert read_document(prompt.to_document()) == prompt
    assert Prompt.from_text(before + "Review: dull\nLabel: bad\nReview: so\nLabel:").without([]).lead == " "


def test_half_of_a_demonstration_beside_an_instruction_is_named_too():
    text = (
        "Label the reviews.\n\nReview: dull\n\nand long\nLabel: bad\n\nReview: warm\nLabel: good\n\nReview: so\nLabel:"
    )
    (note,) = Prompt.from_text(text, instruction_blocks=0).notes
    assert "Demonstrations 0 ('Label the reviews.'), 1 ('Review: dull') lack 'Label:'" in note
    assert "instruction_blocks=2" in note
    assert "has a blank line inside" in note


def test_a_block_that_is_no_demonstration_does_not_move_the_answer():
    """The answer of `4+4=` is `8` and not ` 8`, whether or not an instruction was counted as a demonstration."""
    assert Prompt.from_text("\n\n".join(["Add up.", *SHOTS, "4+4="])).lead == ""


def test_pairs_and_blocks_with_a_separator():
    pairs = [("2+3", "5"), ("5+2", "7")]
    prompt = Prompt.from_examples(pairs, "4+4", "{input}={output}", "Add.", separator="\n")
    assert prompt.text == "Add.\n2+3=5\n5+2=7\n4+4="
    assert read_document(prompt.to_document()) == prompt
    blocks = {"demonstrations": SHOTS[:2], "query": "4+4=", "instruction": "Add.", "separator": "\n"}
    assert read_document(blocks).text == prompt.text
    with pytest.raises(UserError, match="has the separator"):
        read_document({**blocks, "demonstrations": ["a\nb"]})
    for bad in (lambda: Prompt.from_text("a", separator=""), lambda: Prompt.from_examples(pairs, "a", separator="")):
        with pytest.raises(UserError, match="separator is empty"):
            bad()
    with pytest.raises(UserError, match="1 block"):
        Prompt.from_text("a\n\nb", separator="###")


def test_unknown_words_are_named():
    (note,) = tokenize(Prompt.from_text("red is colour .\n\nzebra is zebra .\n\nyak is"), words()).notes
    assert "does not know 'zebra', 'yak'" in note
    assert "3 of the 10 tokens" in note
    assert tokenize(Prompt.from_text("zebra\n\nyak yak\n\nq"), byte_level()).notes == ()


def test_a_demonstration_of_one_token_at_the_very_beginning():
    tokenized = tokenize(Prompt.from_text("red\n\none is number\n\ndog is", 0), words())
    assert tokenized.groups.tolist() == [-1, 1, 1, 1, -1, -1]
    assert "nothing of it is cut" in tokenized.notes[0]
    with pytest.raises(UserError, match="and there is no other"):
        tokenize(Prompt.from_text("red\n\ndog is"), words())


def test_a_tokenizer_with_an_end_token_only():
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(byte_level().backend_tokenizer.to_str()), eos_token="</s>"
    )
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenized = tokenize(Prompt.from_text("red is colour\n\ndog is"), made)
    assert made.eos_token_id not in tokenized.input_ids.tolist()
    assert tokenized.roles[0] == "first"
    assert tokenized.texts[0] != "</s>"
    assert "ends a text with '</s>'" in tokenized.notes[0]
