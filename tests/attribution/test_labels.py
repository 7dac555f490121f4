"""Scores that read the demonstrations' labels: against the model on each beginning of the text, and by definition."""

from __future__ import annotations

import pytest
import torch
from tests.attribution.test_methods import seeded
from tests.lens.word_learner import MARGIN, PAIRS, PROMPT, learner, shared_lens, tokenizer

from iclens.attribution.labels.detail import influences
from iclens.attribution.shared.label_places import label_places, orders, reordered
from iclens.errors import UserError
from iclens.lens import Lens, Prompt
from iclens.lens.prompt.tokens import tokenize

N = len(PAIRS)


def label_log_p(words: list[tuple[str, str]]) -> list[float]:
    """log p of each label from a pass over what stands before it."""
    found, text = [], ""
    for word, label in words:
        ids = tokenizer()(f"{text}{word} is")["input_ids"]
        logits = learner().model(input_ids=torch.tensor([ids])).logits[0, -1].detach()
        found.append(float(torch.log_softmax(logits, -1)[tokenizer().convert_tokens_to_ids(label)]))
        text += f"{word} is {label} . "
    return found


def test_label_surprise_is_the_log_probability_of_each_label_given_those_before():
    assert shared_lens().score("label_surprise").values.tolist() == pytest.approx(label_log_p(PAIRS))


def test_label_surprise_of_orders_is_a_mean_over_orders_of_the_text():
    chosen = orders(seeded(), N, 8)
    rows = torch.zeros(len(chosen), N, dtype=torch.float64)
    for row, order in zip(rows, chosen, strict=True):
        row[order] = torch.tensor(label_log_p([PAIRS[i] for i in order]), dtype=torch.float64)
    torch.testing.assert_close(shared_lens().score("label_surprise_orders").values, rows.mean(0))


def test_label_doubt_is_centred_within_labels_that_several_have():
    values = shared_lens().score("label_doubt").values
    for label in ("dax", "wug"):
        alike = torch.tensor([own == label for _, own in PAIRS])
        assert float(values[alike].sum()) == pytest.approx(0, abs=1e-12)
    assert float(values[3]) != 0


def test_a_reordered_prompt_is_the_one_written_in_that_order():
    order = [3, 0, 4, 1, 2]
    written = Prompt.from_examples([PAIRS[i] for i in order], "cow", "{input} is {output} .")
    assert reordered(PROMPT, order) == written
    assert reordered(written, [order.index(i) for i in range(N)]) == PROMPT


def test_in_a_pair_of_orders_every_demonstration_follows_every_other_once():
    for one, other in zip(*[iter(orders(seeded(), 6, 8))] * 2, strict=True):
        before = [{(order[a], order[b]) for a in range(6) for b in range(a)} for order in (one, other)]
        assert not before[0] & before[1]
        assert len(before[0] | before[1]) == 30


def test_label_places_are_the_labels():
    tokenized = tokenize(PROMPT, tokenizer())
    found = [[tokenized.texts[t].strip() for t in place] for place in label_places(tokenized)]
    assert found == [[label] for _, label in PAIRS]


@pytest.mark.parametrize("name", ["label_surprise", "label_doubt", "detail"])
def test_without_labels_it_says_so(name):
    blind = Prompt.from_text("dog is dax .\n\noak is wug .\n\ncow is")
    with pytest.raises(UserError, match="the label of demonstration 0 is not known"):
        Lens(learner(), blind, readout=MARGIN).score(name)


def test_detail_is_the_slope_of_the_query_s_loss_with_a_pair_s_weight():
    generator, ridge, step = seeded(), 0.7, 1e-6
    m, query = torch.randn(5, 3, generator=generator).double(), torch.randn(3, generator=generator).double()
    eye = torch.eye(2, dtype=torch.float64)
    y, answer = eye[torch.tensor([0, 1, 1, 0, 1])], eye[0]

    def loss(state, label, i, weight):
        hessian = m.T @ m + ridge * torch.eye(3) + weight * (m[i].outer(m[i]) + ridge * torch.eye(3))
        beta = torch.linalg.solve(hessian, m.T @ y + weight * m[i].outer(y[i]))
        return 0.5 * (state @ beta - label).square().sum() + 0.5 * ridge * beta.square().sum()

    on_query, on_self = influences(m, y, query, answer, ridge)
    for i in range(5):
        for found, state, label in ((on_query, query, answer), (on_self, m[i], y[i])):
            slope = (loss(state, label, i, step) - loss(state, label, i, -step)) / (2 * step)
            assert float(found[i]) == pytest.approx(-float(slope), rel=1e-5, abs=1e-8)
    assert bool((on_self >= 0).all())
