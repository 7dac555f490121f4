"""Answers: their tokens follow the prompt's, their scores are the model's, and the margin is what its sentence says."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.tiny_tokenizers import CHATML, LLAMA_LIKE, byte_level, greedy, unigram, with_chat, words
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

import iclens
from iclens.errors import UserError
from iclens.lens.model.loading import LensModel
from iclens.lens.prompt.prompt import Prompt
from iclens.lens.prompt.tokens import tokenize
from iclens.lens.read.answers import Answers, likeliest, token_text
from iclens.lens.read.margin import Readouts

EXAMPLES = [("the cat", "animal"), ("red", "colour")]
PROMPT = Prompt.from_examples(EXAMPLES, "a dog")


@cache
def model(family: str = "gpt2"):
    torch.manual_seed(0)
    small = dict(vocab_size=400, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    wide = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=256)
    made = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=256, **small)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(intermediate_size=32, **wide, **small)),
        "opt": lambda: OPTForCausalLM(
            OPTConfig(ffn_dim=32, word_embed_proj_dim=16, **wide, **small | {"pad_token_id": 1})
        ),
    }[family]()
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3)
    return made.double().eval()


def build(texts=None, answer=None, prompt=PROMPT, tokenizer=None, **more):
    tokenizer = tokenizer or byte_level()
    return Answers.build(tokenize(prompt, tokenizer), tokenizer, texts, answer, **more)


@pytest.mark.parametrize("tokenizer", [byte_level, unigram, words, lambda: byte_level(True, True)])
def test_tokens_of_an_answer_follow_the_prompts_own(tokenizer):
    tokenizer = tokenizer()
    tokenized = tokenize(PROMPT, tokenizer)
    answers = Answers.build(tokenized, tokenizer, ["animal", "colour", " positive"])
    for entry, text in zip(answers.candidates, ["animal", "colour", "positive"], strict=True):
        ids = [*tokenized.input_ids.tolist(), *entry.token_ids]
        assert ids == tokenizer(f"{PROMPT.text} {text}")["input_ids"]
    assert answers.notes == ()


def test_space_before_an_answer_is_the_prompts():
    tokenizer = byte_level()
    close = Prompt.from_text("1+1=2\n\n2+2=4\n\n1+2=")
    (three,) = build(["3"], prompt=close).candidates
    assert tokenizer.decode(three.token_ids) == "3"
    (spaced,) = build([" 3"], prompt=close).candidates
    assert tokenizer.decode(spaced.token_ids) == " 3"
    for template, text in ((CHATML, "b"), (LLAMA_LIKE, " b")):
        chat = [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "b"), ("user", "a")]]
        tokenizer = with_chat(template)
        (said,) = build(["b"], prompt=Prompt.from_chat(chat, tokenizer), tokenizer=tokenizer).candidates
        assert tokenizer.decode(said.token_ids) == text


def test_answer_that_the_tokenizer_would_join_to_the_prompt():
    tokenizer = greedy("=4", "42")
    prompt = Prompt.from_text("2+2=4\n\n1+3=")
    answers = build(["42", "5"], prompt=prompt, tokenizer=tokenizer)
    assert [tokenizer.convert_ids_to_tokens(entry.token_ids) for entry in answers.candidates] == [["42"], ["5"]]
    assert len(answers.notes) == 1
    assert "'42'" in answers.notes[0]
    assert "join" in answers.notes[0]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=8))
@pytest.mark.parametrize("tokenizer", [byte_level, unigram, words])
def test_any_answer_has_tokens_or_is_refused(tokenizer, text):
    try:
        answers = build([text], tokenizer=tokenizer())
    except UserError:
        return
    (entry,) = answers.candidates
    assert len(entry.token_ids) == len(entry.tokens) > 0
    if tokenizer is byte_level:
        lead = "" if text[0].isspace() else " "
        assert tokenizer().decode(entry.token_ids, clean_up_tokenization_spaces=False) == lead + text


@pytest.mark.parametrize(
    ("texts", "answer", "message"),
    [
        ([""], None, "tokenise to nothing"),
        (["a", " \n"], None, "no visible character"),
        (["a", "b", "a"], None, "'a' is given twice"),
        (["a", " a"], None, "' a' has the same tokens as 'a'"),
        (["\ud800"], None, "surrogate"),
        (None, "", "tokenise to nothing"),
    ],
)
def test_answers_that_are_none(texts, answer, message):
    with pytest.raises(UserError, match=message):
        build(texts, answer)


def test_emoji_are_compared_as_whole_answers():
    """They share their first bytes: which of them is likelier is told by the rest."""
    wrapped = LensModel.wrap(model(), byte_level(), "untrained")
    text = "I love it: 😀\n\nI hate it: 😡\n\nAwful meal:"
    found = iclens.explain(wrapped, text, answers=["😀", "😡"], scores=["gradient_step"])
    (best,) = [one for one in found.candidates if one.chosen]
    ids = byte_level()(text)["input_ids"]
    for one in found.candidates:
        more = byte_level()(f" {one.text}")["input_ids"]
        with torch.no_grad():
            logits = model()(torch.tensor([ids + more])).logits[0, len(ids) - 1 : -1]
        own = float(logits.log_softmax(-1).gather(1, torch.tensor(more)[:, None]).sum())
        assert one.log_probability == pytest.approx(own, abs=1e-9)
        assert one.log_probability <= best.log_probability
    assert found.answer == best.text
    assert any("As a whole" in note for note in found.notes) == (found.margin < 0)


def test_unknown_answers():
    with pytest.raises(UserError, match="'xyz' is unknown to the tokenizer"):
        build(["animal", "xyz"], tokenizer=words())
    answers = build(["animal xyz"], tokenizer=words())
    assert "does not know" in answers.notes[0]


def test_answer_beyond_the_context():
    n = tokenize(PROMPT, words()).n_tokens
    build(["animal", "red colour"], tokenizer=words(), context_length=n + 1)
    with pytest.raises(UserError, match=f"prompt has {n} tokens and the answer 'red colour' 2.*holds {n}"):
        build(["animal", "red colour"], tokenizer=words(), context_length=n)


def test_explained_answer_is_the_users_or_the_likeliest():
    assert build(["animal", "colour"], "colour").explained == 1
    joined = build(["animal", "colour"], "city")
    assert [entry.text for entry in joined.candidates] == ["city", "animal", "colour"]
    assert joined.choose([-9.0, -1.0, -2.0]) == 0
    free = build(["animal", "colour"])
    assert free.choose([-2.0, -1.0]) == 1
    assert [c.chosen for c in free.scored([-2.0, -1.0], 1)] == [False, True]
    with pytest.raises(UserError, match="no candidate"):
        build().choose([])


def logits_behind(tokenized, append):
    ids = torch.cat([tokenized.input_ids, torch.tensor(append, dtype=torch.long)])
    with torch.no_grad():
        return model()(ids[None]).logits[0, tokenized.n_tokens - 1 :]


def margin_of(readout, logits):
    """The margin and the answer's log-probability, from the logits of the prompt's last token and those behind it."""
    readouts = Readouts.of([readout], [0], torch.device("cpu"))
    read = logits[readouts.positions]
    return float(readouts.margin(read)), float(readouts.log_probability(read))


def test_margin_over_candidates_is_the_mean_difference_where_they_differ():
    tokenizer = byte_level()
    tokenized = tokenize(PROMPT, tokenizer)
    texts = ["animal zx", "animal zy", "colour", "animal q"]
    answers = Answers.build(tokenized, tokenizer, texts, "animal zx")
    first = logits_behind(tokenized, ())[0]
    readout = answers.readout(tokenizer, first, answers.choose(()))
    # It was known before the model said anything.
    assert readout == answers.settled
    assert build(texts).settled is None
    mine = answers.candidates[0].token_ids
    logits = logits_behind(tokenized, mine[:-1])
    differences = []
    for other in answers.candidates[1:]:
        t = next(t for t in range(9) if mine[t] != other.token_ids[t])
        differences.append(float(logits[t, mine[t]] - logits[t, other.token_ids[t]]))
    log_probability = sum(float(row.log_softmax(-1)[i]) for row, i in zip(logits, mine, strict=True))
    found = margin_of(readout, logits_behind(tokenized, readout.forced))
    assert found == pytest.approx((sum(differences) / 3, log_probability), rel=1e-12)
    assert readout.answer_ids == mine
    assert readout.append == mine[: max(offset for offset, _, _ in readout.terms)]
    assert readout.forced == mine[:-1]
    assert sum(weight for _, _, weight in readout.terms) == pytest.approx(0.0)
    assert readout.definition == (
        "The logit of the answer 'animal zx' minus the mean logit of 'animal zy', 'colour', 'animal q', "
        "each at the first token where the two differ."
    )
    last = tokenized.n_tokens - 1
    positions = Readouts.of([readout], [last], torch.device("cpu")).positions
    assert positions.tolist() == [[last + offset for offset in readout.offsets]]


def test_margin_of_two_answers_changes_sign_with_them():
    tokenizer = byte_level()
    tokenized = tokenize(PROMPT, tokenizer)
    answers = Answers.build(tokenized, tokenizer, ["animal", "colour"])
    logits = logits_behind(tokenized, ())
    one, two = (answers.readout(tokenizer, logits[0], i) for i in range(2))
    own = logits_behind(tokenized, one.forced), logits_behind(tokenized, two.forced)
    assert margin_of(one, own[0])[0] == pytest.approx(-margin_of(two, own[1])[0])
    assert one.append == ()
    assert one.definition == "The logit of the answer 'animal' minus that of 'colour', at its first token."


@pytest.mark.parametrize("answer", [None, "animal", "zzz"])
def test_margin_over_the_likeliest_tokens(answer):
    tokenizer = byte_level()
    tokenized = tokenize(PROMPT, tokenizer)
    answers = Answers.build(tokenized, tokenizer, answer=answer)
    logits = logits_behind(tokenized, ())
    readout = answers.readout(tokenizer, logits[0], answers.explained, n_alternatives=4)
    first = int(logits[0].argmax()) if answer is None else answers.candidates[0].token_ids[0]
    others = [index for index in logits[0].argsort(descending=True).tolist() if index != first][:4]
    found, _ = margin_of(readout, logits_behind(tokenized, readout.forced))
    assert found == pytest.approx(float(logits[0, first] - logits[0, others].mean()))
    assert readout.answer_ids[0] == first
    assert readout.append == ()
    assert "4 most likely other tokens" in readout.definition
    with pytest.raises(UserError, match="n_alternatives is 0"):
        answers.readout(tokenizer, logits[0], answers.explained, n_alternatives=0)


def test_answer_that_starts_another_is_told_apart_by_what_follows():
    tokenizer = byte_level()
    tokenized = tokenize(PROMPT, tokenizer)
    answers = Answers.build(tokenized, tokenizer, ["animal", "animal q"])
    short, long = answers.candidates
    assert long.token_ids[: len(short.token_ids)] == short.token_ids
    readout = answers.readout(tokenizer, torch.zeros(400), 0)
    n = len(short.token_ids)
    line_end = tokenizer("\n")["input_ids"][0]
    # The answer whole is put behind the prompt, to read what comes after it.
    assert readout.append == readout.forced == short.token_ids
    assert set(readout.terms) == {(n, line_end, 1.0), (n, long.token_ids[n], -1.0)}
    (note,) = answers.notes
    assert "begins with 'animal'" in note
    assert repr("\n") in note
    # Plain text says by its demonstrations what follows an answer, if the query's last words stand in them.
    assert build(["animal", "animal q"], prompt=Prompt.from_text(PROMPT.text)) == answers
    text = Prompt.from_text(PROMPT.text.removesuffix("Output:") + "What is it?")
    with pytest.raises(UserError, match="'animal q' starts with the tokens of 'animal'"):
        build(["animal", "animal q"], prompt=text).readout(tokenizer, torch.zeros(400), 0)


@pytest.mark.parametrize("chosen", ["1", "12"])
def test_an_answer_that_starts_another_is_scored_with_its_end(chosen):
    tokenizer, prompt = byte_level(), Prompt.from_text("2+3=5\n\n5+2=7\n\n4+4=")
    wrapped = LensModel.wrap(model(), tokenizer)
    found = iclens.explain(wrapped, prompt, answers=["1", "12"], answer=chosen, scores=["gradient_step", "knock_out"])
    assert found.exact
    tokenized = tokenize(prompt, tokenizer)
    one, two, end = (tokenizer(text)["input_ids"][0] for text in ("1", "2", "\n"))
    logits = logits_behind(tokenized, (one,))
    log_p = torch.log_softmax(logits, -1)
    theirs = {"1": log_p[-2, one] + log_p[-1, end], "12": log_p[-2, one] + log_p[-1, two]}
    for candidate in found.candidates:
        assert candidate.log_probability == pytest.approx(float(theirs[candidate.text]))
    sign = 1 if chosen == "1" else -1
    assert found.margin == pytest.approx(sign * float(logits[-1, end] - logits[-1, two]))
    assert found.answer_log_probability == pytest.approx(float(theirs[chosen]))


def test_likeliest_tokens_are_the_models():
    tokenizer = byte_level()
    logits = logits_behind(tokenize(PROMPT, tokenizer), ())[0]
    top = likeliest(tokenizer, logits, 400)
    assert sum(entry.probability for entry in top) == pytest.approx(1.0)
    assert [entry.token_id for entry in top] == logits.argsort(descending=True).tolist()
    assert top[0].logit == float(logits.max())


def test_text_of_a_token_that_is_no_whole_character():
    tokenizer = byte_level()
    first = tokenizer("😀")["input_ids"][0]
    assert token_text(tokenizer, first) == "ð"
    assert token_text(tokenizer, tokenizer("ĠA")["input_ids"][-1]) == "A"
    assert token_text(tokenizer, 10**6) == "<1000000>"
