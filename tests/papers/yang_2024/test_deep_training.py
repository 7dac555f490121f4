import torch

from iclens.papers.yang_2024.closed_forms import optimum
from iclens.papers.yang_2024.deep_model import DeepDictionaryModel
from iclens.papers.yang_2024.deep_training import DeepDictionaryTrainer
from iclens.papers.yang_2024.task import Dictionary
from iclens.papers.yang_2024.training import DictionaryTraining


def drawn(n_runs=2):
    return Dictionary.stack([Dictionary.draw(4, 2, 7, 3, 0.1, seed, normalised=True) for seed in range(n_runs)])


def trainer(dictionary, seeds, every=5):
    model = DeepDictionaryModel(dictionary, seeds, n_layers=2, n_heads=2, width=8, inner_width=8)
    settings = DictionaryTraining(batch=16, n_draws=64, n_test=20, learning_rate=0.01, every=every)
    return DeepDictionaryTrainer(dictionary, model, settings, seeds)


def test_a_run_learns_as_it_would_alone():
    dictionary = drawn()
    many = trainer(dictionary, (3, 4)).run(60)
    alone = Dictionary.stack([dictionary[1]])
    one = trainer(alone, (4,)).run(60)
    assert [found.step for found in many] == list(range(0, 61, 5))
    for found, expected in zip(many[1:], one[1:], strict=True):
        torch.testing.assert_close(found.loss[1], expected.loss[0], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.shifted[1], expected.shifted[0], rtol=1e-6, atol=1e-9)
    assert (many[-1].loss < 0.8 * many[1].loss).all()
    assert (many[-1].in_domain < 0.8 * many[0].in_domain).all()


def test_it_goes_on_until_both_the_steps_and_the_time_are_used_up():
    by_steps = trainer(drawn(), (0, 1), every=4).run(6, seconds=0.0)
    assert [found.step for found in by_steps] == [0, 4, 6]
    by_clock = trainer(drawn(), (0, 1), every=10).run(1, seconds=0.2)
    assert by_clock[-1].seconds >= 0.2
    assert by_clock[-1].step > 1


def test_measurements_compare_with_ridge_over_the_features():
    dictionary = drawn()
    made = trainer(dictionary, (0, 1))
    found = made.measure()
    tests = made._stream.tests
    for shifted, gap in ((False, found.in_domain), (True, found.shifted)):
        shown = tests[shifted][..., :3]
        difference = made.model.answers(shown) - shown @ optimum(dictionary)
        torch.testing.assert_close(gap, difference.square().mean((1, 2)).detach())
    draws = made._stream.draws
    torch.testing.assert_close(
        found.loss, (made.model.answers(draws[..., :3]) - draws).square().mean((1, 2)).detach() / 2
    )
