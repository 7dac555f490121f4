import math

import pytest
import torch

from iclens.errors import UserError
from iclens.papers.yang_2024.closed_forms import excess, optimum, population_loss
from iclens.papers.yang_2024.gradient import Gradient, Moments, floor_operations
from iclens.papers.yang_2024.model import DictionaryModel
from iclens.papers.yang_2024.rates import floor, lazy_excess, one_head_floor, rate, zeta
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTrainer, DictionaryTraining


def drawn(n_runs=3, *, d=6, m=3, n_tokens=10, n_prompt=4, tau=0.1, normalised=True):
    return Dictionary.stack(
        [Dictionary.draw(d, m, n_tokens, n_prompt, tau, seed, normalised=normalised) for seed in range(n_runs)]
    )


def made(dictionary, n_heads=5, **options):
    return DictionaryModel.on(dictionary, range(dictionary.tokens.shape[0]), n_heads=n_heads, **options)


def filled(model):
    with torch.no_grad():
        model.w.copy_(torch.randn(model.w.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("chunk", [1, 400, 2**20])
@pytest.mark.parametrize("n_prompt", [1, 4, 10])
def test_the_gradient_by_hand_is_autograds(chunk, n_prompt):
    dictionary = drawn(n_prompt=n_prompt)
    model = filled(made(dictionary, heads=[5, 3, 1]))
    labels = dictionary.sample_labels([torch.Generator().manual_seed(seed) for seed in range(3)], 11)
    moments = Moments.of_batch(labels, n_prompt)
    gradient = Gradient(model, n_prompt, most_scores=chunk)
    a_hat = gradient(moments)
    torch.testing.assert_close(a_hat, model.weights(n_prompt))
    shown = model.tokens[:, None, :n_prompt].expand(-1, 11, -1, -1)
    answers = model.answers_per_prompt(shown, labels[..., :n_prompt])
    loss = (answers - labels).square().mean((1, 2)) / 2
    torch.testing.assert_close(moments.loss(a_hat), loss)
    loss.sum().backward()
    torch.testing.assert_close([gradient.w, gradient.Q], [model.w.grad, model.Q.grad])


def test_population_moments_give_the_population_loss_and_its_gradient():
    dictionary = drawn()
    model = filled(made(dictionary))
    moments, gradient = Moments.of_population(dictionary), Gradient(model, 4)
    a_hat = gradient(moments)
    torch.testing.assert_close(moments.loss(a_hat), population_loss(dictionary, a_hat))
    excess(dictionary, model.weights(4)).sum().backward()
    torch.testing.assert_close([gradient.w, gradient.Q], [model.w.grad, model.Q.grad])


@pytest.mark.parametrize("optimizer", ["adam", "gd"])
@pytest.mark.parametrize("n_draws", [0, 40])
def test_a_step_is_that_of_the_plain_transformer_on_the_same_prompts(optimizer, n_draws):
    dictionary = drawn(1)
    settings = DictionaryTraining(
        batch=16, n_draws=n_draws, optimizer=optimizer, learning_rate=0.02, gamma=3.0, n_test=7, every=1
    )
    fast = made(dictionary)
    trainer = DictionaryTrainer(dictionary, fast, settings)
    plain = made(dictionary)
    for _ in range(6):
        trainer.step()
    # The same prompts again: the draws of the trainer, in their order.
    generator = torch.Generator().manual_seed(0 + 2**40)
    for flag in (False, True):
        dictionary.sample_labels([generator], 7, shifted=flag)
    pool = dictionary.sample_labels([generator], n_draws)[0] if n_draws else None
    order = torch.tensor([], dtype=torch.long)
    adam = torch.optim.Adam(plain.parameters(), lr=0.02)
    for _ in range(6):
        if pool is None:
            labels = dictionary.sample_labels([generator], 16)
        else:
            if len(order) < 16:
                order = torch.randperm(n_draws, generator=generator)
            labels, order = pool[order[:16]][None], order[16:]
        plain.zero_grad()
        shown = plain.tokens[:, None, :4].expand(-1, 16, -1, -1)
        ((plain.answers_per_prompt(shown, labels[..., :4]) - labels).square().mean() / 2).backward()
        if optimizer == "adam":
            adam.step()
        else:
            with torch.no_grad():
                plain.w -= 0.02 * 9 * plain.w.grad
                plain.Q -= 0.02 * plain.Q.grad
    assert plain.w.abs().max() > 0.01
    torch.testing.assert_close([fast.w, fast.Q], [plain.w, plain.Q])


@pytest.mark.parametrize("optimizer", ["adam", "gd"])
@pytest.mark.parametrize("batch", [0, 8])
def test_a_run_equals_the_same_run_alone(optimizer, batch):
    dictionary = drawn()
    options = dict(batch=batch, n_draws=20, optimizer=optimizer, every=4)
    together = made(dictionary, n_heads=6, heads=[6, 4, 2])
    rates = DictionaryTraining(learning_rate=(0.01, 0.02, 0.03), gamma=(1.0, 2.0, 3.0), **options)
    many = DictionaryTrainer(dictionary, together, rates).run(10)
    alone = DictionaryModel.on(dictionary[1], [1], n_heads=4)
    one = DictionaryTrainer(dictionary[1], alone, DictionaryTraining(learning_rate=0.02, gamma=2.0, **options)).run(10)
    torch.testing.assert_close(together.w[1, :4], alone.w[0])
    torch.testing.assert_close(together.Q[1, :, :4], alone.Q[0])
    assert not together.w[1, 4:].any()
    assert [found.step for found in many] == [0, 4, 8, 10]
    for found, expected in zip(many, one, strict=True):
        for name in ("loss", "excess", "in_domain", "shifted"):
            torch.testing.assert_close(getattr(found, name)[1], getattr(expected, name)[0])


@pytest.mark.parametrize("n_draws", [0, 20])
def test_a_resumed_training_is_bit_for_bit_the_same(n_draws):
    dictionary = drawn(2)
    settings = DictionaryTraining(batch=8, n_draws=n_draws, learning_rate=0.01, every=3)
    whole = DictionaryTrainer(dictionary, made(dictionary), settings)
    expected = whole.run(11)
    first = DictionaryTrainer(dictionary, made(dictionary), settings)
    found = first.run(6)
    state = first.state_dict()
    first.run(9)
    second = DictionaryTrainer(dictionary, filled(made(dictionary)), settings)
    second.load_state_dict(state)
    found += second.run(11)
    assert [one.step for one in found] == [one.step for one in expected] == [0, 3, 6, 9, 11]
    assert all(torch.equal(one.loss, other.loss) for one, other in zip(found, expected, strict=True))
    assert torch.equal(second.model.Q, whole.model.Q)
    other = DictionaryTrainer(dictionary, made(dictionary), DictionaryTraining(every=3))
    with pytest.raises(UserError, match="other settings"):
        other.load_state_dict(state)


def test_a_diverged_run_goes_back_and_the_others_go_on():
    dictionary = drawn(2)
    settings = DictionaryTraining(batch=0, optimizer="gd", learning_rate=(1e60, 0.1), gamma=1.0, n_test=0, every=5)
    model = made(dictionary)
    trainer = DictionaryTrainer(dictionary, model, settings)
    found = trainer.run(20)
    assert trainer.diverged[0] is not None
    assert trainer.diverged[1] is None
    assert found[-1].excess[0].isnan()
    assert found[-1].excess[1] < found[0].excess[1]
    assert model.w.isfinite().all()
    alone = DictionaryModel.on(dictionary[1], [1], n_heads=5)
    DictionaryTrainer(
        dictionary[1], alone, DictionaryTraining(batch=0, optimizer="gd", learning_rate=0.1, n_test=0, every=5)
    ).run(20)
    torch.testing.assert_close(model.w[1], alone.w[0])


@pytest.mark.parametrize("rates", [0.02, (0.02, 0.03)])
def test_a_run_that_diverged_under_adam_stands_still_where_it_was_last_finite(rates):
    dictionary = drawn(2)
    model = made(dictionary)
    settings = DictionaryTraining(batch=0, learning_rate=rates, n_test=0, every=5)
    trainer = DictionaryTrainer(dictionary, model, settings)
    trainer.run(5)
    kept = model.Q[0].detach().clone()
    trainer.run(7)
    with torch.no_grad():
        model.w[0] = math.nan
    found = trainer.run(20)
    assert trainer.diverged == [10, None]
    assert torch.equal(model.Q[0], trainer._keep[1][0])
    assert not torch.equal(kept, model.Q[0])
    assert found[-1].excess[0].isnan()
    alone = DictionaryModel.on(dictionary[1], [1], n_heads=5)
    rate_alone = rates[1] if isinstance(rates, tuple) else rates
    DictionaryTrainer(
        dictionary[1], alone, DictionaryTraining(batch=0, learning_rate=rate_alone, n_test=0, every=5)
    ).run(20)
    torch.testing.assert_close(model.w[1], alone.w[0])


def test_measurements_are_what_they_say():
    dictionary = drawn(2)
    model = filled(made(dictionary))
    trainer = DictionaryTrainer(dictionary, model, DictionaryTraining(batch=8, n_draws=30, n_test=12))
    found = trainer.measure()
    for run in range(2):
        generator = torch.Generator().manual_seed(run + 2**40)
        one = dictionary[run]
        stack = Dictionary.stack([one])
        tests = [stack.sample_labels([generator], 12, shifted=flag)[0] for flag in (False, True)]
        draws = stack.sample_labels([generator], 30)[0]
        a_hat = model.weights(4)[run].detach()
        gaps = [((y[:, :4] @ (a_hat - optimum(one))).square().mean(1)).mean() for y in tests]
        torch.testing.assert_close(torch.stack([found.in_domain[run], found.shifted[run]]), torch.stack(gaps))
        torch.testing.assert_close(found.loss[run], (draws[:, :4] @ a_hat - draws).square().mean() / 2)
        torch.testing.assert_close(found.excess[run], population_loss(one, a_hat) - trainer.smallest_loss[run])
    assert found.shifted.mean() > 2 * found.in_domain.mean()


# Independent check values, of one dictionary. H: floor with unit-norm and with raw tokens, ζ_0 with unit-norm tokens.
FLOORS = {
    1: (8.91, 9.04, 0.0),
    8: (5.52, 5.72, 0.0),
    20: (0.77, 1.53, 0.0),
    25: (0.18, 0.78, 0.0),
    40: (0.0, 0.14, 1.6e-4),
    64: (0.0, 0.022, 1.4e-3),
}


@pytest.mark.parametrize("n_heads", FLOORS)
def test_floors_and_smallest_eigenvalues_have_the_check_values(n_heads):
    expected = FLOORS[n_heads]
    for normalised, value in ((True, expected[0]), (False, expected[1])):
        dictionary = drawn(3, d=100, m=20, n_tokens=200, n_prompt=30, tau=0.01, normalised=normalised)
        model = made(dictionary, n_heads=n_heads)
        found = floor(dictionary, model)
        # One dictionary against another: the spread of three here is up to a quarter of small floors.
        torch.testing.assert_close(found.mean(), torch.tensor(value), rtol=0.5 if value < 0.5 else 0.2, atol=1e-20)
        if normalised:
            smallest = zeta(dictionary, model)
            assert (smallest == 0).all() if n_heads < 30 else (smallest / expected[2] - 1).abs().max() < 0.5


def test_zeta_and_the_floor_know_the_heads_of_each_run():
    dictionary = drawn()
    together = made(dictionary, n_heads=8, heads=[8, 4, 3])
    for run, heads in enumerate((8, 4, 3)):
        alone = DictionaryModel.on(dictionary[run], [run], n_heads=heads)
        one = Dictionary.stack([dictionary[run]])
        torch.testing.assert_close(floor(dictionary, together)[run], floor(one, alone)[0])
        torch.testing.assert_close(zeta(dictionary, together)[run], zeta(one, alone)[0])


def test_the_floor_is_where_training_w_alone_ends():
    dictionary = drawn(d=8)
    model = made(dictionary, n_heads=2)
    constants = rate(dictionary, model, 1.0, share=1.0)
    reached = lazy_excess(dictionary, model, constants.learning_rate, 200_000)
    torch.testing.assert_close(reached, floor(dictionary, model), rtol=1e-6, atol=1e-9)


def test_above_the_threshold_every_step_keeps_the_factor_and_q_hardly_moves():
    dictionary = drawn(d=8, n_tokens=8, n_prompt=3)
    model = made(dictionary, n_heads=64)
    start = model.Q.detach().clone()
    gamma = float(rate(dictionary, model, 1.0).threshold.max())
    constants = rate(dictionary, model, gamma)
    trainer = DictionaryTrainer(
        dictionary,
        model,
        DictionaryTraining(
            batch=0,
            optimizer="gd",
            learning_rate=tuple(constants.learning_rate.tolist()),
            gamma=gamma,
            n_test=0,
            every=1,
        ),
    )
    found = torch.stack([one.excess for one in trainer.run(200)])
    assert (found[1:] / found[:-1] <= constants.factor).all()
    assert (zeta(dictionary, model) >= constants.zeta / 2).all()
    assert 0 < (model.Q - start).abs().max() < 0.05
    # The bound is not idle: a factor of a tenth of the distance to 1 would be wrong somewhere.
    assert (found[-1] / found[-2] > 1 - 10 * (1 - constants.factor)).any()


def test_one_head_cannot_pass_its_floor_but_more_can():
    dictionary = drawn(d=8, n_tokens=10, n_prompt=6)
    least = one_head_floor(dictionary)
    reached = {}
    for n_heads in (1, 12):
        settings = DictionaryTraining(batch=0, learning_rate=0.03, n_test=0, every=1000)
        reached[n_heads] = (
            DictionaryTrainer(dictionary, made(dictionary, n_heads=n_heads), settings).run(1000)[-1].excess
        )
    assert (reached[1] >= least).all()
    assert (reached[12] < least).all()


def test_the_floor_of_operations_counts_the_four_products():
    n, k, d, h = 3, 7, 5, 2
    assert floor_operations(n, k, d, h) == 2 * (2 * n * h * d * d + 2 * n * h * d * k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 300, "n_draws": 200}, "more than the 200 draws"),
        ({"batch": -1}, "batch=-1"),
        ({"every": 0}, "every=0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"gamma": math.inf}, "gamma"),
        ({"learning_rate": (0.1, 0.2)}, "2 values of learning_rate do not fit 3 runs"),
    ],
)
def test_impossible_trainings_are_refused(options, message):
    dictionary = drawn()
    with pytest.raises(UserError, match=message):
        DictionaryTrainer(dictionary, made(dictionary), DictionaryTraining(**options))


def test_a_model_for_other_tokens_is_refused():
    with pytest.raises(UserError, match="other tokens"):
        DictionaryTrainer(drawn(), made(drawn(normalised=False)), DictionaryTraining())
    with pytest.raises(UserError, match="do not fit 3 runs"):
        DictionaryTrainer(drawn(2), made(drawn()), DictionaryTraining())
