"""Prompts side by side give the numbers of one prompt at a time, in every family, whatever their company."""

from __future__ import annotations

import itertools

import pytest
import torch
from iclens.lens.many.explain import RESIDUALS, Explained, explain_batch
from iclens.lens.many.held import BatchPath
from tests.lens.many_prompts import ANSWERS, PROMPTS, asked, prompt, tokenizer
from tests.lens.zoo import build

from iclens.errors import UserError
from iclens.lens.explaining import explain
from iclens.lens.many.plan import batches, tokens_at_once
from iclens.lens.model.loading import LensModel


def lens(name: str, dtype: torch.dtype = torch.float64) -> LensModel:
    return LensModel.wrap(build(name, dtype), tokenizer(), name)


def numbers(found: Explained) -> torch.Tensor:
    scores = [found.gradient_step, found.path, found.knock_out, found.knock_out_log_probability, found.rerun or []]
    rest = [found.margin, found.other_gradient_step, found.other_path, found.said.next_probability]
    return torch.tensor([*itertools.chain(*scores), *rest, *(one.log_probability for one in found.said.candidates)])


# A stack of norms after the branches, an unscaled residual, grouped heads and windows, caps, a projection before the
# unembedding with biases, parallel branches with a scale on the logits.
@pytest.mark.parametrize("name", ["gpt2", "qwen2-window", "gemma2", "opt-350m", "cohere2"])
def test_a_batch_equals_one_prompt_at_a_time(name: str) -> None:
    model = lens(name)
    found = explain_batch(
        model, [asked(model, *one) for one in zip(PROMPTS, ANSWERS, strict=True)], rerun_text=True, most_tokens=60
    )
    for ours, one, answers in zip(found, PROMPTS, ANSWERS, strict=True):
        theirs = explain(model, prompt=one, answers=answers, rerun_text=True)
        effects = theirs.demonstrations
        expected = [
            *(effect.gradient_step for effect in effects),
            *(effect.path for effect in effects),
            *(effect.knock_out.margin_change for effect in effects),
            *(effect.knock_out.log_probability_change for effect in effects),
            *(effect.rerun_margin_change for effect in effects),
            theirs.margin,
            sum(part.gradient_step or 0.0 for part in theirs.others),
            sum(part.path for part in theirs.others),
            theirs.next_tokens[0].probability,
            *(candidate.log_probability for candidate in theirs.candidates),
        ]
        torch.testing.assert_close(numbers(ours), torch.tensor(expected), rtol=1e-10, atol=1e-10)
        assert ours.said.margin.definition == theirs.margin_definition
        assert ours.said.next_token == theirs.next_tokens[0].text
        assert [one.text for one in ours.said.candidates if one.chosen] == [
            c.text for c in theirs.candidates if c.chosen
        ]
        assert len(ours.residuals) == len(RESIDUALS) == len(theirs.residuals)
        assert ours.exact == theirs.exact


def test_company_and_order_do_not_matter() -> None:
    model = lens("llama")
    everything = [asked(model, *one) for one in zip(PROMPTS, ANSWERS, strict=True)]
    together = explain_batch(model, everything)
    backwards = explain_batch(model, everything[::-1])[::-1]
    alone = [explain_batch(model, [one])[0] for one in everything]
    for one, other, single in zip(together, backwards, alone, strict=True):
        torch.testing.assert_close(numbers(one), numbers(other), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(numbers(one), numbers(single), rtol=1e-10, atol=1e-10)


def test_path_parts_sum_to_the_margin() -> None:
    model = lens("gpt2")
    for found in explain_batch(model, [asked(model, *one) for one in zip(PROMPTS, ANSWERS, strict=True)]):
        assert found.exact
        assert sum(found.path) + found.other_path == pytest.approx(found.margin, rel=1e-10, abs=1e-12)


def test_a_part_that_is_wrong_shows_in_its_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    from iclens.lens.many import trace

    model = lens("gpt2")
    right = trace.fast
    monkeypatch.setattr(trace, "fast", lambda call: right(call) * (1 + 1e-6))
    for found in explain_batch(model, [asked(model, one) for one in PROMPTS]):
        assert not found.exact
        assert found.residuals[RESIDUALS.index("capture")] > 1e-8


@pytest.mark.parametrize("factor", [0.0, 1.001])
def test_a_wrong_path_shows_in_its_residual(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    from iclens.lens.many import explain as explaining

    right = explaining.path_batch
    monkeypatch.setattr(
        explaining, "path_batch", lambda *given: BatchPath(right(*given).parts * factor, right(*given).residuals)
    )
    model = lens("gpt2")
    for found in explain_batch(model, [asked(model, one) for one in PROMPTS]):
        assert found.residuals[RESIDUALS.index("path")] > found.tolerance


def test_in_single_precision_sums_that_nearly_cancel_are_taken_again() -> None:
    model = lens("llama", torch.float32)
    found = explain_batch(model, [asked(model, prompt(n, 1, seed)) for seed, n in enumerate([4, 5, 6, 6, 6, 7])])
    assert all(one.exact for one in found)
    for one in found:
        assert sum(one.path) + one.other_path == pytest.approx(one.margin, rel=1e-4, abs=1e-5)


def test_a_plan_holds_every_prompt_once_within_the_budget() -> None:
    model = lens("gpt2")
    everything = [asked(model, prompt(1 + seed % 7, 1 + seed % 3, seed)) for seed in range(60)]
    for budget in (1, 40, 200, 10_000):
        planned = batches(everything, model, budget)
        assert sorted(i for one in planned for i in one) == list(range(60))
        for one in planned:
            lengths = [everything[i].longest for i in one]
            assert len(one) == 1 or len(one) * max(lengths) <= budget
            assert sum(lengths) >= 0.8 * len(one) * max(lengths)
    shuffled = everything[::-1]
    again = [[59 - i for i in one] for one in batches(shuffled, model, 200)]
    assert [sorted(everything[i].longest for i in one) for one in again] == [
        sorted(everything[i].longest for i in one) for one in batches(everything, model, 200)
    ]


def test_tokens_at_once_shrink_with_the_model() -> None:
    small, large = lens("gpt2"), lens("gpt2")
    large.model.config.n_embd, large.model.config.n_inner = 4096, None
    assert tokens_at_once(small) > tokens_at_once(large) >= 1


def test_an_encoder_is_refused() -> None:
    model = LensModel.wrap(build("bert"), tokenizer())
    with pytest.raises(UserError, match=r"encoder|causal"):
        explain_batch(model, [asked(lens("gpt2"), PROMPTS[0])])
