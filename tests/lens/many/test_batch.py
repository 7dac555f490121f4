"""Prompts side by side give the numbers of one prompt at a time, in every family, whatever their company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.lens.many_prompts import PROMPTS, prompt, questions, reader, tokenizer
from tests.lens.zoo import CAUSAL, build, lens, tokens

from iclens.errors import UserError
from iclens.lens.building import SCORES
from iclens.lens.explaining import explain_many, explain_together
from iclens.lens.explanation import Explanation
from iclens.lens.lens import Lens
from iclens.lens.many.plan import batches, tokens_at_once
from iclens.lens.model.loading import LensModel
from iclens.lens.passes import Passes
from iclens.lens.read.margin import Readout, Readouts
from iclens.lens.read.padded import PaddedTokens
from iclens.lens.read.question import ask
from iclens.lens.read.tracing import off_by, trace
from iclens.lens.scores.gradient_step import gradient_step
from iclens.lens.scores.knock_out import hidden_keys, knock_out
from iclens.lens.scores.path import path

# Prompts that differ in length, start of the query, number of sets and in what is read: an answer of four tokens with
# alternatives at two of them, one token against others, and a logit of no answer. None is longer than positions that
# stretch with the text can be.
ROWS = [tokens(n, seed=n)[0] for n in (16, 9, 13)]
STARTS = [10, 5, 12]
ORIGINS = [12, 8, 12]
READOUTS = [
    Readout(((0, 5, 1.0), (0, 7, -0.5), (3, 8, 0.7), (3, 11, -1.0)), answer_ids=(5, 9, 7, 8)),
    Readout.contrast(0, 5, [6, 7]),
    Readout(((0, 9, 1.0),)),
]
GROUPS = [torch.tensor(own) for own in ([-1, 0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 0, -1, 1, 1], [-1] * 8 + [0] * 3 + [1])]
SETS = [[(0,), (1,), (2,), (0, 2)], [(0,), (0, 1)], [(1,)]]


def numbers(model: LensModel, prompts: list[int], filler: int | None = None) -> list[dict[str, torch.Tensor]]:
    """What is found of some of the prompts side by side, cut to each one's tokens and sets."""
    padded = PaddedTokens.of([ROWS[i] for i in prompts], [STARTS[i] for i in prompts], model.device)
    if filler is not None:
        padded = replace(padded, ids=torch.where(padded.real, padded.ids, filler))
    readouts = Readouts.of([READOUTS[i] for i in prompts], [ORIGINS[i] for i in prompts], model.index_device)
    found = trace(model, padded, readouts, held=True)
    groups = torch.full_like(padded.ids, -1)
    for row, i in zip(groups, prompts, strict=True):
        row[: len(GROUPS[i])] = GROUPS[i]
    knocked = knock_out(found, hidden_keys(groups, [SETS[i] for i in prompts]))
    direct, through = gradient_step(found), path(found)
    every = []
    for b, i in enumerate(prompts):
        n, sets = len(ROWS[i]), len(SETS[i])
        for filled in (direct.contributions, through.parts):
            assert not filled[b][..., n:].any()
        own = {f"direct {key}": part for key, part in vars(direct[b]).items()}
        own |= {"by token": direct[b].by_token[:n], "direct contributions": direct[b].contributions[..., :n]}
        own |= {"embedding": through[b].embedding[:n], "bias": through[b].bias[:n]}
        own |= {"without": knocked[b].margins[:sets], "log p without": knocked[b].log_probabilities[:sets]}
        own |= {"margin": found.margins[b], "log p": found.log_probabilities[b]}
        assert max(float(off_by(found)[b]), *(float(one[b].residual) for one in (direct, through, knocked))) <= (
            1e-5 if found.capped else 1e-12
        )
        every.append(own)
    return every


