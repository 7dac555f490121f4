"""Pairs are second derivatives of the margin in the training weights, fitted to gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lens.many_prompts import PROMPTS, reader

from iclens.errors import UserError
from iclens.lens.lens import Lens
from iclens.lens.passes import Passes
from iclens.lens.read.question import ask
from iclens.lens.scores.pairs import LEAST, RIDGE, Pairs, fit, weight_vectors


def quadratic(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return torch.randn(n, generator=generator, dtype=torch.float64), matrix + matrix.T


def fitted(slope: torch.Tensor, matrix: torch.Tensor, n_vectors: int, seed: int = 0) -> Pairs:
    """The pairs of M(w) = slope · w + ½ wᵀ H w, whose gradients are known."""
    n = len(slope)
    generator = torch.Generator().manual_seed(seed)
    weights = weight_vectors(1, n, generator, n_vectors)[:, 0]
    kept = torch.rand(16, n, generator=generator) < 0.5

    def margin(w: torch.Tensor) -> torch.Tensor:
        return w @ slope + (w @ matrix * w).sum(-1) / 2

    return fit(weights, slope + weights @ matrix, margin(weights), kept, margin(kept.double()))


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_a_quadratic_margin_is_found_up_to_the_ridge(n: int, seed: int) -> None:
    slope, matrix = quadratic(n, seed)
    found = fitted(slope, matrix, 120, seed)
    # The mean gradient is exact: mirrored vectors cancel the second-order part.
    torch.testing.assert_close(found.influence, slope + found.weights.mean(0) @ matrix)
    # With many vectors the spread is (1 − LEAST)² / 12 in every direction, which the ridge shrinks by a known part.
    spread = (1 - LEAST) ** 2 / 12
    expected = matrix * spread / (spread + RIDGE * float(found.weights.max()) ** 2)
    torch.testing.assert_close(found.matrix, expected, rtol=0.3, atol=0.3 * float(matrix.abs().max()))
    torch.testing.assert_close(found.matrix, found.matrix.T)
    assert bool((found.noise <= 0.1 * float(matrix.abs().max())).all())


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_a_linear_margin_has_no_pairs_and_is_predicted_exactly(n: int, seed: int) -> None:
    slope, matrix = quadratic(n, seed)
    found = fitted(slope, torch.zeros_like(matrix), 6, seed)
    torch.testing.assert_close(found.matrix, torch.zeros_like(matrix), rtol=0, atol=1e-10)
    assert found.redundant == ()
    assert found.dependent == ()
    assert found.error < 1e-10


def test_two_that_say_the_same_are_named_and_two_that_need_each_other() -> None:
    # Each of 0 and 1 adds 2 alone and 2 together; 2 and 3 add nothing alone and 2 together; 4 adds 1 whatever else.
    slope = torch.tensor([2.0, 2.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    matrix = torch.zeros(5, 5, dtype=torch.float64)
    matrix[0, 1] = matrix[1, 0] = -2.0
    matrix[2, 3] = matrix[3, 2] = 2.0
    found = fitted(slope, matrix, 40)
    assert found.redundant == ((0, 1),)
    assert found.dependent == ((2, 3),)
    assert found.error < found.spread / 2
    changes = found.changes
    torch.testing.assert_close(changes, changes.T)
    assert float(changes[0, 1]) < 0 < float(changes[2, 3])
    assert float(changes[:4, 4].abs().max()) == 0.0


def test_more_vectors_predict_a_quadratic_margin_better() -> None:
    slope, matrix = quadratic(5, 3)
    errors = [fitted(slope, matrix, n_vectors).error for n_vectors in (4, 12, 100)]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("n_vectors", [0, 2, 5])
def test_vectors_come_in_mirrored_pairs(n_vectors: int) -> None:
    with pytest.raises(UserError, match="mirrored pairs"):
        Lens(reader("gpt2"), PROMPTS[0]).pairs(n_vectors)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_its_influence_and_its_check_are_the_models_own(name: str) -> None:
    lens = Lens(reader(name), PROMPTS[0], answers=("w1", "w2"))
    found = lens.pairs()
    gradients = [lens.by_demonstration(lens.influence(w.tolist()).by_token) for w in found.weights]
    torch.testing.assert_close(torch.stack(gradients).mean(0), found.influence, rtol=1e-9, atol=1e-12)
    dropped = [(~kept).nonzero().flatten().tolist() for kept in found.kept]
    some = [i for i, one in enumerate(dropped) if one]
    margins = lens.knock_out([dropped[i] for i in some], query_only=False).margins
    torch.testing.assert_close(found.margins[some], margins.double(), rtol=1e-9, atol=1e-12)
    # The same question runs nothing.
    cost = lens.passes.cost
    prediction = lens.predict([0, 2])
    assert lens.passes.cost == cost
    assert prediction == pytest.approx(float(found.predict(torch.tensor([True, False, True]))))
    with pytest.raises(UserError, match="demonstration 7"):
        lens.predict([7])
    assert isinstance(lens.predict([]), float)


def test_with_many_vectors_the_matrix_is_the_slope_of_the_influence() -> None:
    """A ridge shrinks the matrix, and the weights of the others vary: signs and sizes agree, digits do not."""
    lens = Lens(reader("gpt2"), PROMPTS[0], answers=("w1", "w2"))
    found = lens.pairs(60)
    n, step, centre = lens.n_demonstrations, 1e-3, 0.55
    columns = []
    for i in range(n):
        ends = []
        for sign in (-1, 1):
            weights = [centre + sign * step * (i == j) for j in range(n)]
            ends.append(lens.by_demonstration(lens.influence(weights).by_token))
        columns.append((ends[1] - ends[0]) / (2 * step))
    hessian = torch.stack(columns)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-3, atol=1e-6)
    agreement = torch.corrcoef(torch.stack([found.matrix.flatten(), hessian.flatten()]))[0, 1]
    assert float(agreement) > 0.9


def test_prompts_side_by_side_have_the_pairs_of_each_alone() -> None:
    model = reader("gpt2")
    questions = [ask(model, prompt, ["w1", "w2"], None) for prompt in PROMPTS[:2]]
    together = Passes(model, questions, most_tokens=60).by_weight.pairs()
    most = max(one.tokenized.n_demonstrations for one in questions)
    for b, (question, found) in enumerate(zip(questions, together, strict=True)):
        lens, n = Lens(model, question), question.tokenized.n_demonstrations
        generator = torch.Generator().manual_seed(0)
        assert torch.equal(found.weights, weight_vectors(len(questions), most, generator, len(found.weights))[:, b, :n])
        gradients = [lens.by_demonstration(lens.influence(w.tolist()).by_token) for w in found.weights]
        torch.testing.assert_close(torch.stack(gradients).mean(0), found.influence, rtol=1e-9, atol=1e-12)
