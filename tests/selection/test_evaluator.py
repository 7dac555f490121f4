"""Prompts that share what they begin with say what each says by itself, from the definition."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tests.lens.tiny_tokenizers import byte_level
from tests.lens.zoo import build
from tests.selection.words import TEMPLATE, draw, learner

from iclens import UserError
from iclens.lens import LensModel
from iclens.lens.model.rotary import forget_longer_prompts
from iclens.selection import Example
from iclens.selection.asked import read_query
from iclens.selection.evaluator import Evaluator
from iclens.selection.ledger import Ledger
from iclens.selection.metrics import normalised, value_of
from iclens.selection.reading import log_probabilities
from iclens.selection.writing import Writing
from iclens.selection.written import LONGER, write_answers

POOL = [Example("a cat", "animal"), Example("red", "colour"), Example("a dog sat", "animal"), Example("the cat", "no")]
QUERIES = [Example("dog", "animal"), Example("a red", "colour"), Example("sat", "no")]
ANSWERS = ["animal", "colour", "no", "now"]
ORDERS = [(0, 1, 2, 3), (0, 1, 3), (0, 1), (3, 2, 1, 0), (2,)]


def evaluator(model: LensModel, candidates: Sequence[str] = ANSWERS, **options: object) -> Evaluator:
    writing = Writing("Input: {input}\nOutput: {output}\n")
    queries = [read_query(model, writing.prompt(POOL[:1], one.input), one, candidates) for one in QUERIES]
    return Evaluator(model, POOL, writing, queries, Ledger(100.0), **options)  # type: ignore[arg-type]


def zoo(name: str) -> LensModel:
    model = build(name, torch.float64)
    model.resize_token_embeddings(len(byte_level()), mean_resizing=False)
    return LensModel.wrap(model, byte_level(), name)


def alone(model: LensModel, text: str, answer: str, follow: str = "") -> float:
    """log p of an answer, and of the first token of what follows it, in a plain pass over the whole text."""
    ids = model.tokenizer(text)["input_ids"]
    n = len(model.tokenizer(text + " " + answer)["input_ids"]) + bool(follow)
    whole = model.tokenizer(text + " " + answer + follow)["input_ids"][:n]
    assert whole[: len(ids)] == ids
    # Rotary positions of some models stay stretched behind the longest text so far.
    forget_longer_prompts(model)
    logits = model.model(torch.tensor([whole[:-1]])).logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    return sum(float(log_p[t - 1, whole[t]]) for t in range(len(ids), len(whole)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2-window", "llama-dynamic-rope"])
def test_it_says_what_separate_plain_passes_say(name: str) -> None:
    model = zoo(name)
    made = evaluator(model)
    said = made.said(ORDERS)
    for p, order in enumerate(ORDERS):
        for q, query in enumerate(QUERIES):
            text = made.writing.prompt([POOL[i] for i in order], query.input).text
            # "now" begins with "no": what follows an answer tells the two apart.
            scores = [alone(model, text, one, "\n\n\nInput:" if one == "no" else "") for one in ANSWERS]
            right = ANSWERS.index(str(query.output))
            expected = scores[right] - float(torch.tensor(scores).logsumexp(0))
            assert float(said.log_p[p, q]) == pytest.approx(expected, abs=1e-9)
            assert bool(said.values[p, q]) == (max(range(4), key=scores.__getitem__) == right)


@torch.no_grad()
def test_sharing_changes_no_number_and_reads_less() -> None:
    made = evaluator(zoo("gpt2"))
    asked = [(order, q) for order in ORDERS[:3] for q in made.every]
    texts = list(zip(made.ids(asked), [made.queries[q] for _, q in asked], strict=True))
    values, greedy, tokens = log_probabilities(made.lens_model, texts)
    naive, own_greedy, all_tokens = log_probabilities(made.lens_model, texts, shared=False)
    assert torch.allclose(torch.tensor(values), torch.tensor(naive), atol=1e-10)
    assert greedy == own_greedy
    assert tokens < all_tokens / 1.5


@torch.no_grad()
def test_a_free_answer_counts_when_greedy_decoding_begins_with_it() -> None:
    known, model = draw(0, n_wrong=0), learner()
    pool, writing = [Example(*pair) for pair in known.pool], Writing(TEMPLATE)
    some = [Example(word, label) for word, label in known.dev[:4]]
    wrong = [Example(word, known.labels[0]) for word, label in known.dev[4:8] if label != known.labels[0]]
    queries = [read_query(model, writing.prompt(pool[:1], one.input), one, ()) for one in (*some, *wrong)]
    order = tuple(range(len(pool)))
    exact = Evaluator(model, pool, writing, queries, Ledger(50.0)).said([order])
    assert exact.values[0].tolist() == [1.0] * len(some) + [0.0] * len(wrong)
    for q, query in enumerate(queries):
        text = writing.prompt(pool, query.example.input).text
        log_p = torch.log_softmax(model.model(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0, -1], -1)
        assert float(exact.log_p[0, q]) == pytest.approx(float(log_p[query.ids[0][0]]), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("stop", ["\n", "e", "no such text"])
def test_answers_that_are_written_are_those_of_greedy_decoding(stop: str) -> None:
    model = zoo("gpt2")
    made = evaluator(model, ())
    asked = [((0, 1, 3), 0), ((0, 1, 3), 1), ((2, 1), 2)]
    texts = list(zip(made.ids(asked), [made.queries[q] for _, q in asked], strict=True))
    written, tokens = write_answers(model, texts, stop, 1 << 12)
    for (ids, query), answer in zip(texts, written, strict=True):
        row = list(ids)
        while len(row) - len(ids) < len(query.ids[0]) + LONGER:
            row.append(int(model.model(torch.tensor([row])).logits[0, -1].argmax()))
            said = model.tokenizer.decode(row[len(ids) :])
            if row[-1] == model.tokenizer.eos_token_id or stop in said or "\n" in said.lstrip():
                break
        said = said.removesuffix("</s>").lstrip().split("\n")[0].split(stop)[0].strip()
        assert answer == said
    assert tokens >= sum(len(ids) for ids, _ in texts) / 2


def test_answers_are_compared_as_they_stand_or_normalised() -> None:
    assert value_of("accuracy", "The Paris.", "paris", "normalised") == 1.0
    assert value_of("accuracy", "The Paris.", "paris") == 0.0
    assert value_of("accuracy", " paris ", "paris") == 1.0
    assert normalised("a") != normalised("the") != normalised("+") != normalised("-")
    with pytest.raises(UserError, match="must give a number"):
        value_of(lambda prediction, target: "good", "a", "b")  # type: ignore[arg-type, return-value]


def test_a_metric_is_a_function_of_prediction_and_target() -> None:
    seen: list[tuple[str, str]] = []

    def metric(prediction: str, target: str) -> float:
        seen.append((prediction, target))
        return len(prediction) / 10

    said = evaluator(zoo("gpt2"), metric=metric).said([(0, 1)])
    assert [target for _, target in seen] == [one.output for one in QUERIES]
    assert {prediction for prediction, _ in seen} <= set(ANSWERS)
    assert said.values[0].tolist() == [len(prediction) / 10 for prediction, _ in seen]


def test_what_ran_once_does_not_run_again() -> None:
    made = evaluator(zoo("gpt2"))
    first = made.said([(0, 1), (1, 0)], [0, 1])
    tokens = made.ledger.tokens
    again = made.said([(1, 0), (0, 1)], [1, 0])
    assert made.ledger.tokens == tokens
    assert torch.equal(again.log_p, first.log_p.flip(0, 1))
    made.said([(0, 1)], [2])
    assert made.ledger.tokens > tokens
