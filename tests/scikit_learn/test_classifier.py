"""A run on classes behind scikit-learn's interface: its conventions, and answers that are the model's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.utils.estimator_checks import check_estimator

from iclens.errors import UserError
from iclens.models import debiased_gradient_step
from iclens.scikit_learn import InContextClassifier
from iclens.sweeps import Result, Store
from iclens.training import RunConfig, TrainedRun

N_CONTEXT = 30
RATE = 1.0


def step_run(d=20, n_classes=5, loss_kind="squared", n_context=N_CONTEXT, status="finished"):
    """Two softmax heads by hand that are a step of gradient descent with centred inputs, for small scores."""
    config = RunConfig.from_dict(
        {
            "task": {"name": "clusters", "d": d, "n_classes": n_classes},
            "model": {"name": "softmax-heads", "n_heads": 2},
            "training": {"n_context": n_context, "loss": "query", "loss_kind": loss_kind},
        }
    )
    weights = debiased_gradient_step(d, n_classes, 0.01, 50.0 * RATE).state_dict()
    return TrainedRun(config, {name: value[0] for name, value in weights.items()}, [], status, None, 0.0)


def blobs(n=N_CONTEXT, d=4, k=3, seed=0):
    draws = np.random.default_rng(seed)
    centres = 3 * np.eye(k, d)
    classes = np.arange(n) % k
    return centres[classes] + 0.3 * draws.normal(size=(n, d)), np.array(["one", "three", "two"])[classes]


# Checks fit contexts of many lengths, and a run that answers the query only was trained on one.
@pytest.mark.filterwarnings("ignore::iclens.scikit_learn.UnseenLengthWarning")
def test_a_stored_run_passes_every_check(tmp_path):
    run = step_run()
    Store(tmp_path).add(run.config, run.tensors, [(0, "loss", None, 1.0)], Result("finished", 1.0, last_finite_step=1))
    found = check_estimator(InContextClassifier(str(tmp_path), pad=True), on_skip=None, on_fail=None)
    assert len(found) > 40
    assert {one["check_name"]: one["exception"] for one in found if one["status"] not in ("passed", "skipped")} == {}


def test_classes_come_back_by_their_names():
    x, y = blobs()
    asked, truth = blobs(seed=1)
    fitted = InContextClassifier(step_run(d=4)).fit(x, y)
    assert fitted.classes_.tolist() == ["one", "three", "two"]
    assert (fitted.predict(asked) == truth).all()
    assert fitted.score(asked, truth) == 1.0


@pytest.mark.parametrize("loss_kind", ["squared", "cross-entropy"])
def test_probabilities_are_those_of_the_answers_prompt_by_prompt(loss_kind):
    x, y = blobs()
    fitted = InContextClassifier(step_run(d=4, loss_kind=loss_kind)).fit(x, y)
    asked = blobs(6, seed=1)[0]
    shown = np.eye(5)[[["one", "three", "two"].index(one) for one in y]]
    labels = torch.tensor(np.concatenate([shown, np.full((1, 5), np.pi)]))[None, None]
    for query, found in zip(asked, fitted.predict_proba(asked), strict=True):
        inputs = torch.tensor(np.concatenate([x, query[None]]))[None, None]
        answer = fitted.model_(inputs, labels)[0, 0, -1, :3].numpy()
        expected = softmax(answer) if loss_kind == "cross-entropy" else answer.clip(0) / answer.clip(0).sum()
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_another_order_of_the_demonstrations_gives_the_same_probabilities():
    x, y = blobs()
    order = np.random.default_rng(2).permutation(N_CONTEXT)
    asked = blobs(6, seed=1)[0]
    classifier = InContextClassifier(step_run(d=4))
    one = classifier.fit(x, y).predict_proba(asked)
    np.testing.assert_allclose(classifier.fit(x[order], y[order]).predict_proba(asked), one, atol=1e-9)


def test_mistakes_are_refused_in_one_sentence():
    x, y = blobs()
    with pytest.raises(UserError, match="y has 3 classes, and the run was trained on 2 labels"):
        InContextClassifier(step_run(d=4, n_classes=2)).fit(x, y)
    with pytest.raises(UserError, match="X has 4 features, and the run was trained on 3: give 3"):
        InContextClassifier(step_run(d=3)).fit(x, y)
    with pytest.raises(UserError, match="diverged"):
        InContextClassifier(step_run(d=4, status="diverged")).fit(x, y)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        InContextClassifier(step_run(d=4)).fit(x, x[:, 0])
