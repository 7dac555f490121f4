"""A run behind scikit-learn's interface: its conventions, and answers that are the model's own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from iclens.errors import UserError
from iclens.models import gradient_step
from iclens.scikit_learn import InContextRegressor, UnseenLengthWarning
from iclens.sweeps import Result, Store
from iclens.training import RunConfig, TrainedRun, train

N_CONTEXT = 40


def step_run(d=20, d_y=1, n_context=N_CONTEXT, learning_rate=1.0, loss_kind="squared", status="finished"):
    """A run whose weights are one step of gradient descent with η/N, written by hand."""
    config = RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": d, "d_y": d_y},
            "model": {"name": "linear-attention"},
            "training": {"n_context": n_context, "loss": "query", "loss_kind": loss_kind},
        }
    )
    weights = gradient_step(d, d_y, n_context, learning_rate).state_dict()
    tensors = {name: value[0] for name, value in weights.items()}
    return TrainedRun(config, tensors, [], status, None, 0.0)


@pytest.fixture(scope="module")
def trained():
    """Two layers of causal softmax attention that answer every prefix, trained for a moment."""
    config = RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 3},
            "model": {"name": "transformer", "n_layers": 2, "n_heads": 2, "width": 16, "ffn_width": 16},
            "training": {"steps": 20, "batch": 8, "n_context": 12, "evaluation_prompts": 4, "dtype": "float64"},
        }
    )
    return train([config])[0]


def data(n=12, d=3, m=7, outputs=(), seed=0):
    draws = np.random.default_rng(seed)
    return draws.normal(size=(n, d)), draws.normal(size=(n, *outputs)), draws.normal(size=(m, d))


FAILED_CHECKS = {
    "check_estimators_overwrite_params": "joblib hashes a tensor by its storage, so that a run differs from its copy"
}
"""What fails where the run is in memory, and why; nothing does where it is a folder."""


# Checks fit contexts of 1 to 200 points, and a run that answers the query only was trained on one length.
@pytest.mark.filterwarnings("ignore::iclens.scikit_learn.UnseenLengthWarning")
@parametrize_with_checks(
    [InContextRegressor(step_run(d=20, n_context=200), pad=True)], expected_failed_checks=lambda one: FAILED_CHECKS
)
def test_it_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::iclens.scikit_learn.UnseenLengthWarning")
def test_a_stored_run_passes_every_check(tmp_path):
    run = step_run(d=20, n_context=200)
    Store(tmp_path).add(run.config, run.tensors, [(0, "loss", None, 1.0)], Result("finished", 1.0, last_finite_step=1))
    found = check_estimator(InContextRegressor(str(tmp_path), pad=True), on_skip=None, on_fail=None)
    assert len(found) > 40
    assert [one["check_name"] for one in found if one["status"] not in ("passed", "skipped")] == []
    # Array interfaces other than NumPy's are only checked where SCIPY_ARRAY_API is set.
    assert {one["check_name"] for one in found if one["status"] == "skipped"} <= {"check_array_api_input"}


def test_a_run_that_is_a_gradient_step_answers_with_it():
    x, y, queries = data(N_CONTEXT, 5)
    answers = InContextRegressor(step_run(d=5, learning_rate=0.7)).fit(x, y).predict(queries)
    np.testing.assert_allclose(answers, 0.7 / N_CONTEXT * queries @ x.T @ y, rtol=1e-6)


def test_the_answers_are_those_of_the_model_prompt_by_prompt(trained):
    x, y, queries = data()
    fitted = InContextRegressor(trained).fit(x, y)
    for query, answer in zip(queries, fitted.predict(queries), strict=True):
        inputs = torch.tensor(np.concatenate([x, query[None]]))[None, None]
        labels = torch.tensor([*y, np.pi])[None, None, :, None]
        with torch.no_grad():
            assert float(fitted.model_(inputs, labels)[0, 0, -1, 0]) == pytest.approx(answer, abs=1e-12)


def test_an_answer_depends_on_no_other_query_and_a_long_context_is_answered_in_pieces(trained):
    x, y, queries = data(600, m=20)
    with pytest.warns(UnseenLengthWarning, match="600 demonstrations, and the run was trained on at most 12"):
        fitted = InContextRegressor(trained).fit(x, y)
    together = fitted.predict(queries)
    np.testing.assert_allclose(together, [fitted.predict(one[None])[0] for one in queries], atol=1e-12)


def test_without_positions_in_one_layer_the_order_of_demonstrations_is_nothing():
    x, y, queries = data(N_CONTEXT, 5)
    order = np.random.default_rng(1).permutation(N_CONTEXT)
    regressor = InContextRegressor(step_run(d=5))
    np.testing.assert_allclose(
        regressor.fit(x, y).predict(queries), regressor.fit(x[order], y[order]).predict(queries), atol=1e-12
    )


def test_every_column_of_labels_is_a_prompt_of_its_own_for_a_run_with_one_output(trained):
    x, y, queries = data(outputs=(3,))
    answers = InContextRegressor(trained).fit(x, y).predict(queries)
    assert answers.shape == (7, 3)
    for column in range(3):
        alone = InContextRegressor(trained).fit(x, y[:, column]).predict(queries)
        np.testing.assert_allclose(answers[:, column], alone, atol=1e-12)


def test_a_run_with_several_outputs_answers_them_together():
    x, y, queries = data(N_CONTEXT, 5, outputs=(2,))
    regressor = InContextRegressor(step_run(d=5, d_y=2)).fit(x, y)
    np.testing.assert_allclose(regressor.predict(queries), queries @ x.T @ y / N_CONTEXT, rtol=1e-6)
    with pytest.raises(UserError, match="trained for 2 outputs, and the columns of y are 1"):
        regressor.fit(x, y[:, 0])


def test_features_that_are_missing_are_zeros_when_they_may_be():
    x, y, queries = data(N_CONTEXT, 3)
    padded = InContextRegressor(step_run(d=5), pad=True).fit(x, y)
    zeros = [np.pad(part, ((0, 0), (0, 2))) for part in (x, queries)]
    full = InContextRegressor(step_run(d=5)).fit(zeros[0], y)
    np.testing.assert_allclose(padded.predict(queries), full.predict(zeros[1]), atol=1e-12)
    assert padded.n_features_in_ == 3


def test_a_run_of_a_store_and_its_folder_are_the_run_itself(trained, tmp_path):
    store = Store(tmp_path / "runs")
    key = trained.config.key()
    store.add(trained.config, trained.tensors, trained.metrics, Result("finished", 1.0, last_finite_step=20))
    x, y, queries = data()
    expected = InContextRegressor(trained).fit(x, y).predict(queries)
    for run in (store.load(key), tmp_path / "runs" / "runs" / key, str(tmp_path / "runs")):
        assert np.array_equal(InContextRegressor(run).fit(x, y).predict(queries), expected)


def test_it_is_cloned_pickled_and_searched_over(trained):
    x, y, queries = data(16)
    regressor = InContextRegressor(trained)
    copy = clone(regressor)
    with pytest.raises(NotFittedError):
        copy.predict(queries)
    fitted = copy.fit(x[:12], y[:12])
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict(queries), fitted.predict(queries))
    piped = make_pipeline(StandardScaler(), TransformedTargetRegressor(regressor, transformer=StandardScaler()))
    assert cross_val_score(piped, x, y, cv=4).shape == (4,)
    runs = [trained, step_run(d=3, n_context=12)]
    search = GridSearchCV(InContextRegressor(trained), {"run": runs}, cv=4, refit=False).fit(x, x[:, 0])
    assert search.best_params_["run"].config.model.name == "linear-attention"


@pytest.mark.parametrize("n", [N_CONTEXT - 1, N_CONTEXT + 1])
def test_a_run_that_answers_the_query_only_was_trained_on_one_length(n):
    x, y, _ = data(n, 5)
    with pytest.warns(UnseenLengthWarning, match=f"{n} demonstrations, and the run was trained on exactly 40"):
        InContextRegressor(step_run(d=5)).fit(x, y)


def test_a_context_of_the_trained_length_or_a_shorter_prefix_warns_of_nothing(trained):
    for n in (1, 12):
        InContextRegressor(trained).fit(*data(n)[:2])
    InContextRegressor(step_run(d=5)).fit(*data(N_CONTEXT, 5)[:2])


def test_mistakes_are_refused_in_one_sentence(trained, tmp_path):
    x, y, _ = data()
    wide = np.zeros((12, 4))
    with pytest.raises(UserError, match="X has 4 features, and the run was trained on 3: give 3"):
        InContextRegressor(trained).fit(wide, y)
    with pytest.raises(UserError, match="X has 2 features, and the run was trained on 3: give 3, or set pad=True"):
        InContextRegressor(trained).fit(x[:, :2], y)
    with pytest.raises(ValueError, match="X has 2 features, but InContextRegressor is expecting 3"):
        InContextRegressor(trained).fit(x, y).predict(x[:, :2])
    with pytest.raises(UserError, match="diverged"):
        InContextRegressor(step_run(d=3, status="diverged")).fit(x, y)
    with pytest.raises(UserError, match="which InContextClassifier takes"):
        InContextRegressor(step_run(d=3, loss_kind="cross-entropy")).fit(x, y)
    with pytest.raises(UserError, match="there is no run in"):
        InContextRegressor(tmp_path).fit(x, y)
    with pytest.raises(UserError, match="run=3 is no run"):
        InContextRegressor(3).fit(x, y)
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        InContextRegressor(trained, device="tpu").fit(x, y)


def test_a_store_of_several_runs_asks_for_one(trained, tmp_path):
    store = Store(tmp_path)
    for run in (trained, step_run(d=3)):
        store.add(run.config, run.tensors, [(0, "loss", None, 1.0)], Result("finished", 1.0, last_finite_step=1))
    with pytest.raises(UserError, match="a store of 2 runs: give the folder of one"):
        InContextRegressor(tmp_path).fit(*data()[:2])


def test_more_demonstrations_than_positions_are_refused():
    config = RunConfig.from_dict(
        {
            "task": {"name": "linear", "d": 3},
            "model": {"name": "transformer", "width": 8, "positions": "learned", "max_points": 5},
            "training": {"steps": 1, "batch": 2, "n_context": 4, "evaluation_prompts": 2},
        }
    )
    with pytest.raises(UserError, match="positions for 5 points and the prompt has 13"):
        InContextRegressor(train([config])[0]).fit(*data()[:2])


def test_numbers_that_the_model_cannot_carry_are_refused(trained):
    X, y, queries = data()
    fitted = InContextRegressor(trained).fit(1e200 * X, y)
    with pytest.raises(UserError, match=r"answers are not finite: numbers in X or y are too large for it\. Scale them"):
        fitted.predict(queries)
