"""Candidates that run after the prompts' keys and values get what the model gives them behind the whole prompt."""

from __future__ import annotations

import pytest
import torch
from tests.lens.zoo import CAUSAL, lens, read_last, tokens

from iclens.lens.model.rotary import longest_alike
from iclens.lens.read.capture import run
from iclens.lens.scores.candidates import score_candidates

PROMPTS = [tokens(n, seed=n)[0] for n in (11, 18, 9)]
ANSWERS = [[(5,), (7, 9), (7, 12, 3, 4)], [], [(8, 2), (30,)]]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("most_tokens", [1, 4096])
def test_scores_are_the_sum_of_the_models_own_steps(name: str, most_tokens: int) -> None:
    model = lens(name, torch.float64)
    if longest_alike(model) is None:
        scores, cost = score_candidates(read_last(model, PROMPTS), ANSWERS, most_tokens)
        assert cost > 0
    else:
        # The longest prompt of a pass moves the positions of all: such prompts run alone.
        pairs = zip(PROMPTS, ANSWERS, strict=True)
        scores = [score_candidates(read_last(model, [ids]), [some], most_tokens)[0][0] for ids, some in pairs]
    assert [len(some) for some in scores] == [3, 0, 2]
    for ids, some, found in zip(PROMPTS, ANSWERS, scores, strict=True):
        for answer, score in zip(some, found, strict=True):
            whole = torch.cat([ids, torch.tensor(answer)])
            with torch.no_grad():
                steps = run(model, whole[None, :-1])[0, len(ids) - 1 :].log_softmax(-1)
            own = float(steps.gather(1, torch.tensor(answer)[:, None]).sum())
            # Gemma 2 knows only its eager attention, whose softmax is in float32.
            assert score == pytest.approx(own, rel=1e-5 if name == "gemma2" else 1e-11)


def test_answers_of_one_token_run_nothing() -> None:
    traced = read_last(lens("llama", torch.float64), PROMPTS[:1])
    (scores,), cost = score_candidates(traced, [[(5,), (6,)]])
    assert cost == 0
    assert scores == pytest.approx(traced.logits[0, 0].log_softmax(-1)[[5, 6]].tolist())


def test_a_few_tokens_cost_their_share_of_the_prompt() -> None:
    _, cost = score_candidates(read_last(lens("llama"), [tokens(20)[0]]), [[(5, 6), (7, 8, 9)]])
    assert cost == pytest.approx(2 * 2 / 20)