@pytest.mark.parametrize("name", CAUSAL)
def test_a_prompts_numbers_do_not_depend_on_its_company(name: str) -> None:
    model = lens(name, torch.float64)
    together = numbers(model, [0, 1, 2])
    alone = [numbers(model, [i])[0] for i in range(3)]
    for ours, theirs in zip(together, alone, strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(
                ours[key], value, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
            )
    assert float(alone[2]["log p"]) == 0.0 > float(alone[0]["log p"])


@pytest.mark.parametrize("name", ["gpt2", "mistral-window", "gemma2"])
def test_neither_order_nor_filling_up_matters(name: str) -> None:
    model = lens(name, torch.float64)
    forwards, backwards = numbers(model, [0, 1, 2]), numbers(model, [2, 1, 0], filler=7)[::-1]
    for ours, theirs in zip(forwards, backwards, strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-10, atol=1e-10)


def as_plain_data(found: Explanation) -> tuple[list[float], list[Any]]:
    """All numbers of an explanation, and all else, without what it cost."""
    floats: list[float] = []
    others: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            others.extend(value)
            value = list(value.values())
        if isinstance(value, list | tuple):
            for one in value:
                walk(one)
        elif isinstance(value, float):
            floats.append(value)
        else:
            others.append(value)

    data = found.to_dict()
    for one in data["residuals"]:
        # Rounding, which company moves.
        del one["value"]
    walk({key: value for key, value in data.items() if key not in ("cost", "command")})
    return floats, others


def check_same(ours: Explanation, theirs: Explanation) -> None:
    (numbers, rest), (expected, expected_rest) = as_plain_data(ours), as_plain_data(theirs)
    assert (rest, ours.exact) == (expected_rest, theirs.exact)
    assert len(expected) > 50
    torch.testing.assert_close(torch.tensor(numbers), torch.tensor(expected), rtol=1e-10, atol=1e-10)


# A stack of norms after the branches, an unscaled residual, grouped heads and windows, caps, a projection before the
# unembedding with biases, parallel branches with a scale on the logits, sinks, a latent, chunks.
@pytest.mark.parametrize(
    "name", ["gpt2", "qwen2-window", "gemma2", "opt-350m", "cohere2", "gpt_oss", "deepseek_v2", "llama4_text"]
)
def test_explanations_do_not_depend_on_their_company(name: str) -> None:
    model = reader(name)
    asked, scores = questions(model), ("gradient_step", "path", "knock_out", "rerun")
    together = explain_together(model, asked, scores, most_tokens=60)
    backwards = explain_together(model, asked[::-1], scores)[::-1]
    for one, other, question in zip(together, backwards, asked, strict=True):
        alone = Lens(model, question).explanation(scores)
        check_same(one, alone)
        check_same(other, alone)
        assert len(one.residuals) == 5
        assert one.exact
        path_parts = sum(effect.path for effect in one.sources) + sum(part.path for part in one.others)
        assert path_parts == pytest.approx(one.margin, rel=1e-10, abs=1e-12)


def test_many_explanations_come_in_the_order_of_their_prompts_whatever_the_batches() -> None:
    model, answers = reader("llama"), ("w1", "w2")
    alone = [Lens(model, one, answers=answers).explanation(SCORES) for one in PROMPTS]
    for most in (1, 40, None):
        found = explain_many(model, PROMPTS, answers=answers, most_tokens=most)
        for ours, theirs in zip(found, alone, strict=True):
            check_same(ours, theirs)


def test_an_attention_that_is_not_the_models_own_shows_in_its_residual() -> None:
    model = LensModel.wrap(build("gpt2", torch.float64), tokenizer(), "two-faced")

    def otherwise(module: Any, inputs: Any, output: Any) -> Any:
        """The model's own attention is off by a millionth; what the lens puts in its place is not."""
        if module.config._attn_implementation == "iclens":
            return output
        return (output[0] * (1 + 1e-6), *output[1:])

    model.anatomy.layers[1].attention.register_forward_hook(otherwise)
    for found in explain_together(model, questions(model)):
        assert not found.exact
        assert {one.key for one in found.residuals if not one.holds} == {"capture"}
        assert found.residuals[0].value > 1e-8


@pytest.mark.parametrize("factor", [0.0, 1.001])
def test_a_wrong_path_shows_in_its_residual(factor: float) -> None:
    passes = Passes(reader("gpt2"), questions(reader("gpt2")))
    right = passes.path
    assert float(passes.path_residuals(right).max()) <= 1e-10
    wrong = replace(right, embedding=right.embedding * factor, bias=right.bias * factor)
    assert float(passes.path_residuals(wrong).min()) > 1e-10


def test_in_single_precision_sums_that_nearly_cancel_are_taken_again() -> None:
    model = reader("llama", torch.float32)
    asked = [ask(model, prompt(n, 1, seed)) for seed, n in enumerate([4, 5, 6, 6, 6, 7])]
    for found in explain_together(model, asked, ["path"]):
        assert found.exact
        parts = sum(effect.path for effect in found.sources) + sum(part.path for part in found.others)
        assert parts == pytest.approx(found.margin, rel=1e-4, abs=1e-5)


def test_a_plan_holds_every_prompt_once_within_the_budget() -> None:
    model = reader("gpt2")
    everything = [ask(model, prompt(1 + seed % 7, 1 + seed % 3, seed)) for seed in range(60)]
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
    small, large = reader("gpt2"), LensModel.wrap(build("gpt2"))
    large.model.config.n_embd, large.model.config.n_inner = 4096, None
    assert tokens_at_once(small) > tokens_at_once(large) >= 1


def test_an_encoder_is_refused() -> None:
    model = LensModel.wrap(build("bert"), tokenizer())
    for call in (lambda: explain_many(model, PROMPTS), lambda: explain_together(model, questions(reader("gpt2")))):
        with pytest.raises(UserError, match=r"encoder|causal"):
            call()
